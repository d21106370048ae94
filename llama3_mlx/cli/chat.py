"""`llama3-mlx chat`: a dialog in the terminal."""

import argparse
from pathlib import Path

from ..errors import DialogError
from ..generation.options import GenerationOptions
from .chat_commands import ChatCommands
from .chat_files import AutoSave, SavedDialog, expanded, latest_dialog, load_dialog_file
from .chat_flags import restore_flags, restored_text, saved_flags
from .chat_session import ChatSession, say
from .flags import add_flags
from .generate import given_settings
from .line_editor import make_reader
from .model_choice import add_model_flags, load_llama, write_notes
from .shield_flag import add_shield_flag, shield_of
from .structured_flags import add_structured_flags, load_tools
from .terminal import stdin_is_terminal


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `chat`."""
    add_model_flags(parser)
    parser.add_argument("-s", "--system", metavar="TEXT", help='system message ("": switch the default one off)')
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="FILE", help="resume a saved dialog (default: the last one)"
    )
    parser.add_argument(
        "--autosave",
        action=argparse.BooleanOptionalAction,
        default=stdin_is_terminal(),
        help="keep the dialog in the home folder for --resume (default: on a terminal)",
    )
    add_shield_flag(parser)
    add_structured_flags(parser)
    add_flags(parser, GenerationOptions, "generation")


def run(args: argparse.Namespace) -> int:
    """Read messages and answer them until the end of input."""
    resumed = None if args.resume is None else (expanded(args.resume) if args.resume else latest_dialog())
    saved = SavedDialog() if resumed is None else load_dialog_file(resumed)
    notes = [] if resumed is None else restore_flags(args, saved)
    settings = given_settings(args)
    tools, shield = load_tools(args.tool), shield_of(args)
    write_notes(notes)
    with load_llama(args) as llama:
        if llama.dialog is None:
            raise DialogError(f"{llama.folder.name} is a base model without a chat template: use generate --raw")
        autosave = AutoSave(resumed) if args.autosave else None
        session = ChatSession(llama, args.system, settings, tools, autosave, saved_flags(args))
        session.shield = shield
        if resumed is not None:
            own = [message for message in saved.messages if args.system is None or message["role"] != "system"]
            session.messages = [*session.messages, *own]
            flags = restored_text(saved, args)
            say(f"resumed {len(saved.messages)} messages of {resumed}" + (f", with {flags}" if flags else ""))
        return talk(session, llama.folder.name)


def talk(session: ChatSession, name: str) -> int:
    """Read messages and have the session answer them until the end of input or `/exit`."""
    reader = make_reader()
    commands = ChatCommands(session, reader)
    interactive = stdin_is_terminal()
    if interactive:
        say(f"{name}: /help lists the commands, Ctrl-D leaves")
    while not commands.ended:
        try:
            message = reader.read()
        except EOFError:
            break
        except KeyboardInterrupt:
            say("Ctrl-D or /exit leaves")
            continue
        try:
            commands.handle(message)
        except KeyboardInterrupt:
            say("\n(stopped)")
    if interactive and session.autosave is not None and session.autosave.saved:
        say(f"resume this dialog with: llama3-mlx chat --resume {_resume_name(session.autosave.path)}".rstrip())
    return 0


def _resume_name(path: Path) -> str:
    """Return what --resume needs to find a dialog: nothing for the last one."""
    return "" if path == latest_dialog() else str(path)
