"""The presets on a few lines in the form of each data set, and the way from data to files for other programs."""

import csv
import json
from pathlib import Path

import pytest
from gguf import GGUFReader

from examples.recipes import finetune, local_app, own_data
from llama3_mlx import Llama
from llama3_mlx.finetune import TrainSettings

DIALOGUE = "Ann: Are you coming to the party at 8?\r\nBen: Not before 9.\r\nAnn: Ok."


def data_of(preset: str, folder: Path, count: int = 20) -> Path:
    """Write data of the form in which the set is published."""
    if preset == "samsum":
        rows = [{"id": str(n), "summary": f"Ben comes at {n}.", "dialogue": DIALOGUE} for n in range(count)]
    elif preset == "alpaca":
        rows = [
            {"instruction": f"Add 1 to {n}.", "input": "" if n % 2 else "Briefly.", "output": str(n + 1)}
            for n in range(count)
        ]
    elif preset == "grammar":
        with (folder / "jfleg.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [("input", "target"), *((f"He go to {n}.", f"He goes to {n}.") for n in range(count))]
            )
        return folder / "jfleg.csv"
    else:
        (folder / "faq.txt").write_text("".join(f"Price of {n}? | {n} crowns\n" for n in range(count)))
        return Path(f"{own_data.__file__}:load")
    (folder / "data.json").write_text(json.dumps(rows))
    return folder / "data.json"


@pytest.mark.parametrize("preset", finetune.PRESETS)
def test_a_preset_trains_on_data_of_its_form(
    preset: str, small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAQ_FILE", str(tmp_path / "faq.txt"))
    result, losses = finetune.finetune(preset, small_chat, data_of(preset, tmp_path), tmp_path / "out", steps=2)
    assert result.steps == 2
    assert len(losses) >= 2
    assert losses[-1] < losses[0]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["lora_parameters"]["rank"] == finetune.PRESETS[preset].settings.rank
    assert finetune.answer(small_chat, tmp_path / "out", "Hi", max_tokens=2) is not None


def test_one_script_leads_from_data_to_local_applications(small_chat: Path, tmp_path: Path) -> None:
    data = data_of("alpaca", tmp_path)

    def build() -> local_app.Results:
        out, settings = tmp_path / "out", TrainSettings(rank=2, steps=2, samples=0, learning_rate=1e-2)
        return local_app.build(
            small_chat, data, out, "small", settings=settings, gguf_type="q8_0", bits=8, group_size=32
        )

    found = build()
    assert found.modelfile.read_text() == "FROM ./small.gguf\n"
    assert found.lmstudio.relative_to(tmp_path) == Path("out/lmstudio/local/small")
    reader = GGUFReader(found.gguf)
    assert {"blk.0.attn_q.weight", "token_embd.weight"} <= {tensor.name for tensor in reader.tensors}
    question = [{"role": "user", "content": "Add 1 to 3."}]
    with Llama.load(small_chat, adapter=found.adapter) as llama:
        expected = llama.chat(question, max_tokens=3, temperature=0).token_ids
    with Llama.load(found.merged) as llama:
        assert llama.chat(question, max_tokens=3, temperature=0).token_ids == expected
    with Llama.load(found.lmstudio) as llama:
        assert llama.chat(question, max_tokens=1).token_ids is not None
    written = found.gguf.stat().st_mtime_ns
    again = build()
    assert again.gguf.stat().st_mtime_ns == written
