"""Opens whatever holds weights: a folder of Hugging Face's or Meta's files, a GGUF file, a Hub id."""

from pathlib import Path

from ..checkpoint.weight_files import safetensors_names
from ..errors import CheckpointError
from ..library.download_bar import download_bar
from ..library.resolver import resolve_config, resolve_model
from .sources.source import Source


def open_source(source: str | Path, *, progress: bool = False) -> Source:
    """Return the source at a path or Hub id; raises CheckpointError or HubError saying what is accepted."""
    path = Path(source).expanduser()
    if path.is_file():
        if is_gguf(path):
            from .gguf.source import GGUFSource

            return GGUFSource(path)
        if path.suffix in (".safetensors", ".pth", ".bin"):
            raise CheckpointError(f"{path} is a part of a model: name the folder that it is in")
        raise CheckpointError(
            f"{path} is not a GGUF file, which begins with 'GGUF': accepted are folders, GGUF files and Hub ids"
        )
    if not progress:
        return _open_folder(resolve_model(source))
    with download_bar(str(source)) as report:
        return _open_folder(resolve_model(source, report=report))


def outline_source(source: str | Path) -> Source:
    """Return the source for a dry run: where only a config.json can be had without a download, that will do."""
    path = Path(source).expanduser()
    if path.exists() and not path.is_dir():
        return open_source(source)
    folder = resolve_config(source)
    weights = (*safetensors_names(folder), *folder.glob("*.bin"), *folder.glob("*.[gG][gG][uU][fF]"))
    if (folder / "config.json").exists() and not weights:
        from .sources.outline import OutlineSource

        return OutlineSource(folder)
    return _open_folder(folder)


def is_gguf(path: Path) -> bool:
    """Return whether a file is GGUF, whatever its name: Ollama's blobs have no suffix."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _open_folder(folder: Path) -> Source:
    gguf_files = sorted(path for path in folder.glob("*.[gG][gG][uU][fF]") if path.is_file())
    described = (folder / "config.json").exists()
    if described and (safetensors_names(folder) or not gguf_files):
        from .sources.huggingface import HFSource

        return HFSource(folder)
    # Where Hugging Face keeps Meta's files.
    original = folder / "original"
    if not described and (original / "params.json").exists():
        folder = original
    if not described and ((folder / "params.json").exists() or any(folder.glob("consolidated.*.pth"))):
        from .sources.meta import MetaSource

        return MetaSource(folder)
    if gguf_files:
        from .gguf.source import GGUFSource

        if len(gguf_files) > 1 and "-00001-of-" not in gguf_files[0].name:
            raise CheckpointError(f"{folder} has {len(gguf_files)} GGUF files: name one of them")
        return GGUFSource(gguf_files[0])
    from .sources.huggingface import HFSource

    return HFSource(folder)
