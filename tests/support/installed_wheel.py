"""A wheel made from an sdist, installed where nothing of this folder is found."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines()]


@dataclass(frozen=True)
class Installed:
    """A wheel made from an sdist, and an environment that has it and this one's dependencies, but not this folder."""

    sdist: Path
    wheel: Path
    python: Path
    site: Path

    @property
    def command(self) -> Path:
        """The installed command."""
        return self.python.with_name("llama3-mlx")

    def run(
        self, *arguments: str | Path, cwd: Path, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python."""
        environment = self.environment(variables or {})
        return subprocess.run(
            [self.python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    @staticmethod
    def environment(variables: Mapping[str, str]) -> dict[str, str]:
        """Return this process's variables without the one that leads to this folder, and others."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(variables)


def install_wheel(place: Path) -> Installed:
    """Build sdist and wheel of the tracked files, and install the wheel, in this folder."""
    source, dist, environment = place / "source", place / "dist", place / "venv"
    for path in tracked():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy, follow_symlinks=False)
    # What running from the folder leaves there must not be packaged.
    for folder in ("llama3_mlx", "convert"):
        (source / folder / "__pycache__").mkdir()
        (source / folder / "__pycache__" / "left.cpython-311.pyc").touch()
    build = [sys.executable, "-m", "build", "--outdir", str(dist), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(dist.glob("*.whl"))
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    # What PYTHONPATH names may look installed to pip.
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(install, check=True, capture_output=True, env=outside)
    site = next((environment / "lib").glob("python*/site-packages"))
    # The .pth files of that environment are not read, so neither is the one that leads to this folder.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Installed(next(dist.glob("*.tar.gz")), wheel, python, site)
