"""The quantization methods, end to end on a small model: each is closer to the source, other tools load the result."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx import ConversionError, Llama3MLXError
from llama3_mlx.convert import convert, dry_run, measure
from llama3_mlx.convert.options import QUALITIES
from llama3_mlx.convert.quantization import corpus
from llama3_mlx.convert.quantization.divergence import ModuleDistance
from llama3_mlx.convert.quantization.methods import METHODS
from llama3_mlx.convert.quantization.sensitivity_plot import sensitivity_picture

from ...support.quality_fixtures import divergence, logits, opened, random_windows, save_uneven


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "WINDOW", 32)


def save_letters(path: Path, count: int) -> Path:
    path.write_text("".join(np.random.default_rng(3).choice(list("abcdefghijklmnop"), count)))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return save_letters(tmp_path / "text.txt", 800)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return save_uneven(tmp_path / "source", tie_word_embeddings=request.param)


def far(source: Path, result: Path) -> float:
    windows = random_windows(opened(source).config, 4, seed=9)
    return divergence(logits(source, windows), logits(result, windows))


def test_each_step_is_closer_to_the_source(source: Path, text: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "rtn", bits=4, quality="rtn")
    convert(source, tmp_path / "fast", bits=4, quality="fast")
    report = convert(source, tmp_path / "calibrated", bits=4, calibration=text)
    nearest, fast, calibrated = (far(source, tmp_path / name) for name in ("rtn", "fast", "calibrated"))
    assert fast < 0.95 * nearest
    assert calibrated < 0.3 * nearest
    assert report.quality is not None
    assert report.quality["kl"] > 0
    record = json.loads((tmp_path / "calibrated" / "conversion.json").read_text())
    assert record["quality"] == report.quality
    assert "calibrated on" in record["quantizer"]
    assert f"{report.quality['kl']:.5g}" in (tmp_path / "calibrated" / "README.md").read_text()


def test_unquantized_weights_are_equalized_by_default_and_quantized_ones_are_not(source: Path, tmp_path: Path) -> None:
    def weights(folder: Path) -> bytes:
        return (folder / "model.safetensors").read_bytes()

    for name, of, quality in (("whole", source, "fast"), ("again", tmp_path / "whole", "repack")):
        convert(of, tmp_path / name, bits=4)
        convert(of, tmp_path / f"{name}-{quality}", bits=4, quality=quality)
        assert weights(tmp_path / name) == weights(tmp_path / f"{name}-{quality}")


@pytest.mark.parametrize("quality", ["fast", "calibrated", "distilled"])
def test_mlx_lm_gives_the_same_logits(tmp_path: Path, text: Path, quality: str) -> None:
    from mlx_lm.utils import load_model as load_theirs

    source = save_uneven(tmp_path / "source")
    given: dict[str, Any] = {} if quality == "fast" else {"calibration": text}
    convert(source, tmp_path / "made", bits=4, quality=quality, **given)
    window = random_windows(opened(source).config, 1)
    theirs, _ = load_theirs(tmp_path / "made")
    theirs.set_dtype(mx.float32)
    np.testing.assert_allclose(
        logits(tmp_path / "made", window), np.array(theirs(mx.array(window))), atol=2e-3, rtol=2e-3
    )


def test_distilling_lessens_the_divergence(tmp_path: Path) -> None:
    source, text = save_uneven(tmp_path / "source"), save_letters(tmp_path / "text.txt", 3200)
    for quality in ("calibrated", "distilled"):
        convert(source, tmp_path / quality, bits=2, quality=quality, calibration=text)
    assert far(source, tmp_path / "distilled") < 0.99 * far(source, tmp_path / "calibrated")


def test_a_killed_calibration_goes_on_to_the_same_bytes(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama3_mlx.convert.quantization.calibration import Calibration
    from llama3_mlx.convert.targets import writer

    source = save_uneven(tmp_path / "source", tie_word_embeddings=False)
    monkeypatch.setattr(writer, "FLUSH_BYTES", 1)
    whole = convert(source, tmp_path / "whole", bits=4, calibration=text)
    asked = Calibration.__call__

    def broken(self: Calibration, tensor: str, *rest: Any) -> Any:
        if tensor == "model.layers.1.mlp.gate_proj":
            raise KeyboardInterrupt
        return asked(self, tensor, *rest)

    monkeypatch.setattr(Calibration, "__call__", broken)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "made", bits=4, calibration=text)
    monkeypatch.setattr(Calibration, "__call__", asked)
    resumed = convert(source, tmp_path / "made", bits=4, calibration=text)
    assert resumed.resumed_modules > 5
    assert resumed.quality == whole.quality
    for name in ("model.safetensors", "channel_scales.json", "conversion.json", "config.json"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("target", [3.7, 5.0])
def test_a_target_of_bits_is_met_and_closely(text: Path, tmp_path: Path, target: float) -> None:
    source = save_uneven(tmp_path / "source", tie_word_embeddings=target < 4)
    report = convert(source, tmp_path / "made", target_bpw=target, calibration=text, quality="fast")
    size = sum(path.stat().st_size for path in (tmp_path / "made").glob("*.safetensors"))
    assert report.bits_per_weight <= target
    assert report.bits_per_weight > target - 0.1
    # Headers of the file aside, that is what stands on the disk.
    assert size * 8 / report.parameters < target + 0.5


def test_a_target_below_what_can_be_is_refused(text: Path, tmp_path: Path) -> None:
    source = save_uneven(tmp_path / "source")
    with pytest.raises(ConversionError, match="the minimum for this model is 2"):
        convert(source, tmp_path / "made", target_bpw=2.1, calibration=text)


def test_a_report_has_every_module_and_a_picture(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "made", bits=4, quality="fast", report_to=tmp_path / "report")
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["whole"] == report.quality
    modules = [module["path"] for module in content["modules"]]
    tied = opened(source).config.tie_word_embeddings
    assert len(modules) == 2 * 7 + (1 if tied else 2)
    assert all(module["kl"] > 0 and module["bits"] == 4 for module in content["modules"])
    table = (tmp_path / "report" / "report.md").read_text()
    assert all(f"| {path} | affine 4/64 |" in table for path in modules)
    bars = ElementTree.parse(tmp_path / "report" / "sensitivity.svg").getroot()
    titles = [title.text or "" for title in bars.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == len(modules)


def test_a_folder_that_exists_is_measured_as_it_was_when_it_was_made(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "made", bits=4, quality="fast", report_to=tmp_path / "report")
    found = measure(tmp_path / "made", source, report_to=tmp_path / "again")
    assert report.quality is not None
    assert found == pytest.approx(dict(report.quality), rel=1e-4)
    modules = [json.loads((tmp_path / name / "report.json").read_text())["modules"] for name in ("report", "again")]
    assert [module["path"] for module in modules[1]] == [module["path"] for module in modules[0]]


def test_the_table_of_methods_names_every_quality_and_modules_that_exist() -> None:
    assert tuple(METHODS) == QUALITIES
    folder = Path(corpus.__file__).parent
    for method in METHODS.values():
        assert all((folder / name).is_file() for name in method.modules.split(", ")), method


def test_a_target_beyond_what_the_schemes_can_spend_is_noted_before_and_after(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 bits in groups of 32 are 9 bits for every weight in a matrix, the most there is."""
    source = save_uneven(tmp_path / "source")
    expected = dry_run(source, tmp_path / "made", target_bpw=12)
    report = convert(source, tmp_path / "made", target_bpw=12, calibration=text, quality="fast")
    assert expected.bits_per_weight == pytest.approx(report.bits_per_weight, abs=0.01)
    for notes in (expected.notes, report.notes):
        assert any(note.startswith("9.0") and "the target of 12" in note for note in notes), notes
    with pytest.raises(ConversionError, match="the minimum for this model is 2"):
        dry_run(source, tmp_path / "other", target_bpw=2.05)
    monkeypatch.setattr(
        "llama3_mlx.convert.quantization.methods.sensitivities", lambda *_, **__: pytest.fail("measured")
    )
    with pytest.raises(ConversionError, match="the minimum for this model is 2"):
        convert(source, tmp_path / "other", target_bpw=2.05, calibration=text)


