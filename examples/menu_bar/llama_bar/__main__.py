"""Starts the assistant: `python -m llama_bar MODEL`; a bundle starts it without a model."""

import sys

from .app import LlamaBar

if __name__ == "__main__":
    LlamaBar.make(sys.argv[1] if len(sys.argv) > 1 else "").main_loop()
