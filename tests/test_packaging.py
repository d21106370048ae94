"""What is installed is what is here, and every file keeps to the project's rules."""

import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import llama3_mlx

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines()]


def test_every_package_is_listed() -> None:
    modules = [path.relative_to(ROOT) for path in tracked() if path.name == "__init__.py"]
    ours = {str(path.parent).replace("/", ".") for path in modules if path.parts[0] in ("llama3_mlx", "convert")}
    ours = {re.sub(r"^convert\b", "llama3_mlx.convert", name) for name in ours}
    assert ours == set(SETTINGS["tool"]["setuptools"]["packages"])


def test_the_changelog_names_this_version() -> None:
    assert f"## {llama3_mlx.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_installs_and_every_module_imports(tmp_path: Path) -> None:
    """In an environment that sees this one's dependencies, but not this folder."""
    source = tmp_path / "source"
    for path in tracked():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy, follow_symlinks=False)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    packaged = {name for name in names if name.endswith(".py")}
    folders = ("llama3_mlx", "convert")
    sources = [path.relative_to(ROOT) for path in tracked() if path.suffix == ".py"]
    expected = {re.sub(r"^convert/", "llama3_mlx/convert/", str(path)) for path in sources if path.parts[0] in folders}
    assert packaged == expected
    assert "llama3_mlx/py.typed" in names

    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    site = next((place / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    dependencies = Path(next(path for path in sys.path if path.endswith("site-packages")))
    links = [path for path in dependencies.iterdir() if "llama3_mlx" not in path.name]
    for path in links:
        if not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    modules = sorted(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in packaged)
    modules = [name for name in modules if not name.endswith("__main__")]
    code = f"""
import importlib
for name in {modules!r}:
    importlib.import_module(name)
import llama3_mlx
print(llama3_mlx.__file__)
"""
    result = subprocess.run(
        [place / "bin" / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(site))


def test_no_file_knows_a_machine() -> None:
    words = re.compile("/" + "root/|/" + "work/|/" + "home/[a-z]+/")
    known = [path for path in tracked() if path.is_file() and words.search(path.read_text(errors="ignore"))]
    assert known == []
