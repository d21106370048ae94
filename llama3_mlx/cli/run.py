"""`llama3-mlx run`: ask a model, or talk with it: through the server if it is up, else loaded here."""

import argparse
import sys

from ..errors import DialogError
from ..generation.options import GenerationOptions
from .chat import talk
from .chat_files import AutoSave
from .chat_flags import saved_flags
from .chat_model import ChatModel
from .chat_session import ChatSession, write
from .flags import add_flags
from .generate import as_messages, given_settings
from .model_choice import choose_model, write_notes
from .progress import PromptBar
from .remote import URL_VARIABLE, RemoteLlama, server_models, server_url
from .terminal import piped_text, stdin_is_terminal


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="name at the server or of `models`, folder or Hub id")
    parser.add_argument("words", nargs="*", metavar="TEXT", help="one question (default: a dialog)")
    parser.add_argument("-s", "--system", metavar="TEXT", help="system message")
    parser.add_argument(
        "--url", metavar="URL", help=f"address of the server (default: ${URL_VARIABLE}, port 8080 here)"
    )
    add_flags(parser, GenerationOptions, "generation")


def run(args: argparse.Namespace) -> int:
    """Answer one prompt, or hold a dialog."""
    settings = given_settings(args)
    prompt = _prompt(args.words)
    model = _at_server(args.url or server_url(), args.model) or _here(args.model)
    if prompt is None:
        autosave = AutoSave() if stdin_is_terminal() else None
        session = ChatSession(model, args.system, settings, (), autosave, saved_flags(args))
        return talk(session, str(args.model or model.folder or "chat"))
    with PromptBar() as progress:
        for piece in model.stream_chat(as_messages(prompt, args.system), progress=progress.report, **settings):
            progress.close()
            write(piece.text)
    write("\n")
    return 0


def _prompt(words: list[str]) -> str | None:
    """Return the question of the command line, with what is piped in behind it; None for a dialog."""
    return "\n\n".join(text for text in (" ".join(words), piped_text().strip()) if text) or None


def _at_server(url: str, name: str | None) -> ChatModel | None:
    """Return the model at the server, None if the server isn't up or doesn't have it."""
    names = server_models(url)
    if not names or (name is not None and name not in names):
        return None
    sys.stderr.write(f"using the server at {url}\n")
    return RemoteLlama(url, name)


def _here(name: str | None) -> ChatModel:
    """Load the model into this process."""
    folder = choose_model(name)
    from ..llama import Llama

    llama = Llama.load(folder)
    write_notes(llama.notes)
    if llama.dialog is None:
        raise DialogError(f"{folder.name} is a base model without a chat template: use generate --raw")
    return llama
