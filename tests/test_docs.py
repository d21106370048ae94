"""The guides are true: links lead somewhere, commands parse, Python runs, and what must be listed is listed."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import llama3_mlx
from llama3_mlx import cli, convert, errors, evaluation, finetune, safety
from llama3_mlx.cli import chat_commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
GUIDES = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]
EMBEDDED = "SmolLM2-135M-Instruct-4bit"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Return the arguments of every `llama3-mlx` of a page: in blocks of shell lines, and in the text."""
    joined = "\n".join(blocks(path, "sh")).replace("\\\n", " ")
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    inline = [
        code for code in re.findall(r"`([^`]+)`", text.replace("\n", " ")) if not re.search("…|COMMAND|KEY", code)
    ]
    lines = [re.sub(r" <+ ?\S+| \|.*", "", line) for line in [*joined.splitlines(), *inline] if "llama3-mlx " in line]
    found = [shlex.split(line[line.index("llama3-mlx ") :], comments=True) for line in lines if "llama3-mlx " in line]
    calls = [words[1:] for words in found]
    return [call for call in calls if call and not call[0].startswith("-") and call[0] != "…"]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_commands_parse(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []
    for arguments in commands(path):
        if len(arguments) == 1 or "--help" in arguments:
            assert arguments[0] in cli.COMMANDS
        else:
            cli.parse(arguments)


def test_every_page_is_in_the_index() -> None:
    """In the index, or in that of its folder."""
    linked = set(re.findall(r"\]\(([^)#]+)", page("index.md")))
    clients = re.findall(r"\]\(([^)#/:]+\.md)", page("clients/index.md"))
    linked |= {f"clients/{name}" for name in clients}
    assert {str(path.relative_to(DOCS)) for path in PAGES} - {"index.md"} == linked


@pytest.fixture
def workplace(tiny_folder: Path, smollm2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the names that the guides use stand for models: a tiny one, and the embedded one at home."""
    for name in ("llama-3.2-3b-4bit", "MODEL"):
        (tmp_path / name).symlink_to(tiny_folder)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    models = tmp_path / ".llama3-mlx" / "models"
    models.mkdir(parents=True)
    (models / EMBEDDED).symlink_to(smollm2_folder)
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / ".llama3-mlx"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def run(code: str, folder: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if blocks(path, "python") and path.name not in ("quickstart.md", "embedding.md")],
    ids=lambda path: path.name,
)
def test_the_python_of_a_page_runs_from_top_to_bottom(path: Path, workplace: Path) -> None:
    """With a tiny random model in the place of a Llama 3."""
    code = "\n".join(blocks(path, "python"))
    run(re.sub(r"max_tokens=\d+", "max_tokens=4", code).replace("epochs=3", "steps=1, samples=0"), workplace)


def test_the_quickstart_answers_with_the_embedded_model(workplace: Path) -> None:
    output = run("\n".join(blocks(DOCS / "quickstart.md", "python")), workplace)
    assert output.count("Paris") >= 2


def test_the_commands_of_a_dialog_are_those_of_its_help() -> None:
    listed = set(re.findall(r"`(/\w+)", page("terminal.md")))
    assert listed == set(re.findall(r"^(/\w+)", chat_commands._HELP, re.MULTILINE)) | {"/help"}


def test_every_command_has_its_guide() -> None:
    table = page("reference/cli.md").partition("```")[0]
    rows = re.findall(r"^\| (`.+?`) \| \[", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(cli.COMMANDS)


def test_every_class_of_error_has_its_cause_and_way_out() -> None:
    classes = [name for name, value in vars(errors).items() if isinstance(value, type)]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.*) \|$", page("errors.md"), re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(classes)
    assert [name for name, cause, way_out in rows if not cause.strip() or not way_out.strip()] == []


def test_every_environment_variable_is_listed() -> None:
    sources = [path for folder in ("llama3_mlx", "convert", "scripts") for path in (ROOT / folder).rglob("*")]
    texts = [
        path.read_text(errors="ignore") for path in sources if path.is_file() and path.suffix in ("", ".py", ".js")
    ]
    used = {name for text in texts for name in re.findall(r"\bLLAMA3_MLX_[A-Z_]+\b", text)}
    assert set(re.findall(r"^\| `(LLAMA3_MLX_\w+)`", page("environment-variables.md"), re.MULTILINE)) == used


def test_every_public_name_is_in_the_reference() -> None:
    text = page("reference/python.md")
    names = set(re.findall(r"llama3_mlx\.(?:convert\.|evaluation\.|finetune\.|safety\.)?(\w+)", text)) | set(
        re.findall(r"`(\w+)`", text)
    )
    public = (
        {*llama3_mlx.__all__, *convert.__all__, *evaluation.__all__, *finetune.__all__, *safety.__all__}
        - set(vars(errors))
        - {"__version__"}
    )
    assert public - names == set()


def defined(path: Path, name: str) -> bool:
    """Whether a file has a class or function of that name."""
    return re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", path.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_modules_that_a_page_names_exist(path: Path) -> None:
    """In backticks and in the boxes of the diagrams; a box's second line is what it shows of the module."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`(\w[\w.-]*(?:/[\w.-]+)*/[\w-]+\.py)`", text)
    if path.name == "architecture.md":
        named += re.findall(r"`((?:\w+/)+)`", text)
    boxes = re.findall(r'\["([^"<]+)(?:<br/>([\w.]+))?"\]', text)
    places = [*named, *(module for module, _ in boxes)]
    assert [name for name in places if not module_path(name).exists()] == []
    shown = [(module, name.rpartition(".")[2]) for module, name in boxes if name]
    assert [pair for pair in shown if not defined(module_path(pair[0]), pair[1])] == []


def module_path(name: str) -> Path:
    inside = ROOT / "llama3_mlx" / name
    return inside if inside.exists() else ROOT / name


def test_every_room_says_what_is_in_it() -> None:
    """In the docstring of its `__init__.py`, by modules that exist."""
    wrong = []
    for path in [*(ROOT / "llama3_mlx").rglob("__init__.py"), *(ROOT / "convert").rglob("__init__.py")]:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        wrong += [str(path)] if not text else []
        names = re.findall(r"`([\w/]+\.py)`", text)
        wrong += [f"{path}: {name}" for name in names if not (path.parent / name).exists()]
    assert wrong == []


def test_extras_are_installed_by_the_same_words_everywhere() -> None:
    """The package isn't on PyPI: pip installs an extra from the clone, and one page says how uv and pipx do."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    files = [*GUIDES, *(path for name in ("llama3_mlx", "convert", "examples") for path in (ROOT / name).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    assert [path for path, text in texts.items() if "llama3-mlx[" in text] == []
    named = [name for text in texts.values() for name in re.findall(r'MissingExtraError\.of\(.*"(\w+)"\)', text)]
    assert len(named) >= 7
    assert set(named) <= set(extras)
    said = str(errors.MissingExtraError.of("x needs y", "eval"))
    page_named, anchor = re.search(r"docs/(\S+)#(\S+)", said).groups()  # type: ignore[union-attr]
    assert f"## {anchor.title()}" in page(page_named)
