"""The whole parser of `llama3-mlx`, for the reference of its commands."""

import argparse
import importlib

from llama3_mlx import cli


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with the arguments of all commands; the command line itself adds those of one only."""
    parser = cli.Parser(prog="llama3-mlx", description="Llama 3 on Apple's MLX: convert, generate, chat, fine-tune.")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, (module, summary) in cli.COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        importlib.import_module(f"llama3_mlx.cli.{module}").configure(command)
    return parser
