"""Names of models and adapters: folders, the home folder, Hub ids and pasted addresses, in every command."""

import json
from pathlib import Path

import pytest

from llama3_mlx import CheckpointError, Llama
from llama3_mlx.cli import main
from llama3_mlx.errors import AdapterError
from llama3_mlx.library.hub import HubId
from llama3_mlx.library.resolver import base_of_adapter, destination, resolve_adapter, resolve_model

from ..support.server_fixtures import save_adapter


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the tiny model as `mine` and `owner/tiny`, and an adapter `colors` over the first."""
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LLAMA3_MLX_MODEL", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    home = tmp_path / "home"
    for name in ("mine", "owner/tiny"):
        folder = home / "models" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(tiny_folder)
    (home / "adapters" / "colors").mkdir(parents=True)
    adapter = save_adapter(home / "adapters" / "colors", 128, 64, layers=2, seed=1, size=0.1)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "mine"}))
    return home


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("owner/name", "owner/name", None),
        ("owner/name@v1", "owner/name", "v1"),
        ("https://huggingface.co/owner/name", "owner/name", None),
        ("huggingface.co/owner/name/", "owner/name", None),
        ("https://huggingface.co/owner/name/tree/v1", "owner/name", "v1"),
        ("https://huggingface.co/owner/name/blob/main/config.json", "owner/name", "main"),
        ("https://huggingface.co/owner/name?library=mlx", "owner/name", None),
        ("https://hf.co/owner/name@v1", "owner/name", "v1"),
        ("hf.co/owner/name", "owner/name", None),
        ("hf://owner/name", "owner/name", None),
    ],
)
def test_ids_and_pasted_addresses_are_one_thing(text: str, repository: str, revision: str | None) -> None:
    """The forms of addresses are those of the Hub's pages and of its own command `hf`."""
    assert HubId.parse(text) == HubId(repository, revision)


@pytest.mark.parametrize("text", ["name", "a/b/c", "./a/b", "https://example.com/owner/name", "owner/na me", ""])
def test_other_texts_are_no_hub_id(text: str) -> None:
    assert HubId.parse(text) is None


def test_names_of_the_home_folder_are_models_and_adapters(home: Path, tiny_folder: Path) -> None:
    assert resolve_model("mine") == home / "models" / "mine"
    assert resolve_model("mine:latest") == home / "models" / "mine"
    assert resolve_model("owner/tiny") == home / "models" / "owner" / "tiny"
    assert resolve_adapter("colors") == home / "adapters" / "colors"
    Path("mine").mkdir()
    assert resolve_model("mine") == Path("mine"), "a folder here comes first"
    with Llama.load("owner/tiny", adapter="colors") as llama:
        assert llama.adapter_names == ("adapter",)


@pytest.mark.parametrize("name", ["../models/mine", "mine/../mine", "~/mine", "/mine"])
def test_a_path_does_not_lead_out_of_the_home_folder(home: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        resolve_model(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mini", "did you mean mine?"),
        ("Mine", "did you mean mine?"),
        ("tiny", "did you mean owner/tiny?"),
        ("llama3.2", "did you mean mlx-community/Llama-3.2-3B-Instruct-4bit?"),
        ("llama3.2:1b", "did you mean mlx-community/Llama-3.2-1B-Instruct-4bit?"),
    ],
)
def test_a_name_that_is_near_is_suggested(home: Path, name: str, meant: str) -> None:
    with pytest.raises(CheckpointError, match=r"there is no model .* owner/name\[@revision\]; ") as caught:
        resolve_model(name)
    assert str(caught.value).endswith(meant)
    with pytest.raises(AdapterError, match="did you mean colors"):
        resolve_adapter("color")


def test_a_bare_name_of_a_new_model_is_in_the_home_folder(home: Path) -> None:
    assert destination("new") == home / "models" / "new"
    assert destination("./new") == Path("new")
    assert destination("new.gguf") == Path("new.gguf")
    assert destination("folder/new") == Path("folder/new")
    Path("there").mkdir()
    assert destination("there") == Path("there"), "what is here already is meant"
    Path("link").symlink_to("a-disk-that-is-not-mounted/new")
    assert destination("link") == Path("link")


def test_what_is_converted_to_a_bare_name_is_listed_and_used_by_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "mine", "small", "--bits", "4", "--group-size", "32", "--quality", "rtn"]) == 0
    assert not Path("small").exists()
    assert str(home / "models" / "small") in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert "small" in [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    for command in (["info", "small"], ["generate", "-m", "small", "-p", "Hi", "--max-tokens", "2"]):
        assert main(command) == 0, capsys.readouterr().err


def test_the_base_that_an_adapter_names_is_taken(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert base_of_adapter(home / "adapters" / "colors") == "mine"
    assert main(["adapter", "info", "colors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["generate", "--adapter", "colors", "-p", "Hi", "--max-tokens", "2"]) == 0
    assert "using mine, the base that the adapter names" in capsys.readouterr().err
    assert main(["adapter", "export", "colors", "out"]) == 0
    assert main(["fuse", "-a", "colors", "-o", "fused"]) == 0
    assert (home / "models" / "fused" / "config.json").exists()


def test_an_adapter_whose_base_is_elsewhere_is_shown_without_a_download(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "adapters" / "colors" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "owner/absent"}))
    assert main(["adapter", "info", "colors"]) == 2
    error = capsys.readouterr().err
    assert "the base owner/absent isn't on this machine: name its folder with -m MODEL" in error
    assert error.count("\n") == 1
    assert main(["adapter", "info", "colors", "-m", "mine"]) == 0


def test_missing_data_are_told_before_a_model_is_looked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("absent.jsonl", "./absent", "absent.py:examples"):
        assert main(["data", "check", name]) == 2
        assert capsys.readouterr().err == f"error: there is no file or folder {name.removeprefix('./').split(':')[0]}\n"
