"""Spends a budget of bits where they save most: each matrix gets the scheme that its sensitivity is worth."""

from collections.abc import Sequence
from math import prod

from ...errors import ConversionError
from ...model.config import ModelConfig
from ...model.parameters import expected_tensors
from ...model.quantization import Quantization, Scheme
from .sensitivity import Sensitivity

_HALVINGS = 200


def allocate(config: ModelConfig, found: Sequence[Sensitivity], target_bpw: float) -> Quantization:
    """Return the schemes whose expected divergence is least at no more than `target_bpw` bits a weight.

    Everything counts: scales, biases and what isn't quantized, at 16 bits. For a price of a bit every matrix takes
    the scheme whose cost and price are least; the price is found by halving, and what is left over goes, cheapest
    first, to matrices that a better scheme still fits. Raises ConversionError where the target can't be met.
    """
    total = sum(map(prod, expected_tensors(config).values()))
    kept = total - sum(entry.weights for entry in found)
    budget = target_bpw * total - 16 * kept
    least = sum(entry.weights * min(scheme.bits_per_weight for scheme in entry.costs) for entry in found)
    if budget < least:
        lowest = (least + 16 * kept) / total
        raise ConversionError(f"{target_bpw} bits a weight can't be met: the least for this model is {lowest:.2f}")
    low, high = 0.0, 1.0
    while _spent(_chosen(found, high)) > budget:
        high *= 2
    for _ in range(_HALVINGS):
        price = (low + high) / 2
        if _spent(_chosen(found, price)) > budget:
            low = price
        else:
            high = price
    schemes = _filled(_chosen(found, high), budget)
    by_path = {entry.path: scheme for entry, scheme in schemes}
    default = max(set(by_path.values()), key=lambda scheme: (list(by_path.values()).count(scheme), scheme.bits))
    return Quantization(default, {path: scheme for path, scheme in by_path.items() if scheme != default})


Choice = list[tuple[Sensitivity, Scheme]]


def _bits(entry: Sensitivity, scheme: Scheme) -> float:
    return entry.weights * scheme.bits_per_weight


def _spent(choice: Choice) -> float:
    return sum(_bits(entry, scheme) for entry, scheme in choice)


def _chosen(found: Sequence[Sensitivity], price: float) -> Choice:
    """Return each matrix's best scheme at a price of a bit."""
    return [
        (entry, min(entry.costs, key=lambda scheme: (entry.costs[scheme] + price * _bits(entry, scheme), scheme.bits)))
        for entry in found
    ]


def _filled(choice: Choice, budget: float) -> Choice:
    """Return the choice with what is left of the budget spent on the steps that save most for their bits."""
    schemes = dict(choice)
    left = budget - _spent(choice)
    while True:
        steps = [
            ((entry.costs[now] - cost) / (_bits(entry, scheme) - _bits(entry, now)), entry, scheme)
            for entry, now in schemes.items()
            for scheme, cost in entry.costs.items()
            if cost < entry.costs[now] and 0 < _bits(entry, scheme) - _bits(entry, now) <= left
        ]
        if not steps:
            return list(schemes.items())
        _, entry, scheme = max(steps, key=lambda step: step[0])
        left -= _bits(entry, scheme) - _bits(entry, schemes[entry])
        schemes[entry] = scheme
