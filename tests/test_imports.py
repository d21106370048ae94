"""Imports between rooms run one way: a table says which room may import which.

A room is a package; where a package holds further packages, each module directly in it is a room of its own. Imports
inside functions and for type checking count like any other.
"""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "llama3_mlx"

# From the bottom to the top: a room may import only what stands above it in this table. "." is the package itself.
ROOMS = {
    "charts": "",
    "units": "",
    "version": "",
    "trees": "",
    "json_types": "",
    "errors": "",
    "blas": "",
    "dtypes": "",
    "device": "dtypes errors",
    "divergence": "",
    "settings": "errors json_types",
    "schema": "errors json_types",
    "tools": "errors json_types schema",
    "generation": "errors json_types settings tools units",
    "kv_cache": "errors settings",
    "model": "device dtypes errors json_types kv_cache units",
    "files": "errors",
    "checkpoint": "device dtypes errors files json_types model",
    "prefix_cache": "checkpoint errors files kv_cache model",
    "speculation": "checkpoint device dtypes errors files generation json_types kv_cache model prefix_cache",
    "tokenizer": "checkpoint errors json_types model",
    "structured": "errors generation json_types schema tokenizer tools",
    "engine": "device errors generation kv_cache model prefix_cache speculation structured tokenizer tools",
    "finetune.layers": "errors model",
    "library": "checkpoint dtypes errors json_types model units",
    "adapters": "checkpoint errors files finetune.layers json_types library model",
    "distributed": (
        "adapters checkpoint device dtypes errors json_types kv_cache library model prefix_cache settings version"
    ),
    "chat": "checkpoint errors json_types tokenizer",
    "prompts": "chat errors generation json_types tokenizer tools",
    "loader": (
        "adapters chat checkpoint distributed engine errors json_types kv_cache library model prefix_cache speculation "
        "tokenizer"
    ),
    "submission": "engine errors generation loader structured tools",
    "generating": "chat engine errors generation json_types loader prompts submission tools",
    "needs": "checkpoint device library model",
    "llama": (
        "adapters chat device distributed engine errors generating generation json_types kv_cache library loader model "
        "needs prompts submission tools"
    ),
    "applications": "device errors library loader",
    ".": "applications blas engine errors generation kv_cache llama loader needs structured tools version",
    "bench": (
        "blas charts device distributed errors generation json_types kv_cache llama model settings units version"
    ),
    "convert.keywords": "",
    "convert.options": "dtypes errors json_types model settings",
    "convert.plan": "dtypes errors model",
    "convert.phases": "",
    "convert.sources": "chat checkpoint dtypes errors files json_types library model tokenizer",
    "convert.quantization": (
        "charts checkpoint convert.options convert.phases convert.plan convert.sources divergence dtypes errors files "
        "json_types model tokenizer"
    ),
    "convert.targets": (
        "checkpoint convert.plan convert.quantization convert.sources dtypes errors files json_types library "
        "model units version"
    ),
    "convert.pipeline": "checkpoint convert.phases convert.sources convert.targets errors files",
    "convert.draft_head": "checkpoint convert.options convert.pipeline dtypes errors files model speculation",
    "convert.forecasting": "convert.pipeline convert.sources convert.targets",
    "convert.gguf": (
        "chat checkpoint convert.quantization convert.sources convert.targets dtypes errors files json_types "
        "model tokenizer version"
    ),
    "convert.hints": "convert.options convert.sources convert.targets model",
    "convert.opening": "checkpoint convert.gguf convert.sources errors library model",
    "convert.target_choice": (
        "convert.gguf convert.options convert.phases convert.plan convert.quantization convert.sources "
        "convert.targets dtypes errors model"
    ),
    "convert.api": (
        "checkpoint convert.draft_head convert.forecasting convert.hints convert.keywords convert.opening "
        "convert.options convert.phases convert.pipeline convert.plan convert.quantization convert.sources "
        "convert.target_choice convert.targets errors files model"
    ),
    "convert": "convert.api convert.forecasting convert.options convert.pipeline convert.targets",
    "finetune.distributed": "trees",
    "finetune.kernels": "device kv_cache model trees",
    "finetune.keywords": "",
    "finetune.settings": "errors finetune.layers json_types settings",
    "finetune.data": "chat errors files finetune.settings json_types tokenizer",
    "finetune.objectives": (
        "chat device engine errors finetune.data finetune.distributed finetune.kernels finetune.settings "
        "generation model speculation tokenizer trees"
    ),
    "finetune.training": (
        "adapters charts chat checkpoint device dtypes errors files finetune.data finetune.distributed "
        "finetune.kernels finetune.layers finetune.objectives finetune.settings json_types library model "
        "tokenizer trees units"
    ),
    "finetune.sft": ("finetune.data finetune.keywords finetune.objectives finetune.settings finetune.training library"),
    "finetune.drafting": (
        "adapters checkpoint device dtypes errors files finetune.data finetune.keywords finetune.kernels "
        "finetune.layers finetune.objectives finetune.settings finetune.sft finetune.training json_types library "
        "llama model speculation"
    ),
    "finetune.reinforcement": "chat errors finetune.data finetune.objectives finetune.settings finetune.training",
    "finetune.best_of": (
        "errors files finetune.data finetune.objectives finetune.reinforcement finetune.settings json_types llama"
    ),
    "finetune.fusing": (
        "adapters checkpoint convert.targets dtypes errors files finetune.layers library model tokenizer trees"
    ),
    "finetune.preference": (
        "errors finetune.data finetune.keywords finetune.objectives finetune.settings finetune.sft finetune.training"
    ),
    "safety.shield": "errors json_types settings",
    "safety.policy": "errors",
    "safety.verdict": "safety.policy",
    "safety.prompt": "chat errors json_types safety.policy tokenizer",
    "safety.scoring": "kv_cache model",
    "safety.guard": ("chat errors json_types llama safety.policy safety.prompt safety.scoring safety.verdict"),
    "safety": "safety.guard safety.policy safety.verdict",
    "evaluation": (
        "charts device divergence errors files generation json_types kv_cache llama model prefix_cache settings"
    ),
    "server": "",
    "server.settings": "distributed errors settings",
    "server.http": "errors json_types library server.settings",
    "server.core": (
        "checkpoint device distributed engine errors generation json_types library llama model prompts safety "
        "safety.guard safety.shield server.http server.settings settings structured tokenizer tools units"
    ),
    "server.openai": "json_types library safety server.core server.http",
    "server.anthropic": "json_types server.core server.http",
    "server.ollama": "chat convert errors json_types library server.core server.http tokenizer",
    "server.operations": "json_types library server.core server.http version",
    "server.page": "server.http",
    "server.tokens": "json_types server.core server.http server.openai",
    "server.app": (
        "errors json_types library safety.shield server.anthropic server.core server.http server.ollama server.openai "
        "server.operations server.page server.settings server.tokens version"
    ),
    "server.running": "errors library server.app server.http server.settings",
    "cli": (
        "adapters bench blas chat checkpoint convert convert.forecasting convert.options convert.pipeline "
        "convert.quantization convert.sources convert.targets device distributed dtypes engine errors evaluation files "
        "finetune.best_of finetune.data finetune.distributed finetune.drafting finetune.fusing finetune.objectives "
        "finetune.preference finetune.reinforcement finetune.settings finetune.sft finetune.training "
        "generation json_types kv_cache library llama model prefix_cache safety safety.prompt safety.shield "
        "server.running server.settings settings speculation tools units version"
    ),
    "__main__": "cli",
    "lm_eval": "errors evaluation",
    "finetune": (
        "adapters errors finetune.best_of finetune.drafting finetune.fusing finetune.preference finetune.reinforcement "
        "finetune.settings finetune.sft finetune.training"
    ),
    "llm_plugin": "generation json_types library llama settings",
}


