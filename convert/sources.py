"""Opens whatever holds weights: a folder, a GGUF file, a Hub id."""

from pathlib import Path

from ..errors import CheckpointError
from ..hub import resolve_model
from .tensors import Source


def open_source(source: str | Path, *, progress: bool = False) -> Source:
    """Return the source at a path or Hub id; raises CheckpointError or HubError saying what is accepted."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix == ".gguf":
            from .gguf_source import GGUFSource

            return GGUFSource(path)
        raise CheckpointError(f"{path} is no GGUF file: accepted are folders, .gguf files and Hub ids")
    folder = resolve_model(source, progress=progress)
    if (folder / "config.json").exists():
        from .hf_source import HFSource

        return HFSource(folder)
    gguf_files = sorted(folder.glob("*.gguf"))
    if gguf_files:
        from .gguf_source import GGUFSource

        if len(gguf_files) > 1 and "-00001-of-" not in gguf_files[0].name:
            raise CheckpointError(f"{folder} has {len(gguf_files)} GGUF files: name one of them")
        return GGUFSource(gguf_files[0])
    from .hf_source import HFSource

    return HFSource(folder)
