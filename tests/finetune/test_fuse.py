"""How fuse writes its folder: in one step, or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx import ConversionError
from llama3_mlx.convert import convert
from llama3_mlx.convert.targets import writer
from llama3_mlx.finetune import fuse

from ..support.quality_fixtures import save_uneven
from ..support.server_fixtures import save_adapter


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_uneven(tmp_path_factory.mktemp("models") / "source")


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llama3_mlx.checkpoint.folder import load_config

    config = load_config(model)
    inputs = config.num_attention_heads * config.head_dim
    folder = tmp_path_factory.mktemp("adapter")
    return save_adapter(folder, inputs, config.hidden_size, layers=config.num_hidden_layers)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Stopped(Exception):
    """Ends a conversion midway."""


class StopsAfter:
    """A progress that ends the conversion after so many tensors."""

    def __init__(self, tensors: int) -> None:
        self.left = tensors

    def stage(self, name: str) -> None:
        return

    def start(self, total_tensors: int, total_bytes: int) -> None:
        return

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        self.left -= finished
        if not self.left:
            raise Stopped


def failing_at(patch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Have the call of that number fail among those that flush or rename; return what counts them."""
    seen = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == step:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace"):
        patch.setattr(os, name, counted(getattr(os, name)))
    return lambda: seen


def test_whatever_fails_the_old_result_or_the_new_one_stands_whole(model: Path, adapter: Path, tmp_path: Path) -> None:
    fuse(model, adapter, tmp_path / "whole", bits="float32")
    convert(model, tmp_path / "out", bits=4)
    old, new = content(tmp_path / "out"), content(tmp_path / "whole")
    assert old != new
    found = []
    for step in range(1, 100):
        with pytest.MonkeyPatch.context() as patch:
            count = failing_at(patch, step)
            try:
                fuse(model, adapter, tmp_path / "out", bits="float32", force=True)
            except ConversionError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
            steps = count()
        found.append(content(tmp_path / "out"))
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".out.old") == ["out", "whole"]
        if steps < step:
            break
    # The folder's own flush, after the new one has taken its place, is the only step after which it may be there.
    assert found[-1] == found[-2] == new
    assert len(found) > 5
    assert all(each == old for each in found[:-2])


def test_fusing_leaves_a_conversion_to_the_same_place_resumable(
    model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FLUSH_BYTES", 1)
    with pytest.raises(Stopped):
        convert(model, tmp_path / "out", bits=4, progress=StopsAfter(10))
    fuse(model, adapter, tmp_path / "out")
    fuse(model, adapter, tmp_path / "out", force=True)
    assert convert(model, tmp_path / "out", bits=4, force=True).resumed_modules > 0


def test_what_is_no_model_and_what_holds_base_or_adapter_is_not_replaced(
    model: Path, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "letter.txt").write_text("dear")
    with pytest.raises(ConversionError, match="not the folder of a model"):
        fuse(model, adapter, tmp_path / "papers", force=True)
    with pytest.raises(ConversionError, match="holds the source"):
        fuse(model, adapter, model, force=True)
    inner = convert(model, tmp_path / "out", bits=4).path / "adapter"
    adapter.rename(inner)
    try:
        with pytest.raises(ConversionError, match="holds the source"):
            fuse(model, inner, tmp_path / "out", force=True)
    finally:
        inner.rename(adapter)
