"""A draft head for SmolLM2 trained here, and the tokens of a forward pass that it comes to over its training.

    python -m benchmarks.draft_training prepare FOLDER     the model, prompts, and the model's own answers to them
    python -m benchmarks.draft_training train FOLDER       the training, with a copy of the head at every save
    python -m benchmarks.draft_training measure FOLDER     each copy in the engine, on prompts about other modules

Answers, training and measuring are what `llama3-mlx draft train --regenerate` and `llama3-mlx generate --draft` do.
Each step continues what is there already. Tokens of a pass are those of the engine with drafts of up to four tokens
that cost nothing: of the head alone, and with prompt lookup beside it, as in use. Every greedy answer is compared with
that of plain decoding.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.draft_prompts import prompts
from benchmarks.tables import parser, publish
from llama3_mlx import Llama
from llama3_mlx.finetune import Callback, DraftSettings, train_draft
from llama3_mlx.finetune.data.sources import as_sources
from llama3_mlx.finetune.distributed import rank
from llama3_mlx.finetune.drafting.regeneration import regenerate
from llama3_mlx.speculation import Costs, LookupDrafter, eagle_speculator
from tests.support.smollm2 import save_smollm2

MODEL, PROMPTS, RUN, COPIES, MEASURED = "model", "prompts", "head", "copies", "measured.json"
VALID, MEASURED_PROMPTS, LONGEST_DRAFT = 48, 16, 4
ANSWERS = {"greedy": 0.0, "sampled": 0.7}
# How the copies are measured: the temperature, and whether prompt lookup drafts, too.
MEASURED_WAYS = {"greedy": (0.0, False), "sampled": (0.7, False), "with lookup": (0.0, True)}


class Copies(Callback):
    """Copies the head at every save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_save(self, step: int) -> None:
        place = self.folder / COPIES / f"{step:06d}"
        # Of several processes, the first one saves.
        if rank() == 0 and not place.exists():
            shutil.copytree(self.folder / RUN / "last", place)


def prepare(folder: Path, n: int, tokens: int) -> None:
    """Make the model and have it answer the prompts, a half of them greedily."""
    if not (folder / MODEL / "config.json").exists():
        save_smollm2(folder / MODEL)
    asked = prompts(held_out=False, n=n)
    held_out = prompts(held_out=True, n=VALID)
    with Llama.load(folder / MODEL, dtype="float32", disk_cache=False, max_sequences=64) as llama:
        for number, (way, temperature) in enumerate(ANSWERS.items()):
            settings = DraftSettings(answer_tokens=tokens, temperature=temperature)
            data = as_sources([dialog(text) for text in asked[number::2]])
            valid = as_sources([dialog(text) for text in held_out[number::2]])
            regenerate(llama, data, valid, folder / PROMPTS / way, settings, partial(print, way, flush=True))


def dialog(text: str) -> dict[str, Any]:
    """A dialog whose answer is the model's to give."""
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "…"}]}


