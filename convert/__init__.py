"""Converts weights into MLX folders and out of them; installed as `llama3_mlx.convert`."""

from .api import convert, dry_run, measure, verify
from .forecasting import Forecast
from .options import ConversionOptions
from .pipeline import ConversionReport, Progress
from .targets.upload import upload
from .targets.verification import ModuleError, Verification

__all__ = [
    "ConversionOptions",
    "ConversionReport",
    "Forecast",
    "ModuleError",
    "Progress",
    "Verification",
    "convert",
    "dry_run",
    "measure",
    "upload",
    "verify",
]
