"""The benchmark: what it measures, counts, prints and draws."""

import json
import xml.etree.ElementTree as ElementTree
from functools import partial
from math import prod
from pathlib import Path

import mlx.core as mx
import pytest

from llama3_mlx import Completion, DraftCounts
from llama3_mlx.bench.counting import count_work
from llama3_mlx.bench.drafts import DraftFigures, summed
from llama3_mlx.bench.options import BenchOptions, random_prompt
from llama3_mlx.bench.plot import svg
from llama3_mlx.bench.results import Figure, Results
from llama3_mlx.bench.table import header, rows
from llama3_mlx.bench.worker import Worker
from llama3_mlx.checkpoint.folder import load_config
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.errors import ContextLengthError, Llama3MLXError, RequestError
from llama3_mlx.kv_cache import ModelCache
from llama3_mlx.model.parameters import expected_tensors
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..cli.test_cli import error_line, run
from ..support.tiny_model import save_tiny


def test_lengths_that_do_not_fit_are_refused_with_the_numbers() -> None:
    options = BenchOptions(lengths="64,2000", tokens=100)
    assert options.depths(2100) == (64, 2000)
    with pytest.raises(ContextLengthError, match=r"2000 and 100 .* context of 2099: choose lengths up to 1999"):
        options.depths(2099)


