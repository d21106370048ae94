r"""One model in memory, several adapters: each question is put to all of them at once.

    python -m examples.recipes.several_adapters "red in Italian?" \
        --adapter colors=./colors --adapter terse=./terse

Answers with different adapters are decoded in one batch; an adapter takes some megabytes beside the model. For the
small model train one in a minute: `llama3-mlx train -m MODEL -d examples/colors.jsonl -o colors --learning-rate 1e-3`.
An 8B carries dozens, one for each customer or task.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.recipes import arguments, run
from llama3_mlx import Llama


async def ask_all(llama: Llama, question: str, *, max_tokens: int = 100) -> dict[str, str]:
    """Return the answer of the model by itself, as "", and that of each adapter."""
    names: Sequence[str | None] = (None, *llama.adapter_names)
    dialog = [{"role": "user", "content": question}]
    answers = [llama.achat(dialog, adapter=name, max_tokens=max_tokens, temperature=0) for name in names]
    done = await asyncio.gather(*answers)
    return {name or "": each.text for name, each in zip(names, done, strict=True)}


def compare(model: str | Path, adapters: Mapping[str, str | Path], question: str, **limits: int) -> dict[str, str]:
    """Load everything, and ask."""
    with Llama.load(model, adapters=adapters) as llama:
        return asyncio.run(ask_all(llama, question, **limits))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("question")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=FOLDER", help="may be given several times"
    )
    args = parser.parse_args()
    if unnamed := [each for each in args.adapter if "=" not in each]:
        parser.error(f"--adapter {unnamed[0]} has no name: give it as NAME=FOLDER")
    adapters = dict(each.split("=", 1) for each in args.adapter)
    for name, text in compare(args.model, adapters, args.question).items():
        print(f"{name or 'no adapter'}: {text}")


if __name__ == "__main__":
    run(main)