@cache
def modules() -> dict[str, tuple[Path, bool]]:
    """Return every module by its dotted name, with its file and whether it is a package."""
    found = {}
    for folder, prefix in (("llama3_mlx", []), ("convert", [PACKAGE])):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [*prefix, *path.relative_to(ROOT).with_suffix("").parts]
            if prefix or parts[1:2] != ["convert"]:
                package = parts[-1] == "__init__"
                found[".".join(parts[:-1] if package else parts)] = (path, package)
    return found


@cache
def room(module: str) -> str:
    """Return the room of a module, without the package's name."""
    packages = {name for name, (_, package) in modules().items() if package}
    parent = module.rpartition(".")[0]
    holds_packages = any(name.startswith(f"{parent}.") for name in packages)
    found = module if module in packages or holds_packages else parent
    return "." if found == PACKAGE else found.removeprefix(f"{PACKAGE}.")


def imported(module: str) -> set[str]:
    """Return the project's modules that a module imports, wherever in it."""
    path, package = modules()[module]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = module.split(".")
            base = parts[: len(parts) - node.level + package]
            target = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            names = {f"{target}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else target for name in names}
    return found


@cache
def used() -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in modules():
        found[room(module)] |= {room(name) for name in imported(module)} - {room(module)}
    return found


def test_a_room_imports_what_the_table_allows_and_nothing_else() -> None:
    wrong = []
    for name, rooms in used().items():
        allowed = set(ROOMS.get(name, "").split())
        wrong += [f"{name} imports {other}: not in the table" for other in sorted(rooms - allowed)]
        wrong += [f"{name} doesn't import {other}: take it out of the table" for other in sorted(allowed - rooms)]
    wrong += [f"{name} isn't in the table" for name in used() if name not in ROOMS]
    wrong += [f"{name} is no room" for name in ROOMS if name not in used()]
    assert not wrong, "\n".join(wrong)


def test_no_room_imports_upward() -> None:
    order = {name: place for place, name in enumerate(ROOMS)}
    upward = [
        f"{name} imports {other}, which stands higher"
        for name, others in ROOMS.items()
        for other in others.split()
        if order[other] >= order[name]
    ]
    assert not upward, "\n".join(upward)


def test_inside_the_project_imports_are_relative() -> None:
    absolute = [
        f"{module}: {node.module}"
        for module, (path, _) in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == PACKAGE
    ]
    assert not absolute
