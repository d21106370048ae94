"""Settings of Sphinx, which turns docs/ into a site with generated references: see scripts/docs."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

from llama3_mlx.version import __version__  # noqa: E402

project = author = "llama3-mlx"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_argparse_cli",
    "sphinxcontrib.mermaid",
    "settings_table",
]
root_doc, exclude_patterns = "index", ["_build"]
html_theme, html_title = "furo", "llama3-mlx"
html_show_copyright = False
# Single backticks in docstrings stand for code, as on GitHub.
default_role = "code"

# The pages are written for GitHub as well: plain fences and relative links.
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
mermaid_version = "11"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
smartquotes = False
