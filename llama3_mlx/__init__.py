"""Llama 3 on Apple's MLX."""

from .version import __version__

__all__ = ["__version__"]
