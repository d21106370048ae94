"""What this package is, shown on a small model in two minutes: convert, ask, fine-tune, structured output.

    python -m examples.tour SOURCE

converts the weights in SOURCE (a folder or a GGUF file) to 4 bits into the home folder, and trains an adapter beside
them. `scripts/demo` calls it with a model that a package ships.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from llama3_mlx import Llama
from llama3_mlx.convert import convert, measure
from llama3_mlx.finetune import Callback, StepReport, train
from llama3_mlx.library.home import home_folder

EXAMPLES = Path(__file__).with_name("colors.jsonl")
QUESTION = "green in Italian?"
MODEL, ADAPTER = "SmolLM2-135M-Instruct-4bit", "tour-of-llama3-mlx"
_BAR = 40


class Tour:
    """The steps, each with a heading and what it prints."""

    def __init__(self, source: Path, home: Path, console: Console) -> None:
        self.source, self.console = source, console
        self.model, self.adapter = home / "models" / MODEL, home / "adapters" / ADAPTER

    def run(self, *, steps: int = 24, answer_tokens: int = 60) -> tuple[str, str]:
        """Show everything; return the answers to QUESTION before and after fine-tuning."""
        self.convert()
        with Llama.load(self.model) as llama:
            self.ask(llama, answer_tokens)
            before = llama.chat(_message(QUESTION), max_tokens=12, temperature=0).text
            half = llama.config.num_hidden_layers // 2
        after = self.finetune(before, steps, layers=half)
        self.next_steps()
        return before, after

    def convert(self) -> None:
        """Convert the source, and say how near the result is to it."""
        self._heading("Convert to 4 bits")
        if self.model.exists():
            self.console.print(f"{self.model.name} is there from an earlier run.")
        else:
            with ConversionBar(self.console) as bar:
                report = convert(self.source, self.model, bits=4, group_size=32, embedding_bits=8, progress=bar)
            before, after = self.source.stat().st_size / 1e6, report.total_bytes / 1e6
            millions = report.parameters / 1e6
            self.console.print(
                f"source     {before:.0f} MB, {millions:.0f} million parameters, {self.source.name}", highlight=False
            )
            self.console.print(
                f"converted  [bold]{after:.0f} MB[/bold], {report.bits_per_weight:.2f} bits per weight; "
                f"{2 * millions:.0f} MB in 16 bits",
                highlight=False,
            )
        with self.console.status("comparing it with the source on text that is new to both"):
            distance = measure(self.model, self.source)
        self.console.print(
            f"distance   KL [bold]{max(0.0, distance['kl']):.4f}[/bold] nats per token; "
            f"the same next token in {distance['top1_agreement']:.0%} of places",
            highlight=False,
        )

    def ask(self, llama: Llama, answer_tokens: int) -> None:
        """Stream an answer, and constrain another to a list of choices."""
        self._heading("Ask it")
        self._user("Why is the sky blue?")
        stream = llama.stream_chat(_message("Why is the sky blue?"), max_tokens=answer_tokens)
        for piece in stream:
            self.console.print(piece.text, end="", style="green", markup=False, highlight=False)
        done = stream.completion
        self.console.print(
            f"\n[dim]prompt {done.prompt_tokens} tokens at {done.prompt_tokens_per_second:.0f}/s, "
            f"answer {len(done.token_ids)} tokens at {done.tokens_per_second:.1f}/s[/dim]"
        )
        self._heading("Structured output")
        question = "What is the capital of France?"
        self._user(question)
        choice = llama.chat(_message(question), choices=["Paris", "Rome", "Madrid"], max_tokens=8, temperature=0)
        self.console.print(
            f"{choice.text}  [dim](choices=['Paris', 'Rome', 'Madrid']: nothing else can be written)[/dim]"
        )

    def finetune(self, before: str, steps: int, *, layers: int) -> str:
        """Train an adapter on the last layers, draw its loss, and return the answer with it."""
        self._heading("Fine-tune it on eight examples")
        self._user(QUESTION)
        self._answer("before", before)
        began = time.perf_counter()
        # An earlier tour's adapter makes room; nobody else's has this name.
        shutil.rmtree(self.adapter, ignore_errors=True)
        train(
            self.model,
            EXAMPLES,
            self.adapter,
            steps=steps,
            learning_rate=1e-3,
            batch_size=1,
            row_length=128,
            layers=layers,
            samples=0,
            callbacks=[LossChart(self.console, steps)],
        )
        self.console.print(f"[dim]{steps} steps in {time.perf_counter() - began:.0f} s[/dim]")
        with Llama.load(self.model, adapter=self.adapter) as llama:
            after = llama.chat(_message(QUESTION), max_tokens=12, temperature=0).text
        self._user(QUESTION)
        self._answer("after", after)
        self.console.print(f"The run's report: {self.adapter / 'report.html'}", soft_wrap=True)
        return after

    def next_steps(self) -> None:
        """Say what to type next."""
        self._heading("Next")
        for command, what in (
            ("llama3-mlx chat", "talk with this model"),
            (f"llama3-mlx chat --adapter {ADAPTER}", "with the adapter"),
            ("llama3-mlx serve", "a page at http://127.0.0.1:8080, and OpenAI's, Ollama's, Anthropic's API"),
            ("llama3-mlx chat -m mlx-community/Llama-3.2-3B-Instruct-4bit", "a Llama 3"),
        ):
            self.console.print(f"[bold].venv/bin/{command}[/bold]\n    {what}", soft_wrap=True, highlight=False)

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left")

    def _user(self, text: str) -> None:
        self.console.print(f"> {text}", markup=False, highlight=False)

    def _answer(self, when: str, text: str) -> None:
        self.console.print(f"[dim]{when}:[/dim] ", end="")
        self.console.print(text, style="green", markup=False, highlight=False)


class ConversionBar:
    """A conversion's progress as one bar of bytes."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("converting", total=None)

    def __enter__(self) -> "ConversionBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, name: str) -> None:
        """Show another part of the work."""
        self._progress.update(self._task, description=name)

    def start(self, total_tensors: int, total_bytes: int) -> None:
        """Take the size of the job."""
        self._progress.update(self._task, description="converting", total=total_bytes)

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        """Move on by the bytes read."""
        self._progress.advance(self._task, n_bytes)


class LossChart(Callback):
    """Draws one bar for every few steps, as long as the loss is high."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._every = console, max(1, steps // 10)
        self._losses: list[float] = []
        self._highest = 0.0

    def on_step(self, report: StepReport) -> None:
        """Print the mean loss of the steps since the last bar."""
        self._losses.append(report.loss)
        if len(self._losses) < self._every and report.step < report.total_steps:
            return
        mean = _mean(self._losses)
        self._highest = max(self._highest, mean)
        bar = "█" * max(1, round(_BAR * mean / self._highest))
        self._console.print(f"step {report.step:>3}  loss {mean:5.2f}  [cyan]{bar}[/cyan]", highlight=False)
        self._losses.clear()


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    source = Path(sys.argv[1]).expanduser()
    Tour(source, home_folder(), Console()).run()


if __name__ == "__main__":
    main()
