"""Starts the assistant: `python -m llama_bar MODEL`."""

import sys

from .app import LlamaBar

if __name__ == "__main__":
    LlamaBar.make(sys.argv[1]).main_loop()
