"""Questions about documentation texts, to train a draft head on and, about other modules, to measure it with.

The texts are docstrings of Python's standard library and the topics of its `help()`: they are on every machine. Modules
and topics are divided between the two sets, so that no text is in both.
"""

import argparse
import importlib
import inspect
import json
import random
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

MODULES = [
    "abc", "argparse", "array", "ast", "asyncio", "base64", "bisect", "calendar", "codecs", "collections",
    "concurrent.futures", "configparser", "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal",
    "difflib", "dis", "email.message", "enum", "fileinput", "fnmatch", "fractions", "ftplib", "functools", "gc",
    "getpass", "gettext", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html", "http.client", "imaplib",
    "inspect", "io", "ipaddress", "itertools", "json", "keyword", "linecache", "locale", "logging", "lzma",
    "mailbox", "math", "mimetypes", "multiprocessing", "netrc", "numbers", "operator", "os", "os.path", "pathlib",
    "pickle", "pickletools", "platform", "plistlib", "poplib", "pprint", "queue", "random", "re", "reprlib",
    "sched", "secrets", "selectors", "shelve", "shlex", "shutil", "signal", "smtplib", "socket", "socketserver",
    "sqlite3", "ssl", "stat", "statistics", "string", "struct", "subprocess", "sys", "tarfile", "tempfile",
    "textwrap", "threading", "time", "timeit", "token", "tokenize", "traceback", "tracemalloc", "types", "typing",
    "unicodedata", "unittest", "unittest.mock", "urllib.parse", "urllib.request", "uuid", "warnings", "wave",
    "weakref", "webbrowser", "xml.dom.minidom", "xml.etree.ElementTree", "zipfile", "zlib",
]  # fmt: skip
SHORTEST, LONGEST, HELD_OUT = 80, 320, 8
ASKED = (
    "Explain in plain words what this part of Python does.\n\n{text}",
    "Summarize this documentation in two or three sentences.\n\n{text}",
    "Write a short Python example that uses `{name}`. This is its documentation:\n\n{text}",
    "List the key points of the following text.\n\n{text}",
    "Rewrite this documentation for a beginner.\n\n{text}",
    "What is `{name}` in Python for, and when would you use it?",
)


def documented() -> Iterator[tuple[str, str, str]]:
    """Yield the source (module or topic), name and text of each documentation text."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name, value in sorted(vars(module).items()):
            if name.startswith("_") or not (callable(value) or inspect.isclass(value)):
                continue
            yield module_name, f"{module_name}.{name}", inspect.getdoc(value) or ""
            for method, inner in sorted(vars(value).items()) if inspect.isclass(value) else ():
                if not method.startswith("_") and callable(inner):
                    yield module_name, f"{module_name}.{name}.{method}", inspect.getdoc(inner) or ""
    for topic, text in sorted(topics.items()):
        for paragraph in re.split(r"\n\s*\n", text):
            yield topic, topic, " ".join(paragraph.split())


def prompts(held_out: bool, n: int) -> list[str]:
    """Return n prompts, the same on every machine with the same Python."""
    texts: dict[str, tuple[str, str]] = {}
    for source, name, text in documented():
        if (zlib.crc32(source.encode()) % HELD_OUT == 0) == held_out and len(text) >= SHORTEST:
            texts.setdefault(text[:LONGEST].rsplit(" ", 1)[0] if len(text) > LONGEST else text, (name, source))
    rng = random.Random(1)
    made = [rng.choice(ASKED).format(text=text, name=name) for text, (name, _) in texts.items()]
    made = list(dict.fromkeys(made))
    rng.shuffle(made)
    return made[:n]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="where train.jsonl and valid.jsonl are written")
    arguments.add_argument("--train", type=int, default=4000, help="prompts to train on (%(default)s)")
    arguments.add_argument("--valid", type=int, default=100, help="prompts about other modules (%(default)s)")
    args = arguments.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, held_out, n in (("train", False, args.train), ("valid", True, args.valid)):
        lines = [
            # The answer is the model's to give: --regenerate.
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "…"}]}
            for text in prompts(held_out, n)
        ]
        (args.folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        print(f"{args.folder / name}.jsonl: {len(lines)} prompts")


if __name__ == "__main__":
    main()
