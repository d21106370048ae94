"""Opens whatever holds weights: a folder of Hugging Face's or Meta's files, a GGUF file, a Hub id."""

import shlex
from pathlib import Path

from ..checkpoint.folder import ModelFolder
from ..checkpoint.recognition import is_draft_head
from ..checkpoint.weight_files import safetensors_names
from ..errors import CheckpointError
from ..library.download_bar import download_bar
from ..library.hub import HubId, is_id
from ..library.resolver import resolve_config, resolve_draft, resolve_model
from ..model.config import load_json_object
from .sources.source import Source

_GGUF_MAGIC = b"GGUF"
_PARTS_OF_MODELS = (".safetensors", ".pth", ".bin", ".json")


def open_source(source: str | Path, *, progress: bool = False) -> Source:
    """Return the source at a path or Hub id; raises CheckpointError or HubError saying what is accepted.

    A GGUF file is known by its first bytes, whatever its name: Ollama keeps its models as blobs without a suffix.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if is_gguf(path):
            return _open_gguf(path)
        if path.suffix.lower() in _PARTS_OF_MODELS:
            raise CheckpointError(f"{path} is a part of a model: name the folder that it is in")
        raise CheckpointError(
            f"{path} is not a GGUF file, which begins with 'GGUF': accepted are folders, GGUF files and Hub ids"
        )
    _refuse_missing(source)
    if not progress:
        return _open_folder(resolve_model(source))
    with download_bar(str(source)) as report:
        return _open_folder(resolve_model(source, report=report))


def find_draft_head(source: str | Path, *, progress: bool = False) -> Path | None:
    """Return the folder of a draft head at a path or Hub id, None for anything else."""
    _refuse_missing(source)
    if Path(source).expanduser().is_file():
        return None
    path = resolve_config(source) / "config.json"
    if not path.exists() or not is_draft_head(load_json_object(path)):
        return None
    if not progress:
        return resolve_draft(source)
    with download_bar(str(source)) as report:
        return resolve_draft(source, report=report)


def outline_source(source: str | Path) -> Source:
    """Return the source for a dry run: a config.json will do where there is nothing else without a download."""
    path = Path(source).expanduser()
    if path.exists() and not path.is_dir():
        return open_source(source)
    _refuse_missing(source)
    folder = resolve_config(source)
    weights = (*safetensors_names(folder), *folder.glob("*.bin"), *_ggufs(folder))
    if (folder / "config.json").exists() and not weights:
        from .sources.outline import OutlineSource

        return OutlineSource(folder)
    return _open_folder(folder)


def _refuse_missing(source: str | Path) -> None:
    """Raise CheckpointError for a file that isn't there: no folder, name or repository is called like one."""
    path, hub_id = Path(source).expanduser(), HubId.parse(str(source))
    is_address = hub_id is not None and not is_id(str(source))
    if path.suffix.lower() in (".gguf", *_PARTS_OF_MODELS) and not is_address and not path.exists():
        raise CheckpointError(f"there is no file {path}")


def is_gguf(path: Path) -> bool:
    """Return whether a file begins as GGUF files do; raises CheckpointError if it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None


def _open_folder(folder: Path) -> Source:
    # GGUF repositories often have a config.json that belongs to no weights of theirs.
    gguf_files, described = _ggufs(folder), (folder / "config.json").exists()
    if described and (safetensors_names(folder) or not gguf_files):
        return _open_safetensors(folder)
    # Where Hugging Face keeps Meta's files.
    original = folder / "original"
    if not described and (original / "params.json").exists():
        folder = original
    if not described and ((folder / "params.json").exists() or any(folder.glob("consolidated.*.pth"))):
        from .sources.meta import MetaSource

        return MetaSource(folder)
    if len(gguf_files) > 1 and "-00001-of-" not in gguf_files[0].name:
        names = ", ".join(file.name for file in gguf_files[:5])
        raise CheckpointError(
            f"{folder} has {len(gguf_files)} GGUF files ({names}): name one of them, as in "
            f"llama3-mlx convert {shlex.quote(str(gguf_files[0]))} DEST"
        )
    return _open_gguf(gguf_files[0]) if gguf_files else _open_safetensors(folder)


def _open_safetensors(folder: Path) -> Source:
    from .sources.huggingface import HFSource
    from .sources.packed import PackedSource, quantization_of

    opened = ModelFolder(folder)
    entry = quantization_of(opened)
    return HFSource(opened) if entry is None else PackedSource(opened, entry)


def _open_gguf(path: Path) -> Source:
    from .gguf.source import GGUFSource

    return GGUFSource(path)


def _ggufs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
