"""Tables and a picture of a quantization's error: the whole model, each layer, each module."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ...files import save_json, save_text
from ...model.quantization import Scheme
from ..phases import MEASURING, Phase, unseen
from ..plan import matrices, module_schemes
from ..sources.huggingface import HFSource
from ..sources.source import Source
from .divergence import Distance, ModuleDistance, distance, module_distances
from .sensitivity_plot import sensitivity_picture

# Tokens that each module alone is measured on: every one of them is a pass through the rest of the model.
_MODULE_TOKENS = 128


def measured(
    source: Source,
    reference: Source,
    written: Path,
    windows: Sequence[Sequence[int]],
    report_to: Path | None,
    phase: Phase = unseen,
) -> Mapping[str, float]:
    """Return how far a written folder is from its source, on windows of tokens that nothing is calibrated on.

    `reference` is the source with its channels scaled as the folder's are. With `report_to` every module is measured
    as well, and report.json, report.md and sensitivity.svg are written into that folder.
    """
    result = HFSource(written)
    try:
        whole = distance(source, result, windows, partial(phase, MEASURING))
        if report_to is not None:
            _save(report_to, result, whole, module_distances(reference, result, windows[0][:_MODULE_TOKENS]))
    finally:
        result.close()
    return asdict(whole)


def _save(folder: Path, result: Source, whole: Distance, modules: Sequence[ModuleDistance]) -> None:
    schemes = module_schemes(result.config, result.config.quantization)
    order = {path: place for place, path in enumerate(matrices(result.config))}
    modules = sorted(modules, key=lambda module: order[module.path])
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{**asdict(module), **_scheme_entry(schemes.get(module.path))} for module in modules]
    save_json(folder / "report.json", {"whole": asdict(whole), "modules": entries})
    save_text(folder / "report.md", _tables(whole, modules, schemes))
    save_text(folder / "sensitivity.svg", sensitivity_picture(modules))


def _scheme_entry(scheme: Scheme | None) -> dict[str, object]:
    return scheme.to_dict() if scheme else {"bits": None}


def _tables(whole: Distance, modules: Sequence[ModuleDistance], schemes: Mapping[str, Scheme]) -> str:
    lines = [
        "# Distance to the source",
        "",
        f"On {whole.tokens} predicted tokens of text that nothing was calibrated on.",
        "",
        "| | |",
        "| --- | --- |",
        f"| KL divergence, nats a token | {whole.kl:.5f} |",
        f"| perplexity | {whole.perplexity:.3f} |",
        f"| perplexity of the source | {whole.source_perplexity:.3f} |",
        f"| same most likely token | {whole.top1_agreement:.2%} |",
        "",
        "![KL divergence by layer](sensitivity.svg)",
        "",
        "Each module quantized alone, on the beginning of that text:",
        "",
        "| module | scheme | KL, nats a token | same most likely token |",
        "| --- | --- | --- | --- |",
    ]
    for module in modules:
        scheme = schemes.get(module.path)
        kind = f"{scheme.mode} {scheme.bits}/{scheme.group_size}" if scheme else "not quantized"
        lines.append(f"| {module.path} | {kind} | {module.kl:.6f} | {module.top1_agreement:.2%} |")
    return "\n".join(lines) + "\n"
