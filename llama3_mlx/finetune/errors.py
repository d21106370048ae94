"""Errors of fine-tuning, in the package's one tree."""

from ..errors import CheckpointError, Llama3MLXError


class DataError(Llama3MLXError):
    """Training data is missing, malformed, of mixed formats or leaves nothing to learn from."""


class AdapterError(CheckpointError):
    """An adapter is damaged, of an unsupported kind or doesn't fit the model."""


class TrainingError(Llama3MLXError):
    """Training can't start or can't go on: loss not finite, nothing to resume, disk full."""