@pytest.mark.parametrize(("highest", "step"), [(0.0791, 0.02), (3.0, 1.0), (0.00012, 0.00005), (1.0, 0.5)])
def test_bars_are_as_high_as_the_numbers_beside_them_say(highest: float, step: float) -> None:
    paths = ["model.embed_tokens", *(f"model.layers.{layer}.mlp.up_proj" for layer in range(90)), "lm_head"]
    drawn = ElementTree.fromstring(sensitivity_picture([ModuleDistance(path, highest, 0.9) for path in paths]))
    space = "{http://www.w3.org/2000/svg}"
    texts = [(text.text or "", text.attrib) for text in drawn.iter(f"{space}text")]
    assert {"emb", "head"} <= {text for text, _ in texts}
    ticks = [(float(text), float(at["y"])) for text, at in texts if at.get("text-anchor") == "end"]
    assert [value for value, _ in ticks] == pytest.approx([step * n for n in range(len(ticks))])
    (_, bottom), (last, top) = ticks[0], ticks[-1]
    bars = [bar.attrib for bar in drawn.iter(f"{space}rect") if len(bar)]
    assert len(bars) == len(paths)
    assert all(float(bar["height"]) == pytest.approx(highest / last * (bottom - top), abs=0.01) for bar in bars)
    assert all(float(bar["x"]) + float(bar["width"]) <= float(drawn.attrib["width"]) for bar in bars)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quality": "fast"}, "needs bits"),
        ({"bits": 4, "quality": "best"}, "rtn, repack, fast, calibrated, distilled"),
        ({"bits": 4, "quality": "fast", "calibration": "builtin"}, "uses no text"),
        ({"bits": 4, "target_bpw": 5.0}, "leave out bits"),
        ({"target_bpw": 1.0}, "more than 2"),
        ({"bits": 4, "calibration": "missing.txt"}, "can't be read"),
    ],
)
def test_settings_that_do_not_agree_are_one_line(tmp_path: Path, settings: Any, words: str) -> None:
    source = save_uneven(tmp_path / "source")
    with pytest.raises(ConversionError, match=words) as caught:
        convert(source, tmp_path / "made", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_a_dry_run_tells_the_size_and_that_calibrating_comes_on_top(tmp_path: Path) -> None:
    source = save_uneven(tmp_path / "source")
    expected = dry_run(source, tmp_path / "made", bits=4, calibration="builtin")
    assert any("calibration comes on top" in warning for warning in expected.notes)
    convert(source, tmp_path / "fast", bits=4, quality="fast")
    size = sum(path.stat().st_size for path in (tmp_path / "fast").glob("*.safetensors"))
    assert sum(expected.files.values()) == size


@pytest.mark.parametrize("target", [3.7, 5.0])
def test_a_dry_run_tells_the_size_that_a_target_will_have(text: Path, tmp_path: Path, target: float) -> None:
    source = save_uneven(tmp_path / "source")
    expected = dry_run(source, tmp_path / "made", target_bpw=target)
    assert any("measured" in warning for warning in expected.notes)
    assert not (tmp_path / "made").exists()
    convert(source, tmp_path / "made", target_bpw=target, calibration=text, quality="fast")
    size = sum(path.stat().st_size for path in (tmp_path / "made").glob("*.safetensors"))
    assert sum(expected.files.values()) == pytest.approx(size, rel=0.05)
    assert expected.bits_per_weight == target


def test_a_quantized_gguf_is_calibrated_with_a_warning(text: Path, tmp_path: Path) -> None:
    convert(save_uneven(tmp_path / "source"), tmp_path / "source.gguf", gguf_type="q8_0")
    plain = convert(tmp_path / "source.gguf", tmp_path / "plain", bits=4, report_to=tmp_path / "report")
    made = convert(tmp_path / "source.gguf", tmp_path / "made", bits=4, calibration=text)
    assert plain.quality is not None
    assert made.quality is not None
    assert made.quality["kl"] < plain.quality["kl"]
    assert any("quantized" in warning for warning in made.notes)


def test_a_report_needs_a_tokenizer_before_the_work_begins(tmp_path: Path) -> None:
    source = save_uneven(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    with pytest.raises(Llama3MLXError, match="tokenizer"):
        convert(source, tmp_path / "made", bits=4, report_to=tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    source = save_uneven(tmp_path / "source")
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ConversionError, match="too few"):
        convert(source, tmp_path / "made", bits=4, calibration=tmp_path / "short.txt")
