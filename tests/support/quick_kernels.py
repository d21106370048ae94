"""A shorter way to what MLX compiles for the CPU with g++, kernel by kernel: nearly all of it is one and the same file.

That header is compiled before, and MLX finds a g++ that looks for it there first.
"""

import os
import shutil
import subprocess
from pathlib import Path

import mlx.core as mx

_HEADER = "mlx/backend/cpu/compiled_preamble.h"
# Those that MLX compiles its kernels with: only then g++ takes the header.
_FLAGS = ("-std=c++17", "-O3", "-fPIC")


def quick_path(folder: Path) -> str:
    """Return a PATH with that g++, made in `folder`; the PATH as it is where there is no g++ or no such header."""
    path = os.environ.get("PATH", "")
    compiler, include = shutil.which("g++"), Path(mx.__file__).parent / "include"
    if compiler is None or not (include / _HEADER).exists():
        return path
    compiled = folder / f"{_HEADER}.gch"
    compiled.parent.mkdir(parents=True)
    command = [compiler, *_FLAGS, "-w", "-I", str(include), "-x", "c++-header", str(include / _HEADER)]
    subprocess.run([*command, "-o", str(compiled)], check=True)
    script = folder / "g++"
    script.write_text(f'#!/bin/sh\nexec "{compiler}" -I "{folder}" "$@" -O1\n')
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{path}"