def test_usual_lengths_are_those_that_fit() -> None:
    assert BenchOptions(tokens=64).depths(131072) == (128, 512, 2048)
    assert BenchOptions(tokens=64).depths(2048) == (128, 512)
    assert BenchOptions(tokens=64).depths(100) == (36,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lengths": "12,x"}, "lengths must be whole numbers with commas between them, not '12,x'"),
        ({"lengths": "0"}, "lengths must be at least 1, not 0"),
        ({"batch": "1,-2"}, "batch must be at least 0, not -2"),
        ({"tokens": 1}, "tokens must be at least 2, not 1"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        BenchOptions(**settings)  # type: ignore[arg-type]


def test_random_prompts_share_no_prefix_and_no_control_token() -> None:
    one, other = random_prompt((0, 1, 2), 500, 128256), random_prompt((0, 2, 2), 500, 128256)
    assert one == random_prompt((0, 1, 2), 500, 128256)
    assert one[:3] != other[:3]
    assert max(one + other) < 128000


def test_a_product_reads_its_weight_and_views_cost_nothing() -> None:
    weight = mx.zeros((40, 30))
    mx.eval(weight)
    work = count_work(lambda x: x @ weight.T, mx.zeros((1, 30)))
    assert (work.launches, work.bytes_read) == (1, 40 * 30 * 4)
    assert work.operations > work.launches


def test_a_lookup_reads_its_rows_and_a_slice_its_part() -> None:
    table, kept = mx.zeros((1000, 8)), mx.zeros((64, 8))
    mx.eval(table, kept)
    assert count_work(lambda ids: table[ids], mx.array([3, 4])).bytes_read == 2 * 8 * 4
    assert count_work(lambda x: x + kept[:5], mx.zeros((5, 8))).bytes_read == 5 * 8 * 4


def test_a_decode_step_reads_the_weights_and_the_cache_once(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny", vocab_size=512)
    config, model = load_config(folder), load_model(folder, dtype="float32")
    cache = model.make_cache()
    mx.eval(model.hidden(mx.zeros((1, 20), mx.int32), cache), cache.arrays)
    work = count_work(lambda token: model.head(model.hidden(token, cache)[:, -1]), mx.array([[0]]))
    weights = 4 * sum(map(prod, expected_tensors(config).values()))
    key_values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4 * 21
    row = 4 * config.hidden_size
    # Constants of rope, norm and scale come on top.
    assert weights + key_values + row <= work.bytes_read < (weights + key_values + row) * 1.02


def test_a_layer_of_a_decode_step_takes_13_launches(tmp_path: Path) -> None:
    """As a GPU runs it: norm, qkv, rope, two updates, attention, output, add; norm, gate and up, SiLU, down, add."""
    found = []
    for n_layers in (1, 2):
        model = load_model(save_tiny(tmp_path / str(n_layers), num_hidden_layers=n_layers), dtype="float32")
        cache = model.make_cache()
        mx.eval(model.hidden(mx.zeros((1, 20), mx.int32), cache), cache.arrays)
        found.append(count_work(partial(step_of, model, cache), mx.array([[0]])).launches)
    assert found[1] - found[0] == 13


def step_of(model: LlamaForCausalLM, cache: ModelCache, token: mx.array) -> mx.array:
    return model.head(model.hidden(token, cache)[:, -1])


def made_up(programs: list[str]) -> Results:
    facts = {
        "load_s": 1.0,
        "weight_bytes": 5e8,
        "kv_bytes_per_token": 1024.0,
        "count_depth": 128,
        "operations": 10.0,
        "launches": 5.0,
        "bytes_read": 6e8,
    }
    results = Results("somewhere/a <model>", {"dtype": "float32"}, facts={name: dict(facts) for name in programs})
    for what, sizes in (("prefill", (128, 512)), ("decode", (128, 512)), ("batch", (1, 8)), ("peak", (128, 512))):
        for at in sizes:
            figure = Figure(what, at)
            for n, name in enumerate(programs):
                for value in (30.0, 10.0, 20.0):
                    figure.add(name, value * (n + 1))
            results.figures.append(figure)
    return results


def test_the_table_shows_medians_and_ratios() -> None:
    results = made_up(["llama3-mlx", "mlx-lm"])
    assert header(results) == ["", "llama3-mlx", "mlx-lm", "ratio"]
    made = rows(results)
    assert ["decode at depth 512, tokens/s", "20.0", "40.0", "0.50"] in made
    assert ["  as a multiple of the weights", "1.20", "1.20", "1.00"] in made
    assert all(len(row) == 4 for row in made)
    assert all(len(row) == 2 for row in rows(made_up(["llama3-mlx"])))


@pytest.mark.parametrize("programs", [["llama3-mlx"], ["llama3-mlx", "mlx-lm"]])
def test_the_plot_has_a_line_for_each_program_in_each_panel(programs: list[str]) -> None:
    root = ElementTree.fromstring(svg(made_up(programs)))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{space}polyline")) == 4 * len(programs)
    words = [element.text for element in root.iter(f"{space}text")]
    assert "a <model>, float32" in words
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for group in root.iter(f"{space}g"):
        dx, dy = (float(part) for part in group.attrib["transform"][10:-1].split(","))
        for circle in group.iter(f"{space}circle"):
            assert 0 < dx + float(circle.attrib["cx"]) < width
            assert 0 < dy + float(circle.attrib["cy"]) < height


def test_higher_figures_are_drawn_higher() -> None:
    root = ElementTree.fromstring(svg(made_up(["llama3-mlx", "mlx-lm"])))
    lines = [element.attrib["points"] for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    ours, theirs = (float(line.split()[0].split(",")[1]) for line in lines[:2])
    assert theirs < ours


def test_an_error_of_the_program_comes_through(tmp_path: Path) -> None:
    with Worker("llama3-mlx") as worker, pytest.raises(Llama3MLXError, match=r"config\.json"):
        worker.call("load", folder=str(tmp_path), dtype="float32")


def test_a_program_that_dies_is_named_with_its_last_words() -> None:
    with Worker("llama3-mlx") as worker, pytest.raises(Llama3MLXError, match=r"llama3-mlx ended .* KeyError: 'dance'"):
        worker.call("dance")


def test_bench_compares_on_the_same_model(tiny_folder: Path, tmp_path: Path) -> None:
    plot, saved = tmp_path / "plot.svg", tmp_path / "figures.json"
    arguments = [
        "--lengths",
        "8,16",
        "--tokens",
        "3",
        "--rounds",
        "1",
        "--batch",
        "2",
        "--batch-length",
        "6",
        "--compare",
        "mlx-lm",
    ]
    result = run("bench", str(tiny_folder), *arguments, "--json", str(saved), "--plot", str(plot))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.decode().splitlines()
    assert any(line.startswith("decode at depth 16") for line in lines)
    figures = json.loads(saved.read_text())
    assert set(figures["facts"]) == {"llama3-mlx", "mlx-lm"}
    ours, theirs = figures["facts"]["llama3-mlx"], figures["facts"]["mlx-lm"]
    assert ours["weight_bytes"] == theirs["weight_bytes"]
    assert ours["operations"] <= theirs["operations"]
    assert ours["launches"] <= theirs["launches"]
    assert all(len(rounds) == 1 for figure in figures["figures"] for rounds in figure["rounds"].values())
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_bench_compares_with_and_without_drafts(tiny_folder: Path) -> None:
    """The model drafts for itself: what it drafts is what it writes."""
    arguments = ["--lengths", "8", "--tokens", "6", "--rounds", "1", "--batch", "0", "--draft", str(tiny_folder)]
    result = run("bench", str(tiny_folder), *arguments, "--json", "-")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)["drafts"]["median"]
    assert figures["equal"] == 1
    assert figures["plain_per_second"] > 0
    assert figures["tokens_per_pass"] >= 1
    refused = run("bench", str(tiny_folder), "--draft", str(tiny_folder), "--suite")
    assert "leave out --suite" in error_line(refused)


def test_drafts_of_several_answers_are_summed_by_source_and_place() -> None:
    def answer(passes: int, rate: float, drafts: tuple[DraftCounts, ...] = (), off: int = 0) -> Completion:
        return Completion(
            "", tuple(range(9)), "length", 5, 0, 1.0, rate, 0, passes=passes, drafts=drafts, passes_off=off
        )

    plain = [answer(8, 10.0), answer(8, 5.0)]
    one, other = DraftCounts("draft head", (4, 4), (4, 1)), DraftCounts("draft head", (4, 2), (2, 2))
    found = summed(plain, [answer(3, 20.0, (one,)), answer(5, 10.0, (other,), off=2)])
    assert found["plain_per_second"] == pytest.approx(16 / (0.8 + 1.6))
    assert found["drafted_per_second"] == pytest.approx(2 * found["plain_per_second"])
    assert found["tokens_per_pass"] == 18 / 8
    assert (found["accepted, draft head, token 1"], found["accepted, draft head, token 2"]) == (6 / 8, 3 / 6)
    assert (found["off"], found["equal"]) == (2 / 8, 1)
    figures = DraftFigures()
    figures.add(found)
    assert ("  times the rate without", "2.00") in figures.rows()
    assert ("  accepted, draft head, token 1", "75%") in figures.rows()


def test_a_plot_of_another_kind_is_refused(tiny_folder: Path) -> None:
    line = error_line(run("bench", str(tiny_folder), "--plot", "figures.png"))
    assert "ends in .svg, not 'figures.png'" in line
