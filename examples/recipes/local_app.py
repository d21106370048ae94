r"""Fine-tune → merge → convert → quantize → local app, from data to a model in LM Studio, llama.cpp, Ollama and Jan.

    python -m examples.recipes.local_app examples/colors.jsonl OUT \
        --name llama-colors

    OUT/adapter                    the LoRA adapter, with its report
    OUT/merged                     the model with the adapter in its weights
    OUT/NAME.gguf, OUT/Modelfile   for llama.cpp, Jan and Ollama
    OUT/lmstudio/local/NAME        an MLX folder for LM Studio and this server

Steps that are done are skipped, so a run that was broken off goes on. docs/local-apps.md has what to do in each
application. The model has to be unquantized, so that it is rounded once, at the end; where the small one is 4-bit, its
merge keeps what the adapter did in finer matrices, and says how much. An 8B takes about 60 GB of disk on the way.
"""

from dataclasses import dataclass
from pathlib import Path

from examples.recipes import arguments, run
from examples.recipes.finetune import Losses
from llama3_mlx import Llama
from llama3_mlx.convert import ConversionReport, convert
from llama3_mlx.finetune import TrainSettings, fuse, train


@dataclass(frozen=True)
class Results:
    """Where everything lies."""

    out: Path
    name: str

    @property
    def adapter(self) -> Path:
        """The adapter's folder."""
        return self.out / "adapter"

    @property
    def merged(self) -> Path:
        """The merged model's folder."""
        return self.out / "merged"

    @property
    def gguf(self) -> Path:
        """The file for llama.cpp, Jan and Ollama."""
        return self.out / f"{self.name}.gguf"

    @property
    def modelfile(self) -> Path:
        """What `ollama create` reads."""
        return self.out / "Modelfile"

    @property
    def lmstudio(self) -> Path:
        """The MLX folder, in LM Studio's layout of publisher and model."""
        return self.out / "lmstudio" / "local" / self.name


def build(
    model: str | Path,
    data: str | Path,
    out: Path,
    name: str,
    *,
    settings: TrainSettings | None = None,
    gguf_type: str = "q4_k_m",
    bits: int = 4,
    group_size: int = 64,
) -> Results:
    """Take all steps that aren't done yet."""
    found = Results(out, name)
    if not (found.adapter / "adapters.safetensors").exists():
        print(f"training {found.adapter}", flush=True)
        train(model, data, found.adapter, settings, callbacks=[Losses()])
    if not found.merged.exists():
        report = fuse(model, found.adapter, found.merged)
        print(f"merged: {report.kept:.0%} of the adapter's effect is kept, measured on {report.measured_on}")
    if not found.gguf.exists():
        note(convert(found.merged, found.gguf, gguf_type=gguf_type))
    found.modelfile.write_text(f"FROM ./{found.gguf.name}\n", encoding="utf-8")
    if not found.lmstudio.exists():
        note(convert(found.merged, found.lmstudio, bits=bits, group_size=group_size))
    return found


def note(report: ConversionReport) -> None:
    """Print what was written, and what isn't as it was asked for."""
    print(f"{report.path}: {report.total_bytes / 1e6:.0f} MB", flush=True)
    for line in report.notes:
        print(f"  {line}", flush=True)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("data", help="any source of llama3-mlx train")
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="my-llama", help="what the model is called in the applications (%(default)s)")
    parser.add_argument("--gguf-type", default="q4_k_m", help="q8_0 for a small model (%(default)s)")
    parser.add_argument("--bits", type=int, default=4, help="of the MLX folder (%(default)s)")
    parser.add_argument("--group-size", type=int, default=64, help="of the MLX folder (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    args = parser.parse_args()
    settings = TrainSettings(learning_rate=args.learning_rate)
    sizes = {"gguf_type": args.gguf_type, "bits": args.bits, "group_size": args.group_size}
    found = build(args.model, args.data, args.out, args.name, settings=settings, **sizes)
    with Llama.load(found.lmstudio) as llama:
        print(f"> Hello!\n{llama.chat([{'role': 'user', 'content': 'Hello!'}], max_tokens=40).text}")
    print(f"LM Studio: copy {found.lmstudio.parent} into ~/.lmstudio/models")
    print(f"llama.cpp: llama-cli -m {found.gguf}\nJan: Settings > Model Providers > Llama.cpp > Import: {found.gguf}")
    print(f"Ollama: ollama create {found.name} -f {found.modelfile}")


if __name__ == "__main__":
    run(main)
