"""Fine-tuning against mlx-lm: the same model, data, adapter and batch size, one process each, one epoch each.

Cases: dialogs with half of the tokens as targets; text with all of them; dialogs of 20 to 400 tokens. The rate counts
the target tokens, each once. Both sides compute in float32 and begin to count after the first step.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.finetune_data import make_data, make_model
from benchmarks.processes import run
from benchmarks.tables import parser, publish

BATCH, RANK, ALPHA = 4, 8, 160.0
CASES = {"dialogs": "half of the tokens are targets", "text": "all tokens are targets", "mixed": "20 to 400 tokens"}


def ours(model: Path, data: Path, out: Path, row: int) -> dict[str, float]:
    """Train by this package; return seconds, target tokens and peak memory after the first step."""
    import mlx.core as mx

    from llama3_mlx.finetune import Callback, StepReport, TrainSettings, train

    reports: list[StepReport] = []

    class Keep(Callback):
        def on_step(self, report: StepReport) -> None:
            reports.append(report)

    settings = TrainSettings(
        rank=RANK, alpha=ALPHA, batch_size=1, accumulate=BATCH, row_length=row, epochs=1, learning_rate=1e-5, warmup=0,
        schedule="constant", samples=0, report=False, save_every=10_000, dtype="float32", max_length=2048,
        checkpointing="none",
    )  # fmt: skip
    train(model, data / "train.jsonl", out, settings, callbacks=[Keep()])
    assert mx.get_peak_memory() > 0
    timed = reports[1:]
    return {
        "seconds": sum(report.seconds for report in timed),
        "targets": sum(report.target_tokens for report in timed),
        "peak_bytes": max(report.peak_bytes for report in reports),
        "first_loss": reports[0].loss,
    }


def theirs(model: Path, data: Path, out: Path, masked: bool) -> dict[str, float]:
    """Train by mlx-lm's own loop; return the same."""
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx_lm.tuner import trainer
    from mlx_lm.tuner.datasets import CacheDataset, load_local_dataset
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load

    class Keep(trainer.TrainingCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.marks: list[tuple[float, dict[str, Any]]] = []

        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            self.marks.append((time.perf_counter(), train_info))

    loaded, tokenizer = load(str(model))[:2]
    loaded.set_dtype(mx.float32)
    loaded.freeze()
    linear_to_lora_layers(loaded, 64, {"rank": RANK, "scale": ALPHA / RANK, "dropout": 0.0})

    class Config:
        mask_prompt = masked

    examples, _, _ = load_local_dataset(data, tokenizer, Config())
    keep = Keep()
    out.mkdir()
    arguments = trainer.TrainingArgs(
        batch_size=BATCH, iters=len(examples) // BATCH, val_batches=0, steps_per_report=1, steps_per_eval=10_000,
        steps_per_save=10_000, max_seq_length=2048, adapter_file=str(out / "adapters.safetensors"),
    )  # fmt: skip
    trainer.train(loaded, optim.AdamW(1e-5), CacheDataset(examples), None, args=arguments, training_callback=keep)
    first, last = keep.marks[0], keep.marks[-1]
    return {
        "seconds": last[0] - first[0],
        "targets": last[1]["trained_tokens"] - first[1]["trained_tokens"],
        "peak_bytes": mx.get_peak_memory(),
        "first_loss": first[1]["train_loss"],
    }


def side(arguments: list[str]) -> None:
    """Run one side in this process and print its figures."""
    name, model, data, out, case, row = arguments
    if name == "ours":
        found = ours(Path(model), Path(data), Path(out), int(row))
    else:
        found = theirs(Path(model), Path(data), Path(out), masked=case != "text")
    found["rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print("\n" + json.dumps(found))


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--side":
        side(sys.argv[2:])
        return
    arguments = parser(__doc__)
    arguments.add_argument("--models", nargs="+", default=["wide", "smollm2"], choices=["wide", "smollm2"])
    arguments.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    arguments.add_argument("--examples", type=int, default=24, help="examples of a case (mixed: four times as many)")
    arguments.add_argument("--row", type=int, default=512, help="tokens of our rows")
    args = arguments.parse_args()
    rows = []
    for model in args.models:
        for case in args.cases:
            rows.append(measured(model, case, args.examples * (4 if case == "mixed" else 1), args.row))
            print(rows[-1], file=sys.stderr)
    header = ["model", "data", "target tokens/s", "mlx-lm", "ratio", "peak GB", "mlx-lm", "ratio", "RSS ratio"]
    note = (
        f"LoRA of rank {RANK} on all linear layers, {BATCH} examples or rows per step, float32, one epoch in a process "
        "each. Ours takes the rows of a step one after another (`--batch-size 1 --accumulate 4`), which gives the "
        "same gradient; mlx-lm takes them at once. mlx-lm's loss counts one padding token per row as a target; its "
        "rate is by its own count."
    )
    publish("Fine-tuning", header, rows, note, args.write)


def measured(model: str, case: str, examples: int, row: int) -> list[str]:
    """Run both sides on a case and return the row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_model(model, folder / "model")
        data = make_data(case, path, folder / "data", examples)
        found = []
        for who in ("ours", "theirs"):
            command = ["python", "-m", "benchmarks.finetune", "--side", who, str(path), str(data), str(folder / who)]
            output = run([*command, case, str(row)]).output
            found.append(json.loads(output.strip().rpartition("\n")[2]))
    mine, other = found
    rates = [one["targets"] / one["seconds"] for one in found]
    return [
        model, f"{case}: {CASES[case]}", f"{rates[0]:.0f}", f"{rates[1]:.0f}", f"{rates[0] / rates[1]:.2f}",
        f"{mine['peak_bytes'] / 1e9:.2f}", f"{other['peak_bytes'] / 1e9:.2f}",
        f"{mine['peak_bytes'] / other['peak_bytes']:.2f}", f"{mine['rss_bytes'] / other['rss_bytes']:.2f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
