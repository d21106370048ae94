"""What is installed is what is here, and every file keeps to the project's rules."""

import json
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import llama3_mlx

from .support.installed_wheel import ROOT, Installed, tracked

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed() -> None:
    modules = [path.relative_to(ROOT) for path in tracked() if path.name == "__init__.py"]
    ours = {str(path.parent).replace("/", ".") for path in modules if path.parts[0] in ("llama3_mlx", "convert")}
    ours = {re.sub(r"^convert\b", "llama3_mlx.convert", name) for name in ours}
    assert ours == set(SETTINGS["tool"]["setuptools"]["packages"])


def test_the_table_of_extras_has_them_all() -> None:
    section = (ROOT / "docs" / "installation.md").read_text().split("## Extras")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == set(
        SETTINGS["project"]["optional-dependencies"]
    )


def test_the_changelog_names_this_version() -> None:
    assert f"## {llama3_mlx.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def package_files() -> dict[str, str]:
    """Return the tracked files of the packages: the path in the repository by that in an installation."""
    files = [path.relative_to(ROOT) for path in tracked() if not path.is_symlink()]
    ours = [str(path) for path in files if path.parts[0] in ("llama3_mlx", "convert")]
    return {re.sub(r"^convert/", "llama3_mlx/convert/", path): path for path in ours}


def test_the_wheel_holds_every_tracked_file_of_the_packages_and_no_other(installed: Installed) -> None:
    expected = package_files()
    data = {name for name in expected if not name.endswith(".py")}
    assert "llama3_mlx/py.typed" in data
    with zipfile.ZipFile(installed.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == set(expected)
        differing = [name for name in data if archive.read(name) != (ROOT / expected[name]).read_bytes()]
    assert differing == []


def test_the_sdist_holds_every_tracked_file_of_the_packages(installed: Installed) -> None:
    with tarfile.open(installed.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(package_files().values()) <= names


def test_the_sdist_holds_documentation_examples_scripts_and_tests(installed: Installed) -> None:
    with tarfile.open(installed.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("docs", "examples", "scripts", "tests", "benchmarks")
    files = [path.relative_to(ROOT) for path in tracked() if path.is_file()]
    expected = {str(path) for path in files if path.parts[0] in folders or path.suffix == ".md"}
    assert expected - names == set()


def test_the_wheel_and_its_description_pass_the_checks_of_pypi(installed: Installed) -> None:
    """As check-wheel-contents and twine see them."""
    for command in (["check_wheel_contents"], ["twine", "check", "--strict"]):
        result = subprocess.run(
            [sys.executable, "-m", *command, installed.wheel], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_links_of_the_description_are_absolute_and_lead_to_files(installed: Installed) -> None:
    """PyPI shows the README without the repository around it."""
    with zipfile.ZipFile(installed.wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
    assert [link for link in links if not link.startswith("https://")] == []
    ours = [re.match(r"https://[\w./-]+?/llama3-mlx/llama3-mlx/(?:blob/)?main/(.+)", link) for link in links]
    files = [match[1] for match in ours if match]
    assert len(files) > 5
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_every_module_imports_from_the_installed_wheel(installed: Installed, tmp_path: Path) -> None:
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in package_files()
        if name.endswith(".py") and not name.endswith("__main__.py")
    )
    code = f"""
import importlib
for name in {modules!r}:
    importlib.import_module(name)
import llama3_mlx
print(llama3_mlx.__file__)
"""
    result = installed.run("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(installed.site))


def documented_dependencies() -> set[str]:
    """Return what docs/installation.md installs in the place of all dependencies."""
    text = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    line = re.search(r"--no-deps \.\npip install (.+)", text.replace("\\\n", ""))
    assert line is not None
    return set(shlex.split(line[1]))


def test_the_documented_dependencies_are_all_but_mlx_lm() -> None:
    declared = {re.split(r"[>;]", entry)[0] for entry in SETTINGS["project"]["dependencies"]} - {"mlx[cpu]", "mlx-lm"}
    assert {re.split(r"[>;]", entry)[0] for entry in documented_dependencies()} == declared


def test_nothing_but_the_comparison_needs_mlx_lm_or_transformers(
    installed: Installed, tiny_folder: Path, tmp_path: Path
) -> None:
    """Every module imports, and converting, generating, chatting, training and serving work, where neither is there."""
    example = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(example)}\n" * 4)
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in package_files()
        if name.endswith(".py") and not name.endswith("__main__.py")
    )
    code = f"""
import importlib, os, sys
os.environ["LLAMA3_MLX_HOME"] = "home"
for name in ("mlx_lm", "transformers", "torch"):
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
from llama3_mlx import cli
for command in (
    ["convert", {str(tiny_folder)!r}, "model", "--bits", "4"],
    ["generate", "-m", "model", "-p", "Hi", "--max-tokens", "2"],
    ["train", "-m", "model", "-d", "data.jsonl", "-o", "adapter", "--steps", "1", "--samples", "0", "--quiet"],
    ["generate", "-m", "model", "--adapter", "adapter", "-p", "Hi", "--max-tokens", "2"],
):
    assert cli.main(command) == 0, command
"""
    result = installed.run("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_no_file_knows_a_machine() -> None:
    words = re.compile("/" + "root/|/" + "work/|/" + "home/[a-z]+/")
    known = [path for path in tracked() if path.is_file() and words.search(path.read_text(errors="ignore"))]
    assert known == []
