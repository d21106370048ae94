"""Names of programming languages as fences, flags and file suffixes have them, and the grammar of each."""

from pathlib import Path

_NAMES = {
    "python": "py python3 py3 ipython pycon",
    "javascript": "js node nodejs jsx mjs cjs",
    "typescript": "ts mts cts",
    "tsx": "",
    "java": "",
    "c": "h",
    "cpp": "c++ cc cxx hpp hh hxx",
    "csharp": "c# cs",
    "go": "golang",
    "rust": "rs",
    "php": "php7 php8",
    "swift": "",
    "kotlin": "kt kts",
}
LANGUAGES = tuple(_NAMES)
_BY_NAME = {alias: name for name, others in _NAMES.items() for alias in (name, *others.split())}
_SUFFIXES = "py js jsx mjs cjs ts mts cts tsx java c h cc cpp cxx hh hpp hxx cs go rs php swift kt kts"
MARKDOWN = ("md", "markdown")


def language_named(name: str) -> str | None:
    """Return the language that a name or an alias means, None for one without rules."""
    return _BY_NAME.get(name.strip().lower())


def language_of(path: Path) -> str | None:
    """Return the language of a file by its suffix, None for one without rules."""
    suffix = path.suffix.lower().removeprefix(".")
    return _BY_NAME[suffix] if suffix in _SUFFIXES.split() else None
