"""OpenBLAS takes the place of the slow BLAS of MLX's Linux wheel, unless it is turned off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Mac computes on Accelerate")

PROGRAM = """
import llama3_mlx
from llama3_mlx.blas import blas_description
import mlx.core as mx
x = mx.random.normal((64, 64), key=mx.random.key(0))
print(float(mx.abs(x @ x - (x[:, :, None] * x[None]).sum(1)).max()) < 1e-4)
# What the product ran on: a library that isn't mapped can't have computed it.
print(any("openblas" in line for line in open("/proc/self/maps")))
print(blas_description())
"""


def run(program: str = PROGRAM, **changes: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "LLAMA3_MLX_BLAS")}
    result = subprocess.run(
        [sys.executable, "-c", program], env=kept | changes, capture_output=True, text=True, check=True
    )
    return [*result.stdout.splitlines(), result.stderr]


def installed() -> str | None:
    found = sorted(Path("/usr/lib").glob("*/openblas-pthread/libopenblas.so.0"))
    return str(found[0]) if found else None


def test_an_openblas_that_is_there_is_loaded_before_mlx() -> None:
    if installed() is None:
        pytest.skip("no OpenBLAS on this machine")
    right, mapped, description, errors = run()
    assert (right, mapped, errors) == ("True", "True", "")
    assert description.startswith("OpenBLAS ")


def test_a_variable_names_another_library_or_turns_it_off() -> None:
    right, mapped, description, errors = run(LLAMA3_MLX_BLAS="off")
    assert (right, mapped, errors) == ("True", "False", "")
    assert description.startswith("MLX's own")
    if (path := installed()) is not None:
        assert path in run(LLAMA3_MLX_BLAS=path)[2]


def test_a_library_that_cant_be_loaded_is_named_in_a_warning() -> None:
    right, _, description, errors = run(LLAMA3_MLX_BLAS="/nosuch/libblas.so")
    assert right == "True"
    assert description.startswith("MLX's own")
    assert "LLAMA3_MLX_BLAS=/nosuch/libblas.so" in errors
    assert "set it to off" in errors


def test_an_mlx_that_was_imported_first_is_named_in_a_warning() -> None:
    if installed() is None:
        pytest.skip("no OpenBLAS on this machine")
    program = "import mlx.core\n" + PROGRAM
    *_, description, errors = run(program)
    assert "import llama3_mlx first" in errors
    assert description.startswith("MLX's own")
    assert run(program, LLAMA3_MLX_BLAS="off")[-1] == ""
