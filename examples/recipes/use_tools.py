r"""A question about a folder of files, answered by calling real functions.

    python -m examples.recipes.use_tools ~/Documents \
        "How many days are there between the two dates in plan.txt?"

The functions read, and only inside the folder. Their type hints and docstrings are all that the model gets to know.
The small model calls something, seldom the right thing; an 8B (Llama 3.1 or later) takes two or three calls in turn.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path

from examples.recipes import arguments, run
from llama3_mlx import Llama, ToolRun


def make_tools(folder: Path) -> list[Callable[..., object]]:
    """Return the functions that a model may call, on files of one folder."""
    root = folder.resolve()

    def inside(name: str) -> Path:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise PermissionError(name)
        return path

    def list_files() -> list[str]:
        """List the names of all files."""
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())[:100]

    def read_file(name: str) -> str:
        """Read the beginning of a text file.

        Args:
            name: One of the names that list_files returns.
        """
        try:
            return inside(name).read_text(encoding="utf-8", errors="replace")[:4000]
        except OSError as error:
            # What a tool returns, the model reads; what it raises would end the run.
            return f"can't be read: {error.strerror or 'outside the folder'}"

    def days_between(start: date, end: date) -> int:
        """Count the days from one date to another."""
        return (end - start).days

    return [list_files, read_file, days_between]


def ask(llama: Llama, folder: Path, question: str, *, max_rounds: int = 4, max_tokens: int = 300) -> ToolRun:
    """Answer a question about a folder's files."""
    dialog = [
        {"role": "system", "content": "Use the functions to look things up; then answer briefly."},
        {"role": "user", "content": question},
    ]
    return llama.run_tools(dialog, make_tools(folder), max_rounds=max_rounds, max_tokens=max_tokens, temperature=0)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("question")
    args = parser.parse_args()
    with Llama.load(args.model) as llama:
        run = ask(llama, args.folder.expanduser(), args.question)
    for call in run.calls:
        print(f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})")
    print(run.text)


if __name__ == "__main__":
    run(main)