def train(folder: Path, steps: int, rate: float, draft_steps: int, vocabulary: int, batch: int) -> None:
    """Train, or continue training."""
    sources = [folder / PROMPTS / way for way in answered(folder)]
    result = train_draft(
        folder / MODEL,
        sources,
        folder / RUN,
        resume=(folder / RUN / "resume.safetensors").exists(),
        callbacks=[Copies(folder)],
        steps=steps,
        learning_rate=rate,
        draft_steps=draft_steps,
        vocabulary=vocabulary,
        max_length=384,
        row_length=384,
        batch_size=batch,
        valid_every=max(1, steps // 4),
        save_every=max(1, steps // 12),
        dtype="float32",
    )
    print(result)


@dataclass
class Tally:
    """Sums over the measured prompts."""

    tokens: int = 0
    passes: int = 0
    equal: int = 0
    answers: int = 0

    @property
    def per_pass(self) -> float:
        return self.tokens / self.passes


def measure(folder: Path, tokens: int, every: int) -> dict[str, dict[str, float]]:
    """Return for each copied head, by its step, the tokens of a forward pass; what was measured is kept."""
    eagle_speculator._MAX_LENGTH = LONGEST_DRAFT
    path = folder / MEASURED
    found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    texts = prompts(held_out=True, n=VALID + MEASURED_PROMPTS)[VALID:]
    copies = sorted((folder / COPIES).iterdir())
    chosen = copies[::-1][::every]
    plain: list[tuple[int, ...]] = []
    for copy in chosen:
        if copy.name in found:
            continue
        with Llama.load(folder / MODEL, draft=copy, dtype="float32", disk_cache=False) as llama:
            llama.engine.speculators.assume(Costs(verify=0.0))
            if not plain:
                plain = [answer(llama, text, tokens, 0.0, speculate=False)[0] for text in texts]
            line: dict[str, float] = {}
            for way, (temperature, with_lookup) in MEASURED_WAYS.items():
                tally = Tally()
                for text, expected in zip(texts, plain, strict=True):
                    with nullcontext() if with_lookup else no_lookup():
                        ids, passes = answer(llama, text, tokens, temperature, speculate=True)
                    tally.tokens, tally.passes = tally.tokens + len(ids), tally.passes + passes
                    tally.equal, tally.answers = tally.equal + (ids == expected), tally.answers + 1
                line[way] = tally.per_pass
                line[f"{way} equal"] = tally.equal / tally.answers
        found[copy.name] = line
        path.write_text(json.dumps(found, indent=1))
        print(copy.name, line)
    return found


@contextmanager
def no_lookup() -> Iterator[None]:
    """Have prompt lookup propose nothing."""
    before = LookupDrafter.draft
    LookupDrafter.draft = lambda *_, **__: []  # type: ignore[method-assign]
    try:
        yield
    finally:
        LookupDrafter.draft = before  # type: ignore[method-assign]


def answer(llama: Llama, text: str, tokens: int, temperature: float, *, speculate: bool) -> tuple[tuple[int, ...], int]:
    """Return an answer's tokens and the forward passes that it took."""
    messages = [{"role": "user", "content": text}]
    done = llama.chat(messages, max_tokens=tokens, temperature=temperature, seed=1, speculate=speculate)
    return done.token_ids, done.passes


def report(folder: Path, found: dict[str, dict[str, float]], tokens: int, write: bool) -> None:
    """Publish the table: a row for each validation of the run and each measured copy."""
    lines = [json.loads(line) for line in (folder / RUN / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    checks = {line["step"]: line for line in lines if line["kind"] == "validation"}
    measured = {int(name): figures for name, figures in found.items()}
    rows = []
    for step in sorted({*checks, *measured}):
        done = [line for line in steps if line["step"] <= step]
        simulated, figures = checks.get(step, {}), measured.get(step, {})
        rows.append(
            [
                f"{step:,}",
                f"{sum(line['target_tokens'] for line in done):,}",
                f"{sum(line['seconds'] for line in done) / 60:.0f}",
                *(
                    f"{source[name]:.2f}" if name in source else "–"
                    for source, name in (
                        (simulated, "loss"),
                        (simulated, "greedy acceptance 1"),
                        (simulated, "greedy tokens a pass"),
                        (simulated, "sampled tokens a pass"),
                        (figures, "greedy"),
                        (figures, "sampled"),
                        (figures, "with lookup"),
                    )
                ),
                f"{figures['greedy equal']:.0%}" if figures else "–",
            ]
        )
    settings = json.loads((folder / RUN / "run.json").read_text())["settings"]
    counted = ", ".join(f"{n:,} {way}" for way, n in answered(folder).items())
    validated = sum(answered(folder, "valid").values())
    note = (
        f"SmolLM2-135M-Instruct in float32; a head of {settings['vocabulary']:,} tokens, trained on the model's own "
        f"answers ({counted}) to questions about documentation texts of Python's standard library, with "
        f"{settings['draft_steps']} drafted tokens a position, on one shared core of a cloud machine. Tokens a forward "
        f"pass on {MEASURED_PROMPTS} prompts about other modules, answers of up to {tokens} tokens, drafts of up to "
        f"{LONGEST_DRAFT}; simulated, at every position of {validated} answers about these modules, half of them "
        "greedy, sampled at temperature 1. Minutes are those of one core of a busy machine."
    )
    header = [
        "step", "learned tokens", "minutes", "validation loss", "first draft right", "simulated: greedy",
        "simulated: sampled", "greedy", "temperature 0.7", "greedy, with prompt lookup", "greedy texts equal to plain",
    ]  # fmt: skip
    publish("Training a draft head", header, rows, note, write)


def answered(folder: Path, split: str = "train") -> dict[str, int]:
    """Return how many answers there are of each way; where preparing was broken off, not of all."""
    files = {way: folder / PROMPTS / way / f"{split}.jsonl" for way in ANSWERS}
    return {way: len(file.read_bytes().splitlines()) for way, file in files.items() if file.exists()}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(__doc__)
    arguments.add_argument("action", choices=("prepare", "train", "measure"))
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--answers", type=int, default=1600, help="prompts that the model answers (%(default)s)")
    arguments.add_argument("--tokens", type=int, default=160, help="tokens of an answer at most (%(default)s)")
    arguments.add_argument("--steps", type=int, default=1200, help="steps of training (%(default)s)")
    arguments.add_argument("--rate", type=float, default=1e-3, help="learning rate (%(default)s)")
    arguments.add_argument("--batch", type=int, default=1, help="rows of 384 tokens a step (%(default)s)")
    arguments.add_argument("--draft-steps", type=int, default=4, help="drafted tokens trained (%(default)s)")
    arguments.add_argument("--vocabulary", type=int, default=8192, help="tokens that the head drafts (%(default)s)")
    arguments.add_argument(
        "--every", type=int, default=1, help="measure every n-th copy, from the last back (%(default)s)"
    )
    args = arguments.parse_args(argv)
    began = time.perf_counter()
    if args.action == "prepare":
        prepare(args.folder, args.answers, args.tokens)
    elif args.action == "train":
        train(args.folder, args.steps, args.rate, args.draft_steps, args.vocabulary, args.batch)
    else:
        report(args.folder, measure(args.folder, args.tokens, args.every), args.tokens, args.write)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
