"""Fine-tuning presets after llama-recipes: samsum, alpaca, grammar, and data of your own, from the file to answers.

    python -m examples.recipes.finetune samsum train.json OUT
    python -m examples.recipes.finetune alpaca alpaca_data.json OUT
    python -m examples.recipes.finetune grammar jfleg.csv OUT
    python -m examples.recipes.finetune own my_data.py:load OUT --question "…"

The file is one of that data set's form: samsum a JSON list of `dialogue` and `summary`, alpaca one of `instruction`,
`input` and `output`, grammar a CSV of `input` and `target`; own data are any source of `llama3-mlx train`, such as a
function in a file (own_data.py is one). A tenth of the data is held out; OUT keeps the step that was best on it,
OUT/last the last one. Printed are the losses and one answer. On the small model some hundred examples show; an 8B is
trained with `--model mlx-community/Meta-Llama-3.1-8B-Instruct-4bit`, and 1000 examples of samsum are a good evening
on a laptop.
"""

from dataclasses import dataclass
from pathlib import Path

from examples.recipes import arguments, run
from llama3_mlx import Llama
from llama3_mlx.finetune import Callback, StepReport, TrainResult, TrainSettings, ValidationReport, train


@dataclass(frozen=True)
class Preset:
    """What a data set needs: its layout, settings that suit its lengths, and a question to ask before and after."""

    layout: str
    settings: TrainSettings
    question: str


PRESETS = {
    "samsum": Preset(
        "samsum",
        TrainSettings(rank=8, alpha=32.0, dropout=0.05, learning_rate=1e-4, max_length=1024, valid_share=0.1),
        "Summarize this dialog:\nAnn: Tea at five?\nBen: Half past, I'm late.\nAnn: Fine.\n---\nSummary:\n",
    ),
    "alpaca": Preset(
        "alpaca",
        TrainSettings(rank=8, alpha=32.0, dropout=0.05, learning_rate=1e-4, max_length=512, valid_share=0.1),
        "Name three ways to save water at home.",
    ),
    "grammar": Preset(
        "grammar",
        TrainSettings(rank=8, alpha=32.0, dropout=0.05, learning_rate=1e-4, max_length=256, valid_share=0.1),
        "Correct this to standard English: She no went to the market yesterday.\n---\nCorrected: ",
    ),
    "own": Preset("auto", TrainSettings(valid_share=0.1), "What have you learned?"),
}


class Losses(Callback):
    """Keeps the losses on held-out data, and shows that the run goes on."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, report: StepReport) -> None:
        """Print every tenth of the run."""
        every = max(1, report.total_steps // 10)
        if report.step % every == 0 or report.step == report.total_steps:
            print(f"step {report.step} of {report.total_steps}: loss {report.loss:.3f}", flush=True)

    def on_validation(self, report: ValidationReport) -> None:
        """Take one."""
        self.losses.append(report.loss)


def finetune(
    preset: str,
    model: str | Path,
    data: str | Path,
    out: Path,
    *,
    steps: int | None = None,
    learning_rate: float | None = None,
) -> tuple[TrainResult, list[float]]:
    """Train an adapter; return the result and the losses on held-out data in their order."""
    chosen, losses = PRESETS[preset], Losses()
    settings = chosen.settings.with_values(layout=chosen.layout, steps=steps)
    if learning_rate is not None:
        settings = settings.with_values(learning_rate=learning_rate)
    return train(model, data, out, settings, callbacks=[losses]), losses.losses


def answer(model: str | Path, adapter: Path | None, question: str, max_tokens: int = 100) -> str:
    """Answer a question with or without the adapter."""
    with Llama.load(model, adapter=adapter) as llama:
        return llama.chat([{"role": "user", "content": question}], max_tokens=max_tokens, temperature=0).text.strip()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("preset", choices=tuple(PRESETS))
    parser.add_argument("data", help="file of the data set's form; for own data any source of llama3-mlx train")
    parser.add_argument("out", type=Path, help="folder of the adapter")
    parser.add_argument("--question", help="asked before and after (default: one that suits the data set)")
    parser.add_argument("--steps", type=int, help="in place of what the data's size makes")
    parser.add_argument("--learning-rate", type=float, help="in place of the preset's")
    args = parser.parse_args()
    question = args.question or PRESETS[args.preset].question
    print(f"> {question}\nbefore: {answer(args.model, None, question)}")
    changes = {"steps": args.steps, "learning_rate": args.learning_rate}
    result, losses = finetune(args.preset, args.model, args.data, args.out, **changes)
    best = f"{min(losses):.3f} at step {result.best_step}, which is kept"
    print(f"loss on held-out data: first {losses[0]:.3f}, best {best}, last {losses[-1]:.3f}")
    print(f"> {question}\nafter: {answer(args.model, args.out, question)}")
    if (last := args.out / "last").exists():
        print(f"by the last step, {last}: {answer(args.model, last, question)}")
    print(result.folder / "report.html")


if __name__ == "__main__":
    run(main)
