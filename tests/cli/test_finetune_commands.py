"""The commands around training: data check, train with a report, fuse, adapter info, export and import, best-of-n."""

import json
import re
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from llama3_mlx.charts import Curve, line_chart
from llama3_mlx.checkpoint.folder import load_config
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.cli import main
from llama3_mlx.convert import convert
from llama3_mlx.convert.gguf.file import GGUFFile
from llama3_mlx.finetune import DataError, best_of_n, load_adapter
from llama3_mlx.llama import Llama

from ..support.llama_cpp import greedy_text
from ..support.server_fixtures import save_adapter

TOKENS = mx.array([[128000, 5, 9, 200, 77, 4012, 13]])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short dialogs."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    turns = [[{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} <b>"}] for n in range(6)]
    path.write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    return path


@pytest.fixture(scope="module")
def four_bits(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in 4 bits."""
    folder = tmp_path_factory.mktemp("quantized") / "tiny-4bit"
    convert(tiny_folder, folder, bits=4, group_size=32, quality="rtn")
    return folder


@pytest.fixture(scope="module")
def adapter(four_bits: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that the train command made on the 4-bit model."""
    folder = tmp_path_factory.mktemp("adapter") / "run"
    arguments = ["train", "-m", str(four_bits), "-d", str(data), "-o", str(folder), "--steps", "3", "--rank", "4"]
    shapes = ["--row-length", "64", "--batch-size", "1", "--learning-rate", "2e-3", "--warmup", "0", "--quiet"]
    assert main([*arguments, *shapes, "--samples", "1", "--sample-tokens", "3"]) == 0
    return folder


def logits(folder: Path, adapter: Path | None = None) -> np.ndarray:
    model = load_model(folder, dtype="float32")
    if adapter:
        load_adapter(model, adapter)
    return np.array(model(TOKENS)[0].astype(mx.float32))


def test_the_report_shows_curves_and_one_answer_before_and_after(adapter: Path) -> None:
    page = (adapter / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert page.count("Before<pre>") == page.count("After<pre>") == 1
    assert "&lt;b&gt;" in page
    assert "<h2>What to do next</h2>" in page
    assert "Nothing was held out" in page
    # Nothing was validated, and people don't read control tokens.
    assert "best step" not in page and "&lt;|" not in page


def test_no_samples_means_no_answers_are_made(four_bits: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["train", "-m", str(four_bits), "-d", str(data), "-o", str(tmp_path / "run"), "--steps", "1"]
    assert main([*arguments, "--row-length", "64", "--batch-size", "1", "--samples", "0", "--quiet"]) == 0
    assert not (tmp_path / "run" / "before.json").exists()
    assert "Before" not in (tmp_path / "run" / "report.html").read_text()


def test_a_chart_of_no_points_is_left_out() -> None:
    assert line_chart("Loss", [Curve("training", []), Curve("validation", [])], x_title="step") == ""
    curves = [Curve("training", [(1, 2.0), (2, 1.0)]), Curve("validation", [])]
    assert line_chart("Loss", curves, x_title="step").count("<polyline") == 1


def test_the_axes_of_a_chart_have_titles_and_round_numbers() -> None:
    drawn = line_chart("Loss", [Curve("a", [(1, 0.93), (47, 3.41)])], x_title="step", y_title="loss")
    words = re.findall(r">([^<>]+)</text>", drawn)
    assert words == ["0", "1", "2", "3", "4", "0", "20", "40", "60", "step", "loss"]


def test_data_check_counts_and_marks_what_is_learned(
    tiny_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(data), "-m", str(tiny_folder), "--show", "1"]) == 0
    shown = capsys.readouterr().out
    assert "6 examples" in shown
    assert "⟦0 <b><|eot_id|>⟧" in shown.replace("\n", "")
    assert main(["data", "check", str(data), "-m", str(tiny_folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["examples"] == 6
    assert sum(count for _, count in facts["histogram"]) == 6


def test_data_check_without_a_model_checks_the_data_alone_and_looks_for_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path))
    monkeypatch.delenv("LLAMA3_MLX_MODEL", raising=False)
    assert main(["data", "check", str(data)]) == 0
    out, err = capsys.readouterr()
    # "Say 0." and "0 <b>" are eleven characters.
    assert out.splitlines() == ["6 examples (dialogs), 66 characters", "lengths 11 to 11 characters, median 11"]
    assert err == "-m MODEL adds lengths in tokens, what is cut and which tokens are targets\n"
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"promt": "c"}\n')
    assert main(["data", "check", str(tmp_path / "bad.jsonl")]) == 2
    assert "line 2" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "bad.jsonl"), "--skip-bad", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["examples"], facts["kind"], facts["characters"]) == (1, "texts", 2)


