"""The suite: what it measures of a model, beside whom, under which conditions, and its page."""

import json
from pathlib import Path

import pytest

from llama3_mlx.bench.machine import published_bandwidth, read_conditions
from llama3_mlx.bench.options import BenchOptions
from llama3_mlx.bench.results import Figure, Results
from llama3_mlx.bench.suite import Single, Suite, _problem, run_suite, suite_options
from llama3_mlx.bench.suite_report import markdown
from llama3_mlx.checkpoint.folder import load_config

from ..cli.test_cli import error_line, run

# Outputs of `pmset -g batt`, `pmset -g` and `pmset -g therm`; see pmset(1).
BATTERY = (
    "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t80%; discharging; 5:00 remaining present: true\n"
)
POWER = "System-wide power settings:\nCurrently in use:\n standby      1\n lowpowermode 1\n sleep        1\n"
THERMAL = "Note: No thermal warning level has been recorded\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Speed_Limit \t= 70\n"


def test_power_and_heat_are_read_of_pmset() -> None:
    found = read_conditions(BATTERY, POWER, THERMAL)
    assert found == {"power": "Battery Power", "low_power_mode": True, "cpu_speed_limit_percent": 70}
    unknown = read_conditions("", "", "Note: No CPU power status has been recorded\n")
    assert unknown == {"power": None, "low_power_mode": None, "cpu_speed_limit_percent": None}


@pytest.mark.parametrize(
    ("chip", "gigabytes"),
    [
        ("Apple M1", 68.25),
        ("Apple M2 Ultra", 800),
        ("Apple M4 Pro", 273),
        ("Intel(R) Core(TM) M3-7Y32", None),
        ("", None),
    ],
)
def test_bandwidths_are_those_that_apple_publishes(chip: str, gigabytes: float | None) -> None:
    """Source: the technical specifications on support.apple.com."""
    assert published_bandwidth(chip) == (None if gigabytes is None else gigabytes * 1e9)


def test_lengths_are_those_that_fit_context_and_memory(tiny_folder: Path) -> None:
    config = load_config(tiny_folder)
    assert suite_options(config, "float32", 10**11, short=False).depths(131072) == (512, 2048, 8192, 32768)
    # 33.2 MB of weights and 1,024 bytes a token.
    few = suite_options(config, "float32", 45 * 10**6, short=False).depths(131072)
    assert few == (512, 2048)
    short = suite_options(config, "float32", 10**11, short=True)
    assert (short.depths(131072), short.rounds, short.sizes()) == ((128, 512), 1, (1, 4))


def test_the_page_has_the_share_of_the_bandwidth_and_names_who_is_left_out() -> None:
    facts = {
        "load_s": 1.0,
        "weight_bytes": 4e8,
        "kv_bytes_per_token": 1024.0,
        "count_depth": 512.0,
        "operations": 10.0,
        "launches": 5.0,
        "bytes_read": 5e8,
    }
    results = Results("somewhere/model", {"dtype": "float16", "rounds": 3})
    results.facts = {
        "llama3-mlx": facts,
        "llama.cpp": {"load_s": 2.0, "weight_bytes": 4e8, "kv_bytes_per_token": 1024.0},
    }
    results.machine = {
        "chip": "Apple M1",
        "device": "",
        "memory_bytes": 10**10,
        "system": "macOS 15.1 arm64",
        "blas": "Accelerate",
        "versions": {"mlx": "0.32.4", "mlx-lm": None},
    }
    for what in ("prefill", "decode", "peak"):
        figure = Figure(what, 512)
        for value in (90.0, 100.0, 110.0):
            figure.add("llama3-mlx", value)
            if what != "peak":
                figure.add("llama.cpp", value / 2)
        results.figures.append(figure)
    suite = Suite(results, [Single("LoRA step", "s", (3.0, 1.0, 2.0))], {"measured": 1e11, "published": 68.25e9})
    suite.skipped = {"mlx-lm": "it isn't of this family"}
    suite.conditions = {"before": read_conditions(BATTERY, POWER, THERMAL), "after": {}}
    page = markdown(suite)
    # 0.5 GB a step, 100 steps a second.
    assert "| llama3-mlx | 50.0 GB/s | 50% | 73% |" in page
    assert "| decode at depth 512, tokens/s | 100 | 50.0 | 2.00 |" in page
    assert "| peak memory, prompt of 512 | 0.10 kB |  |  |" in page
    assert "mlx-lm is left out: it isn't of this family" in page
    assert "Battery Power, low power mode, slowed down to 70% by heat" in page
    assert "| LoRA step | 2.00 | s |" in page
    assert "nan" not in page


def test_a_peer_that_can_not_run_the_model_is_named_with_its_reason(tmp_path: Path) -> None:
    problem = _problem("mlx-lm", tmp_path, "float32")
    assert problem is not None
    assert "mlx-lm ended" in problem


def test_the_suite_measures_everything_beside_llama_cpp(tiny_folder: Path) -> None:
    pytest.importorskip("xllamacpp")
    options = BenchOptions(lengths="48", tokens=3, batch="2", batch_length=6, rounds=1)
    suite = run_suite(tiny_folder, load_config(tiny_folder), options, dtype="float32", peers=["llama.cpp"])
    values = json.loads(json.dumps(suite.to_dict()))
    assert values["skipped"] == {}
    rounds = {(figure["what"], figure["at"]): figure["rounds"] for figure in values["figures"]}
    for what in (("prefill", 48), ("decode", 48), ("batch", 2)):
        assert {program: len(each) for program, each in rounds[what].items()} == {"llama3-mlx": 1, "llama.cpp": 1}
    names = " ".join(single["name"] for single in values["singles"])
    for words in ("KV cache 8 bits", "KV cache window", "drafts on", "start-up", "conversion", "LoRA step"):
        assert words in names
    assert all(single["median"] > 0 for single in values["singles"])
    assert values["bandwidth_bytes_per_second"]["measured"] > 1e8
    assert "llama3-mlx alone" in markdown(suite)


def test_flags_of_the_suite_alone_are_refused_without_it(tiny_folder: Path) -> None:
    assert "--short and --out belong to --suite" in error_line(run("bench", str(tiny_folder), "--short"))
