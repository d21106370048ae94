"""Opens whatever holds weights: a folder of Hugging Face's or Meta's files, a GGUF file, a Hub id."""

from pathlib import Path

from ..errors import CheckpointError
from ..library.download_bar import download_bar
from ..library.resolver import resolve_config, resolve_model
from .sources.source import Source


def open_source(source: str | Path, *, progress: bool = False) -> Source:
    """Return the source at a path or Hub id; raises CheckpointError or HubError saying what is accepted."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix == ".gguf":
            from .gguf.source import GGUFSource

            return GGUFSource(path)
        if path.suffix in (".safetensors", ".pth", ".bin"):
            raise CheckpointError(f"{path} is a part of a model: name the folder that it is in")
        raise CheckpointError(f"{path} is no GGUF file: accepted are folders, .gguf files and Hub ids")
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
    if (folder / "config.json").exists() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        from .sources.outline import OutlineSource

        return OutlineSource(folder)
    return _open_folder(folder)


def _open_folder(folder: Path) -> Source:
    if (folder / "config.json").exists():
        from .sources.huggingface import HFSource

        return HFSource(folder)
    # Where Hugging Face keeps Meta's files.
    original = folder / "original"
    if (original / "params.json").exists():
        folder = original
    if (folder / "params.json").exists() or any(folder.glob("consolidated.*.pth")):
        from .sources.meta import MetaSource

        return MetaSource(folder)
    gguf_files = sorted(folder.glob("*.gguf"))
    if gguf_files:
        from .gguf.source import GGUFSource

        if len(gguf_files) > 1 and "-00001-of-" not in gguf_files[0].name:
            raise CheckpointError(f"{folder} has {len(gguf_files)} GGUF files: name one of them")
        return GGUFSource(gguf_files[0])
    from .sources.huggingface import HFSource

    return HFSource(folder)
