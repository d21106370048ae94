"""`llama3-mlx serve`: OpenAI's, Ollama's and Anthropic's protocols, and a page to chat on."""

import argparse
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..distributed.share_files import open_unfetched
from ..errors import CheckpointError, MissingExtraError, RequestError
from ..library.catalogue import Catalogue
from ..library.home import EMBEDDED_MODEL, models_folder
from ..library.hub import HubId, repository_of
from ..library.resolver import base_of_adapter, resolve_adapter, resolve_local
from ..server.settings import ServerSettings
from .flags import add_flags, from_flags
from .model_choice import VARIABLE, choose_model, write_notes


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    parser.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        action="append",
        help="folder, name or Hub id of a model to serve; repeatable (default: as for generate, but models on this "
        "machine come before the Hub's)",
    )
    parser.add_argument(
        "--adapter",
        metavar="NAME=ADAPTER",
        action="append",
        default=[],
        help="LoRA adapter that requests can name as MODEL:NAME; repeatable",
    )
    add_flags(parser, ServerSettings, "server")


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    settings = from_flags(args, ServerSettings)
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError.of(f"serve needs {' and '.join(missing)}", "server")
    # Of a model on several nodes, each downloads what it needs.
    chosen = [(choice, choose_model(choice, weights=settings.n_nodes == 1)) for choice in _requested(args)]
    models = _by_name("model", [served_name(choice, folder) for choice, folder in chosen])
    adapters = _by_name("adapter", [_adapter(text) for text in args.adapter])
    for folder in models.values():
        _ = open_unfetched(folder).config
    write_notes(adapter_notes(Catalogue(models, adapters, with_home=not models), adapters))
    if settings.n_nodes > 1:
        from ..distributed.loading import lead

        lead(settings.n_nodes)
    from ..server.running import serve

    return serve(settings, models, adapters)


def _requested(args: argparse.Namespace) -> list[str | None]:
    """Return the models of the command line, the default one, or none where others can be named by requests."""
    if args.model:
        return list(args.model)
    known = Catalogue({}, {}).models()
    has_default = bool(os.environ.get(VARIABLE)) or EMBEDDED_MODEL in known
    return [] if known and not has_default else [None]


def adapter_notes(catalogue: Catalogue, adapters: Mapping[str, Path]) -> Iterator[str]:
    """Yield a note on each adapter that fits no served model, or fits one that it wasn't made for."""
    models = catalogue.models().values()
    for name, path in adapters.items():
        fitting = [model for model in models if name in catalogue.adapters(model)]
        if not fitting:
            yield f"the adapter {name} fits none of the models that are served, so that no request can name it"
        base = base_of_adapter(path)
        folder = resolve_local(base) if base else None
        for model in fitting:
            same = folder is not None and folder.resolve() == model.folder.resolve()
            if base and not same and base not in (model.name, repository_of(model.folder)):
                yield f"{model.name}:{name} is offered, but {name} was made for {base}: its answers may be worse"


def _by_name(kind: str, named: list[tuple[str, Path]]) -> dict[str, Path]:
    """Return the folders by name; raises RequestError where two have one name."""
    found: dict[str, Path] = {}
    for name, folder in named:
        if found.setdefault(name, folder) != folder:
            raise RequestError(f"two {kind}s are called {name}: {found[name]} and {folder}; rename one of the folders")
    return found


def served_name(requested: str | None, folder: Path) -> tuple[str, Path]:
    """Return the name of a model: its Hub id if that was requested, else as `models` lists it, else the folder's.

    A link has its own name, not that of the folder that it leads to.
    """
    found = folder.resolve()
    if requested and HubId.parse(requested) and (name := repository_of(folder)):
        return name, found
    home, named = models_folder().resolve(), _as_named(folder)
    return str(named.relative_to(home)) if named.is_relative_to(home) else named.name, found


def _as_named(path: Path) -> Path:
    """Return the absolute path of a file or folder without links, but for the last part if that is one."""
    absolute = path.absolute()
    return absolute.parent.resolve() / absolute.name if absolute.is_symlink() else absolute.resolve()


def _adapter(text: str) -> tuple[str, Path]:
    name, found, folder = text.partition("=")
    path = resolve_adapter(folder if found else text)
    if not (path / "adapter_config.json").is_file():
        raise CheckpointError(f"{path} has no adapter_config.json: is it the folder of an adapter?")
    return name if found else _as_named(path).name, path.resolve()
