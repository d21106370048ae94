"""Runs a peer's module with the BLAS that this package loads: `python -m benchmarks.peer mlx_lm.server …`."""

import runpy
import sys

# Importing the package loads OpenBLAS before MLX, for whoever comes next.
import llama3_mlx  # noqa: F401

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
