"""Documents: their text, and the passages of a long one that a question is about."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

TEXTS = ("txt", "md", "rst", "csv", "json", "py", "swift", "tex", "html", "log")
EXTENSIONS = (*TEXTS, "pdf")
_PASSAGE_CHARACTERS = 1200


class DocumentError(Exception):
    """A file isn't a document that can be asked about. The message is for the user."""


@dataclass
class Document:
    """A file's name and text, which stay with the conversation when the file moves."""

    name: str
    text: str


def read_document(path: Path) -> Document:
    """Return the text of a file; raises DocumentError."""
    extension = path.suffix.lower().removeprefix(".")
    if extension not in EXTENSIONS:
        raise DocumentError(f"{path.name} isn't a document of a known kind: {', '.join(EXTENSIONS)}.")
    try:
        text = _pdf_text(path) if extension == "pdf" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DocumentError(f"{path.name} isn't text in UTF-8.") from None
    except OSError as error:
        raise DocumentError(f"{path.name} can't be read: {error.strerror or error}.") from None
    if not text.strip():
        raise DocumentError(f"{path.name} has no text in it. A scanned page has to go through text recognition first.")
    return Document(path.name, text)


def _pdf_text(path: Path) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)
    except PyPdfError as error:
        raise DocumentError(f"{path.name} can't be read as a PDF: {error}.") from None


def dropped_paths(text: str) -> list[Path]:
    """Return the documents that a text names in lines of their own.

    A file that is dropped on a text field arrives so: as its path on a Mac, as a file:// address in Qt.
    """
    found: list[Path] = []
    for line in text.split("\n"):
        line = line.strip()
        path = Path(unquote(urlparse(line).path)) if line.startswith("file://") else Path(line)
        if path.is_absolute() and path.suffix.lower().removeprefix(".") in EXTENSIONS and path.is_file():
            found.append(path)
    return found


def passages(text: str) -> list[str]:
    """Split a text at paragraphs into passages of about a page's half; a longer paragraph is split at sentences."""
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    sentences = [
        piece
        for part in parts
        for piece in ([part] if len(part) <= _PASSAGE_CHARACTERS else _pieces(part, _PASSAGE_CHARACTERS))
    ]
    found: list[str] = []
    for piece in sentences:
        if found and len(found[-1]) + len(piece) <= _PASSAGE_CHARACTERS:
            found[-1] += f"\n\n{piece}"
        else:
            found.append(piece)
    return found


def _pieces(paragraph: str, longest: int) -> list[str]:
    found = [""]
    for sentence in re.split(r"(?<=[.!?])\s+", paragraph):
        # What has no sentences, such as a table, is cut where it must be.
        for start in range(0, len(sentence), longest):
            part = sentence[start : start + longest]
            if found[-1] and len(found[-1]) + len(part) > longest:
                found.append("")
            found[-1] = f"{found[-1]} {part}".strip()
    return found


def best_passages(text: str, question: str, fits: Callable[[str], bool]) -> tuple[list[int], list[str]]:
    """Return the passages that are nearest to a question by BM25, in the text's order, as many as `fits` takes.

    Gives their numbers, from 1 on, beside them.
    """
    parts = passages(text)
    chosen: list[int] = []
    for index in _ranked([_words(part) for part in parts], _words(question)):
        if fits("\n\n".join(parts[each] for each in sorted([*chosen, index]))):
            chosen.append(index)
        else:
            break
    chosen.sort()
    return [index + 1 for index in chosen], [parts[index] for index in chosen]


def _ranked(parts: list[list[str]], question: list[str]) -> list[int]:
    """Return the numbers of the parts, the nearest to a question first."""
    import bm25s

    ranker = bm25s.BM25()
    ranker.index(parts, show_progress=False)
    found, _ = ranker.retrieve([question], k=len(parts), show_progress=False)
    return [int(index) for index in found[0]]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
