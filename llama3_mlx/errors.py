"""The errors that a user of this package can meet: one tree, every message one readable line or list."""

from typing import ClassVar, Self


class Llama3MLXError(Exception):
    """Base of every error that this package raises for something outside its own code.

    An application can show `title`, `cause` and `remedy`: what happened in a few words for a user, the message with all
    particulars, and what usually helps.
    """

    title: ClassVar[str] = "That didn't work"
    remedy: ClassVar[str] = "Look at the details, then try again."

    @property
    def cause(self) -> str:
        """The message: what exactly is wrong, and often the way out."""
        return str(self)


class ConfigError(Llama3MLXError):
    """A model's config.json is missing, unreadable or describes a model outside the Llama family."""

    title = "This isn't a Llama model"
    remedy = "Choose a model of the Llama family."


class CheckpointError(Llama3MLXError):
    """Weights are missing, damaged, misshapen or don't belong to their config."""

    title = "The model's files can't be used"
    remedy = "Download or convert the model again."


class TokenizerError(Llama3MLXError):
    """Tokenizer files are missing, unreadable or of a kind that isn't supported."""

    title = "The model's tokenizer can't be used"
    remedy = "Download the model again."


class DialogError(Llama3MLXError):
    """Messages can't be rendered as a dialog: unknown role, malformed content, failing chat template."""

    title = "The conversation can't be given to the model"
    remedy = "Change or remove the message that is named."


class RequestError(Llama3MLXError, ValueError):
    """A value given is out of range or of the wrong type."""

    title = "A setting isn't valid"
    remedy = "Correct the setting that is named."


class ContextLengthError(RequestError):
    """A prompt, with the tokens requested, doesn't fit the model's context."""

    title = "The text is too long for the model"
    remedy = "Shorten the text, or begin a new conversation."


class MemoryLimitError(RequestError):
    """A prompt, with the tokens requested, doesn't fit the memory that is left beside the model."""

    title = "There isn't enough memory"
    remedy = "Shorten the text, close other applications, or choose a smaller model."


class StructureError(Llama3MLXError):
    """An answer doesn't follow its output constraint: cut off, or outside its schema. `text` is the answer."""

    title = "The answer doesn't have the form that was asked for"
    remedy = "Allow a longer answer, or ask again."

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class EngineClosedError(Llama3MLXError):
    """The model has been given back: nothing can be generated with it any more."""

    title = "The model has been unloaded"
    remedy = "Load the model again."

    def __init__(self, message: str = "the model has been closed: load it again to go on") -> None:
        super().__init__(message)


class ForkError(Llama3MLXError):
    """A model is used in a process that was forked from the one that loaded it."""

    title = "The model can't be used in this process"
    remedy = "Load the model in the process that uses it."

    def __init__(
        self,
        message: str = "the model was loaded before this process was forked, and can't be used in it: load it in each "
        'process (multiprocessing: start method "spawn"; gunicorn: without --preload)',
    ) -> None:
        super().__init__(message)


class HubError(Llama3MLXError):
    """A model can't be had from the Hub: not found, gated, offline or broken off."""

    title = "The download failed"
    remedy = "Check the network and the model's name, then try again."


class ConversionError(Llama3MLXError):
    """A conversion can't start or can't go on: destination taken, disk full, option that doesn't fit."""

    title = "The conversion can't be done"
    remedy = "Correct what is named, then start it again: it goes on where it was."


class MissingExtraError(Llama3MLXError, ImportError):
    """A feature needs a package that isn't installed; the message names the extra to install."""

    title = "A part of the program isn't installed"
    remedy = "Install the extra that is named."

    @classmethod
    def of(cls, need: str, extra: str) -> Self:
        """Return the error for what an extra of this package brings; `need` says who needs what."""
        return cls(
            f"{need}, which the extra {extra} brings: in the clone, pip install '.[{extra}]'; with uv or pipx see "
            "docs/installation.md#extras"
        )


class DataError(Llama3MLXError):
    """Training data is missing, malformed, of mixed formats or leaves nothing to learn from."""

    title = "The training data can't be used"
    remedy = "Correct the examples that are named."


class AdapterError(CheckpointError):
    """An adapter is damaged, of an unsupported kind or doesn't fit the model."""

    title = "The adapter can't be used"
    remedy = "Choose an adapter that was made for this model."


class TrainingError(Llama3MLXError):
    """Training can't start or can't go on: loss not finite, nothing to resume, disk full."""

    title = "The training can't go on"
    remedy = "Correct what is named, then resume: what was saved is kept."


class PeerError(Llama3MLXError):
    """A process of a group of several is missing, has ended, is stalled or doesn't fit the others."""

    title = "The processes that share a model don't work together"
    remedy = "Start the process that is named, or correct its address, version or model; then start all of them again."
