"""Measurements of this package beside its peers; run each as `python -m benchmarks.NAME`."""

# A benchmark's imports come in alphabetical order, MLX's first; the package loads OpenBLAS, which must be there before.
import llama3_mlx  # noqa: F401
