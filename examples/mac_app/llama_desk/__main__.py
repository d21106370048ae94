"""Starts the application: `python -m llama_desk`, which is what Briefcase's bundle runs too."""

from .app import LlamaDesk

if __name__ == "__main__":
    LlamaDesk.make().main_loop()
