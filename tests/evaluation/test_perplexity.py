"""Perplexity and distance; transformers and its documented sliding-window recipe are the reference."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama3_mlx import Llama
from llama3_mlx.cli import main
from llama3_mlx.errors import CheckpointError, RequestError
from llama3_mlx.evaluation import PerplexityOptions, compare_predictions, measure_perplexity
from llama3_mlx.evaluation.scoring import score_continuations
from llama3_mlx.evaluation.sharing import Continuation
from llama3_mlx.evaluation.windows import windows

from ..support.small_chat import BOS, save_small_chat
from ..support.tiny_model import tiny_weights

TEXT = "The river was high, and nobody crossed it before März. " * 5
Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def other_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same tokenizer and other weights."""
    from ..support.small_chat import CONFIG
    from ..support.tiny_model import CONFIG as TINY

    weights = tiny_weights({**TINY, **CONFIG}, seed=7)
    return save_small_chat(tmp_path_factory.mktemp("chat") / "other", weights=weights)


def reference_logprobs(folder: Path, length: int, stride: int, text: str = TEXT) -> list[Array]:
    """Log-probabilities of the whole vocabulary at each counted position, then of the token that stands there.

    The windows are those of https://huggingface.co/docs/transformers/perplexity: the tokenizer's own ids, which begin
    with the beginning of text, and in each window the tokens that no earlier one has predicted.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    seq_len, prev_end, found, tokens = ids.size(1), 0, [], []
    for begin in range(0, seq_len, stride):
        end = min(begin + length, seq_len)
        target_len = end - prev_end
        window = ids[:, begin:end]
        with torch.no_grad():
            logprobs = model(window).logits[0].double().log_softmax(-1)
        for at in range(max(1, window.size(1) - target_len), window.size(1)):
            found.append(logprobs[at - 1].numpy())
            tokens.append(int(window[0, at]))
        prev_end = end
        if end == seq_len:
            break
    table = np.stack(found)
    return [table, table[np.arange(len(tokens)), tokens]]


@pytest.mark.parametrize(("length", "stride"), [(64, 64), (64, 16), (50, 33), (400, 400), (2, 1)])
def test_perplexity_is_that_of_transformers(small_chat: Path, length: int, stride: int) -> None:
    _, logprobs = reference_logprobs(small_chat, length, stride)
    with Llama.load(small_chat) as llama:
        options = PerplexityOptions(length=length, stride=stride, bos="text")
        found = measure_perplexity(llama, TEXT, options)
    assert found.tokens == len(logprobs)
    assert found.perplexity.value == pytest.approx(math.exp(-logprobs.mean()), rel=1e-5)
    error = math.exp(-logprobs.mean()) * logprobs.std(ddof=1) / math.sqrt(len(logprobs))
    assert found.perplexity.error == pytest.approx(error, rel=1e-4)


def test_windows_may_each_begin_with_the_beginning_of_text(small_chat: Path) -> None:
    """As llama.cpp cuts a text; the reference predicts each piece by itself."""
    pieces = [TEXT.encode()[at : at + 39].decode("latin-1") for at in range(0, len(TEXT.encode()), 39)]
    pieces = [piece for piece in pieces if piece]
    ascii_text = "".join(piece if piece.isascii() else "?" * 39 for piece in pieces)
    parts = [ascii_text[at : at + 39] for at in range(0, len(ascii_text), 39)]
    expected = np.concatenate([reference_logprobs(small_chat, 40, 40, part)[1] for part in parts])
    with Llama.load(small_chat) as llama:
        found = measure_perplexity(llama, ascii_text, PerplexityOptions(length=40))
    assert found.tokens == len(expected) == len(ascii_text)
    assert found.perplexity.value == pytest.approx(math.exp(-expected.mean()), rel=1e-5)


def expected_comparison(folder: Path, base: Path) -> dict[str, Any]:
    """The figures by numpy, from transformers' probabilities; names and definitions are llama.cpp's."""
    (q, q_token), (p, p_token) = (reference_logprobs(each, 64, 32) for each in (folder, base))
    kl = (np.exp(p) * (p - q)).sum(-1)
    delta = np.exp(q_token) - np.exp(p_token)
    return {
        "ratio": math.exp(p_token.mean() - q_token.mean()),
        "kl": [kl.mean(), kl.max(), np.median(kl), np.quantile(kl, 0.99), kl.min()],
        "delta": [delta.mean(), delta.max(), np.median(delta), np.quantile(delta, 0.25)],
        "rms": math.sqrt((delta**2).mean()),
        "same": (p.argmax(-1) == q.argmax(-1)).mean(),
        "correlation": np.corrcoef(p_token, q_token)[0, 1],
        "errors": [each.std(ddof=1) / math.sqrt(len(kl)) for each in (kl, p_token - q_token, delta)],
    }


def test_the_distance_is_that_of_transformers_probabilities(small_chat: Path, other_chat: Path) -> None:
    expected = expected_comparison(small_chat, other_chat)
    with Llama.load(small_chat) as llama, Llama.load(other_chat) as base:
        found = compare_predictions(llama, base, TEXT, PerplexityOptions(length=64, stride=32, bos="text"))
    kl, delta = found.kl, found.delta_p
    assert [kl.mean.value, kl.maximum, kl.percentiles[50], kl.percentiles[99], kl.minimum] == pytest.approx(
        expected["kl"], rel=1e-4, abs=1e-6
    )
    assert [delta.mean.value, delta.maximum, delta.percentiles[50], delta.percentiles[25]] == pytest.approx(
        expected["delta"], rel=1e-3, abs=1e-7
    )
    assert found.ratio.value == pytest.approx(expected["ratio"], rel=1e-5)
    assert found.rms_delta_p.value == pytest.approx(expected["rms"], rel=1e-4)
    assert found.same_top.value == pytest.approx(expected["same"])
    assert found.correlation == pytest.approx(expected["correlation"], rel=1e-4)
    errors = [kl.mean.error, found.log_ratio.error, delta.mean.error]
    assert errors == pytest.approx(expected["errors"], rel=1e-3)


def test_every_token_counts_once() -> None:
    for n, length, stride, bos in [(100, 10, 3, None), (99, 10, 9, BOS), (7, 10, 2, BOS), (10, 10, 10, None)]:
        cut = windows(range(1000, 1000 + n), bos, PerplexityOptions(length=length, stride=stride))
        counted = [token for window in cut for token in window.targets]
        assert all(len(window.ids) <= length for window in cut)
        assert len(counted) == len(set(counted))
        if bos is not None or stride < length:
            assert counted == list(range(1000 + (bos is None), 1000 + n))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["perplexity", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_prints_the_figures_of_the_api(
    small_chat: Path, other_chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    flags = ["--length", "64", "--stride", "32", "--bos", "text"]
    expected = math.exp(-reference_logprobs(small_chat, 64, 32)[1].mean())
    code, out, _ = printed(capsys, str(small_chat), "--text", str(text), *flags, "--json")
    assert code == 0
    assert json.loads(out)["perplexity"]["value"] == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    code, out, _ = printed(capsys, str(small_chat), "--text", "-", "--against", str(other_chat), *flags)
    assert code == 0
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert float(rows["perplexity of small"].split()[0]) == pytest.approx(expected, rel=1e-5)
    assert {"KL divergence, mean", "KL divergence, 99.9%", "RMS Δp", "same top token"} <= set(map(str.strip, rows))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--text", "gone.txt"], "gone.txt"),
        (["--length", "1"], "length must be at least 2"),
        (["--length", "16", "--stride", "16"], "stride must be at most 15"),
        (["--length", "200000"], "context"),
        (["--dataset", "nobody/nothing"], "the data set nobody/nothing is unavailable"),
    ],
)
def test_bad_input_is_one_line(
    small_chat: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str], words: str
) -> None:
    if "--length" in flags:
        (tmp_path / "long.txt").write_text("x" * 300_000)
        flags = [*flags, "--text", str(tmp_path / "long.txt")]
    code, _, error = printed(capsys, str(small_chat), *flags)
    assert code == 2
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_models_of_other_tokens_are_refused(small_chat: Path, tiny_folder: Path) -> None:
    with (
        Llama.load(small_chat) as llama,
        Llama.load(tiny_folder) as base,
        pytest.raises(RequestError, match="don't have the same tokens"),
    ):
        compare_predictions(llama, base, TEXT)


def test_one_predicted_token_has_no_error(small_chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A standard error takes two observations; JSON has no nan (RFC 8259, section 6)."""
    flags = ["--text", str(tmp_path / "one.txt"), "--bos", "text"]
    (tmp_path / "one.txt").write_text("a")
    for more in ([], ["--against", str(small_chat)]):
        code, out, _ = printed(capsys, str(small_chat), *flags, *more)
        assert code == 0
        assert "1 in 1 window\n" in out
        assert "nan" not in out and "±" not in out
        found = json.loads(printed(capsys, str(small_chat), *flags, *more, "--json")[1], parse_constant=pytest.fail)
        assert found["perplexity"]["error"] is None


def test_an_empty_text_is_refused(small_chat: Path) -> None:
    with Llama.load(small_chat) as llama, pytest.raises(RequestError, match="nothing to predict"):
        measure_perplexity(llama, "")


def test_weights_that_are_no_numbers_are_an_error(small_chat: Path, tmp_path: Path) -> None:
    """Not a perplexity of nan, nor an accuracy of the first choices."""
    weights = load_file(small_chat / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    broken = save_small_chat(tmp_path / "broken", weights={**weights, name: weights[name] * np.nan})
    with Llama.load(broken) as llama, Llama.load(small_chat) as whole:
        for measure in (
            lambda: measure_perplexity(llama, TEXT),
            lambda: compare_predictions(whole, llama, TEXT),
            lambda: compare_predictions(llama, whole, TEXT),
            lambda: score_continuations(llama, [Continuation((1, 2), (3,))]),
        ):
            with pytest.raises(CheckpointError, match="the predictions of broken are not finite"):
                measure()
