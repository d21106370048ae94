"""The whole parser of `llama3-mlx`, for the reference of its commands."""

import argparse

from llama3_mlx import cli


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with the arguments of all commands; the command line itself adds those of one only."""
    return cli.make_parser()[0]
