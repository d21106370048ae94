"""The errors that a user of this package can meet: one tree, every message one readable line or list."""


class Llama3MLXError(Exception):
    """Base of every error that this package raises for something outside its own code."""


class ConfigError(Llama3MLXError):
    """A model's config.json is missing, unreadable or describes a model outside the Llama family."""


class CheckpointError(Llama3MLXError):
    """Weights are missing, damaged, misshapen or don't belong to their config."""


class TokenizerError(Llama3MLXError):
    """Tokenizer files are missing, unreadable or of a kind that isn't supported."""


class DialogError(Llama3MLXError):
    """Messages can't be rendered as a dialog: unknown role, malformed content, failing chat template."""


class RequestError(Llama3MLXError, ValueError):
    """A value given is out of range or of the wrong type."""


class ContextLengthError(RequestError):
    """A prompt, with the tokens requested, doesn't fit the model's context."""


class MemoryLimitError(RequestError):
    """A prompt, with the tokens requested, doesn't fit the memory that is left beside the model."""


class StructureError(Llama3MLXError):
    """An answer doesn't follow its output constraint: cut off, or outside its schema. `text` is the answer."""

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class EngineClosedError(Llama3MLXError):
    """The model has been given back: nothing can be generated with it any more."""

    def __init__(self, message: str = "the model has been closed: load it again to go on") -> None:
        super().__init__(message)


class ForkError(Llama3MLXError):
    """A model is used in a process that was forked from the one that loaded it."""

    def __init__(
        self,
        message: str = "the model was loaded before this process was forked, and can't be used in it: load it in each "
        'process (multiprocessing: start method "spawn"; gunicorn: without --preload)',
    ) -> None:
        super().__init__(message)


class HubError(Llama3MLXError):
    """A model can't be had from the Hub: not found, gated, offline or broken off."""


class ConversionError(Llama3MLXError):
    """A conversion can't start or can't go on: destination taken, disk full, option that doesn't fit."""


class MissingExtraError(Llama3MLXError, ImportError):
    """A feature needs a package that isn't installed; the message names the extra to install."""


class DataError(Llama3MLXError):
    """Training data is missing, malformed, of mixed formats or leaves nothing to learn from."""


class AdapterError(CheckpointError):
    """An adapter is damaged, of an unsupported kind or doesn't fit the model."""


class TrainingError(Llama3MLXError):
    """Training can't start or can't go on: loss not finite, nothing to resume, disk full."""


class PeerError(Llama3MLXError):
    """A process of a group of several is missing, has ended, is stalled or doesn't fit the others."""
