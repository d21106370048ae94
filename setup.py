"""Makes the description that PyPI shows: README.md with absolute links. All else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def description(readme: str) -> str:
    """Return a README whose relative links and pictures lead to the repository's main branch."""
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com")
    text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:|#)", rf"\1{raw}/main/", readme)
    text = re.sub(r'(<img [^>]*src=")(?!\w+:)', rf"\1{raw}/main/", text)
    return re.sub(r"((?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\()(?!\w+:|#)", rf"\1{REPOSITORY}/blob/main/", text)


setup(
    long_description=description((ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
