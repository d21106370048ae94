"""Generation options: limits, defaults of a checkpoint, flags."""

import argparse
from typing import Any

import pytest

from llama3_mlx.cli.flags import add_flags, from_flags
from llama3_mlx.errors import RequestError
from llama3_mlx.generation.options import GenerationOptions, make_options


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -0.1}, "temperature must be from 0 to 100, not -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 2.5}, "top_k must be a whole number"),
        ({"max_tokens": -1}, "max_tokens must be at least 0"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"tempreature": 1}, r"unknown option tempreature \(did you mean temperature\?\); known are max_tokens"),
    ],
)
def test_values_out_of_range_are_refused_with_the_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make_options(settings)


def test_a_sampling_checkpoint_fills_what_was_left_open() -> None:
    defaults = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    options = make_options({"top_p": 0.5}).with_defaults(defaults)
    assert (options.temperature, options.top_p) == (0.6, 0.5)


def test_a_checkpoint_that_does_not_sample_is_greedy() -> None:
    assert make_options({}).with_defaults({"temperature": 0.6}).temperature == 0.0
    assert make_options({"temperature": 0.3}).with_defaults({}).temperature == 0.3


def test_flags_come_from_the_fields() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, GenerationOptions)
    args = parser.parse_args(["--max-tokens", "5", "--top-p", "0.5", "--stop", "a", "--stop", "b"])
    assert from_flags(args, GenerationOptions) == GenerationOptions(max_tokens=5, top_p=0.5, stop=("a", "b"))
    assert from_flags(parser.parse_args([]), GenerationOptions) == GenerationOptions()


def test_a_flag_of_names_and_values_is_repeatable_and_reads_json() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, GenerationOptions)
    flags = ["--template-options", "date_string=26 Jul 2024", "--template-options", "thinking=false"]
    given = from_flags(parser.parse_args([*flags, "--stop-token-ids", "5", "--stop-token-ids", "7"]), GenerationOptions)
    assert given.template_options == {"date_string": "26 Jul 2024", "thinking": False}
    assert given.stop_token_ids == (5, 7)


def test_a_schema_goes_with_tools_and_no_other_constraint_does() -> None:
    tool = {"name": "f"}
    assert make_options({"schema": {}, "tools": [tool]}).is_constrained
    for constraint in ({"regex": "a"}, {"grammar": "start: A"}, {"choices": ["a"]}):
        with pytest.raises(RequestError, match="and tools can't be combined"):
            make_options({**constraint, "tools": [tool]})
        make_options({**constraint, "tools": [tool], "tool_choice": "none"})
