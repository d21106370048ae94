"""Chat templates with names, in the layout that transformers saves them in, go wherever a model goes."""

from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llama3_mlx.chat.template_files import own_templates
from llama3_mlx.convert import convert
from llama3_mlx.convert.targets import writer
from llama3_mlx.finetune import fuse
from llama3_mlx.library.catalogue import ModelEntry
from llama3_mlx.library.storage import copy_model

from ..library.test_hub import run_command
from ..support.fake_hub import running_hub
from ..support.quality_fixtures import save_uneven
from ..support.server_fixtures import save_adapter

TEMPLATES = {
    "default": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    "rag": "{{ documents }}",
    "tool_use": "{{ tools }}",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_uneven(tmp_path_factory.mktemp("models") / "source")
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=TEMPLATES)
    tokenizer.save_pretrained(folder)
    names = sorted(path.name for path in (folder / "additional_chat_templates").iterdir())
    assert names == ["rag.jinja", "tool_use.jinja"]
    return folder


def in_transformers(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.parametrize("settings", [{"bits": 4}, {"to": "hf", "dtype": "float32"}])
def test_a_conversion_keeps_them(model: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    convert(model, tmp_path / "out", **settings)
    assert in_transformers(tmp_path / "out") == own_templates(tmp_path / "out") == TEMPLATES


def test_a_resumed_conversion_keeps_them(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FLUSH_BYTES", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llama3_mlx.convert.pipeline.fsync_folder", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(model, tmp_path / "out", bits=4)
    assert convert(model, tmp_path / "out", bits=4).resumed_modules > 0
    assert in_transformers(tmp_path / "out") == TEMPLATES


def test_fusing_keeps_them(model: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    fuse(model, save_adapter(tmp_path / "adapter", 128, 128), tmp_path / "out")
    assert in_transformers(tmp_path / "out") == TEMPLATES


def test_a_download_keeps_them(model: Path, tmp_path: Path) -> None:
    (model / "original").mkdir(exist_ok=True)
    (model / "original" / "model.safetensors").write_text("large")
    with running_hub() as (hub, address):
        hub.repositories["owner/name"] = model
        result = run_command(tmp_path, address, "convert", "owner/name", str(tmp_path / "out"), "--bits", "4")
        assert result.returncode == 0, result.stderr
        assert "original/model.safetensors" not in {name for name, _ in hub.fetched}
    assert in_transformers(tmp_path / "out") == TEMPLATES


def test_a_copy_on_the_server_keeps_them(model: Path, tmp_path: Path) -> None:
    copy_model(ModelEntry("source", model), tmp_path / "copy")
    assert in_transformers(tmp_path / "copy") == TEMPLATES


def test_gguf_has_them_under_the_keys_of_the_gguf_package_and_gives_them_back(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "out.gguf")
    reference = gguf.GGUFWriter(tmp_path / "reference.gguf", "llama")
    reference.add_chat_template([{"name": name, "template": text} for name, text in TEMPLATES.items()])
    reference.write_header_to_file()
    reference.write_kv_data_to_file()
    reference.close()
    ours, theirs = (gguf.GGUFReader(tmp_path / name).fields for name in ("out.gguf", "reference.gguf"))
    keys = {key for key in theirs if "chat_template" in key}
    assert len(keys) == 4
    assert {key for key in ours if "chat_template" in key} == keys
    for key in keys:
        got, expected = ours[key].contents(), theirs[key].contents()
        # The names are a list in no order.
        assert got == expected or (isinstance(got, list) and sorted(got) == sorted(expected)), key
    convert(tmp_path / "out.gguf", tmp_path / "back", bits=4)
    assert in_transformers(tmp_path / "back") == own_templates(tmp_path / "back") == TEMPLATES
