"""`llama3-mlx integrations`: files that let applications of the system ask a model."""

import argparse
import plistlib
import shlex
import sys
import uuid
from pathlib import Path

from ..errors import RequestError
from ..files import whole_folder
from ..json_types import JsonObject
from .remote import URL_VARIABLE
from .service import environment, program

NAME = "Ask Llama"
_TEXT = "com.apple.Automator.text"
# What is done with an answer, and whether it takes the place of the selected text.
_ANSWERS = {"show": False, "below": True, "replace": True}
_DIALOG = (
    "on run argv",
    "set answer to item 1 of argv",
    f'display dialog answer with title "{NAME}" buttons {{"Copy", "OK"}} default button "OK"',
    'if button returned of result is "Copy" then set the clipboard to answer',
    "end run",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `integrations`."""
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    services = kinds.add_parser("services", help=f'write "{NAME}" into the Services menu of a Mac\'s applications')
    services.add_argument("-m", "--model", metavar="MODEL", help="model that answers (default: as for run)")
    services.add_argument("-p", "--prompt", metavar="TEXT", help="what to do with the text (default: answer it)")
    services.add_argument("--name", default=NAME, metavar="TITLE", help=f"title in the menu (default: {NAME})")
    services.add_argument(
        "--answer",
        choices=tuple(_ANSWERS),
        default="show",
        help="show the answer in a window, write it below the selected text, or replace that (default: show)",
    )
    services.add_argument("--folder", type=Path, metavar="FOLDER", help="where to write (default: ~/Library/Services)")
    services.add_argument("--force", action="store_true", help="replace an earlier one of that title")
    services.set_defaults(action=_services)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return int(args.action(args))


def _services(args: argparse.Namespace) -> int:
    if "/" in args.name or not args.name.strip():
        raise RequestError(f"{args.name!r} can't be a title: it becomes the name of a file")
    bundle = _folder(args.folder) / f"{args.name}.workflow"
    if bundle.exists() and not args.force:
        raise RequestError(f"{bundle} exists: --force replaces it, --name gives this one another title")
    replaces = _ANSWERS[args.answer]
    with whole_folder(bundle) as folder:
        contents = folder / "Contents"
        contents.mkdir()
        (contents / "Info.plist").write_bytes(plistlib.dumps(info(args.name, replaces=replaces)))
        script = shell_script(args.model, args.prompt, args.answer)
        (contents / "document.wflow").write_bytes(plistlib.dumps(document(script, replaces=replaces)))
    sys.stdout.write(f"wrote {bundle}\nSelect text in an application, then choose Services > {args.name}.\n")
    return 0


def _folder(given: Path | None) -> Path:
    """Return where services lie; raises RequestError where a system other than macOS has no such place."""
    if given is None and sys.platform != "darwin":
        raise RequestError("only macOS has a folder of services: name one for a Mac's file with --folder")
    folder = Path.home() / "Library" / "Services" if given is None else given.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shell_script(model: str | None, prompt: str | None, answer: str) -> str:
    """Return what the service runs: the selected text comes on stdin, and stdout is its result.

    Where there is no answer, the text stays as it is, and the system shows what was written to stderr.
    """
    ask = shlex.join([*program(), "run", *([] if model is None else [model])])
    asked = "printf '%s' \"$text\"" if prompt is None else f"printf '%s\\n\\n%s' {shlex.quote(prompt)} \"$text\""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment(URL_VARIABLE).items()]
    lines += ["text=$(cat)", f"answer=$({asked} | {ask}) || exit 1"]
    if answer == "show":
        dialog = " ".join(f"-e {shlex.quote(line)}" for line in _DIALOG)
        lines.append(f'/usr/bin/osascript {dialog} "$answer"')
    else:
        lines.append('printf \'%s\\n\\n%s\' "$text" "$answer"' if answer == "below" else "printf '%s' \"$answer\"")
    return "\n".join(lines) + "\n"


def info(title: str, *, replaces: bool) -> JsonObject:
    """Return the bundle's Info.plist, by which the system lists it. Source: Apple, Services Implementation Guide."""
    service = {
        "NSMenuItem": {"default": title},
        "NSMessage": "runWorkflowAsService",
        "NSSendTypes": ["public.utf8-plain-text"],
    }
    return {"NSServices": [{**service, **({"NSReturnTypes": ["public.utf8-plain-text"]} if replaces else {})}]}


def document(script: str, *, replaces: bool) -> JsonObject:
    """Return the workflow of one action, Run Shell Script with the text on stdin, as Automator 2.10 writes it."""
    parameters = {
        "COMMAND_STRING": script,
        "CheckedForUserDefaultShell": True,
        # 0: on stdin; 1: as arguments.
        "inputMethod": 0,
        "shell": "/bin/bash",
        "source": "",
    }
    text_list = {"Container": "List", "Types": ["com.apple.cocoa.string"]}
    action = {
        "AMAccepts": {**text_list, "Optional": True},
        "AMActionVersion": "2.0.3",
        "AMApplication": ["Automator"],
        "AMParameterProperties": {name: {} for name in parameters},
        "AMProvides": text_list,
        "ActionBundlePath": "/System/Library/Automator/Run Shell Script.action",
        "ActionName": "Run Shell Script",
        "ActionParameters": parameters,
        "BundleIdentifier": "com.apple.RunShellScript",
        "CFBundleVersion": "2.0.3",
        "CanShowSelectedItemsWhenRun": False,
        "CanShowWhenRun": True,
        "Category": ["AMCategoryUtilities"],
        "Class Name": "RunShellScriptAction",
        **{name: str(uuid.uuid4()).upper() for name in ("InputUUID", "OutputUUID", "UUID")},
        "UnlocalizedApplications": ["Automator"],
        "arguments": {},
        "isViewVisible": 1,
    }
    return {
        "AMApplicationBuild": "523",
        "AMApplicationVersion": "2.10",
        "AMDocumentVersion": "2",
        "actions": [{"action": action, "isViewVisible": 1}],
        "connectors": {},
        "workflowMetaData": {
            "serviceInputTypeIdentifier": _TEXT,
            "serviceOutputTypeIdentifier": _TEXT if replaces else "com.apple.Automator.nothing",
            "serviceProcessesInput": 0,
            "workflowTypeIdentifier": "com.apple.Automator.servicesMenu",
        },
    }