def test_data_check_shows_both_sides_of_pairs(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"prompt": "Say it.", "chosen": "please", "rejected": "NOW!"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["data", "check", str(tmp_path / "pairs.jsonl"), "-m", str(tiny_folder)]) == 0
    out = capsys.readouterr().out
    assert "line 1, chosen" in out
    assert "⟦please<|eot_id|>⟧" in out
    assert "⟦NOW!<|eot_id|>⟧" in out


def test_fusing_into_a_quantized_base_keeps_the_effect(four_bits: Path, adapter: Path, tmp_path: Path) -> None:
    assert main(["fuse", "-m", str(four_bits), "-a", str(adapter), "-o", str(tmp_path / "fused")]) == 0
    base, adapted, fused = logits(four_bits), logits(four_bits, adapter), logits(tmp_path / "fused")
    base, adapted, fused = (each - each.mean(-1, keepdims=True) for each in (base, adapted, fused))
    assert np.linalg.norm(adapted - base) > 0
    # Other tokens than those the command measured on: a little below its 95% is right too.
    assert 1 - np.linalg.norm(fused - adapted) / np.linalg.norm(adapted - base) > 0.9


def test_fusing_back_to_the_base_s_bits_says_what_it_loses(
    four_bits: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fuse", "-m", str(four_bits), "-a", str(adapter), "-o", str(tmp_path / "fused"), "--bits", "4"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] < 0.95
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_hint_for_ollama_stands_last_and_makes_the_base_first(
    four_bits: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "style.gguf"
    assert main(["adapter", "export", str(adapter), str(out)]) == 0
    convert_line, create_line = capsys.readouterr().err.splitlines()[-2:]
    base = tmp_path / "base.gguf"
    assert convert_line.split() == ["llama3-mlx", "convert", str(four_bits), str(base)]
    assert create_line.split() == ["ollama", "create", "NAME", "-f", str(tmp_path / "style.Modelfile")]
    assert main(convert_line.split()[1:]) == 0
    assert GGUFFile(base).fields["general.architecture"] == "llama"
    assert "FROM ./base.gguf" in (tmp_path / "style.Modelfile").read_text()
    capsys.readouterr()
    assert main(["adapter", "export", str(adapter), str(out)]) == 0
    assert "convert" not in capsys.readouterr().err, "the base is there"


def test_an_adapter_goes_out_as_gguf_with_its_strength(four_bits: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter.gguf"
    assert main(["adapter", "export", str(adapter), str(out), "-m", str(four_bits)]) == 0
    reader = gguf.GGUFReader(out)
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    tensors = {tensor.name: tensor.data.astype(np.float32) for tensor in reader.tensors}
    ours = load_file(adapter / "adapters.safetensors")
    scale = json.loads((adapter / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    strength = reader.fields["adapter.lora.alpha"].contents() / 4
    for name, heads in (("attn_q", 4), ("attn_k", 2), ("attn_v", None), ("ffn_down", None)):
        path = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
                "ffn_down": "mlp.down_proj"}[name]  # fmt: skip
        a, b = (ours[f"model.layers.1.{path}.lora_{half}"] for half in "ab")
        expected = scale * (a @ b).T
        if heads:
            # The permutation of llama.cpp's converter.
            expected = (
                expected.reshape(heads, 2, expected.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(expected.shape)
            )
        made = strength * tensors[f"blk.1.{name}.weight.lora_b"] @ tensors[f"blk.1.{name}.weight.lora_a"]
        assert np.abs(made - expected).max() < 2e-3 * np.abs(expected).max()


def test_llama_cpp_writes_with_an_exported_adapter_what_we_write(smollm2_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    adapter = save_adapter(tmp_path / "adapter", 576, 576, layers=30, seed=3, size=0.08)
    base, prompt = tmp_path / "base.gguf", "Gravity is"
    convert(smollm2_folder, base, gguf_type="f16")
    assert main(["adapter", "export", str(adapter), str(tmp_path / "adapter.gguf"), "-m", str(smollm2_folder)]) == 0
    with Llama.load(smollm2_folder) as llama:
        plain = llama.generate(prompt, max_tokens=16, temperature=0).text
    with Llama.load(smollm2_folder, adapter=adapter) as llama:
        adapted = llama.generate(prompt, max_tokens=16, temperature=0).text
    assert adapted != plain
    assert greedy_text(base, prompt, 16, tmp_path / "adapter.gguf") == adapted


def test_an_adapter_goes_to_peft_and_back_with_the_same_logits(
    four_bits: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapter", "export", str(adapter), str(tmp_path / "peft"), "-m", str(four_bits)]) == 0
    assert (tmp_path / "peft" / "adapter_model.safetensors").exists()
    assert main(["adapter", "import", str(tmp_path / "peft"), str(tmp_path / "back"), "-m", str(four_bits)]) == 0
    assert np.abs(logits(four_bits, tmp_path / "back") - logits(four_bits, adapter)).max() < 1e-5
    assert isinstance(json.loads((tmp_path / "back" / "adapter_config.json").read_text())["lora_alpha"], int)
    capsys.readouterr()
    assert main(["adapter", "info", str(adapter), "-m", str(four_bits), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert load_config(four_bits).num_hidden_layers == 2
    assert facts


def test_best_of_n_keeps_the_answer_with_the_highest_reward(tiny_folder: Path, tmp_path: Path) -> None:
    rewards = tmp_path / "rewards.py"
    rewards.write_text(
        "def long(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n"
    )
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Name a fruit."}\n{"prompt": "Name a river."}\n')
    out = tmp_path / "out"
    with Llama.load(tiny_folder) as llama:
        from llama3_mlx.finetune.objectives.rollouts import RolloutOptions

        arguments = ([str(tmp_path / "prompts.jsonl")], out, [f"{rewards}:long"])
        best = best_of_n(llama, *arguments, n=3, sampling=RolloutOptions(4))
        assert (best.kept, best.prompts, best.reused) == (2, 2, 0)
        # A line separator of Unicode in an answer, and a line that a kill cut short.
        first, second = map(json.loads, (out / "answers.jsonl").read_text().splitlines())
        first[0] += "\u2028\x85"
        (out / "answers.jsonl").write_text(json.dumps(first, ensure_ascii=False) + "\n" + json.dumps(second)[:20])
        best = best_of_n(llama, *arguments, n=3, sampling=RolloutOptions(4))
        assert best.reused == 1
        answers = (out / "answers.jsonl").read_text()
        assert "\u2028" in answers
        with pytest.raises(DataError, match="drawn with another n: choose another folder"):
            best_of_n(llama, *arguments, n=2, sampling=RolloutOptions(4))
        # Mended rewards judge the same answers anew.
        rewards.write_text("def long(completions, **_):\n    return [-len(text) for text in completions]\n")
        shortest = best_of_n(llama, *arguments, n=3, sampling=RolloutOptions(4))
        # A function in place of a file's, which may fail: the answers stay.
        with pytest.raises(DataError, match="ZeroDivisionError"):
            best_of_n(llama, arguments[0], out, [lambda **_: [1 / 0]], n=3, sampling=RolloutOptions(4))
    assert (out / "answers.jsonl").read_text() == answers
    kept = [json.loads(line)["messages"] for line in shortest.file.read_text().splitlines()]
    for drawn, messages in zip(answers.split("\n"), kept, strict=False):
        assert len(messages[-1]["content"]) == min(map(len, json.loads(drawn)))
