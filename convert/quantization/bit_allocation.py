"""Allocates a budget of bits: each matrix gets the scheme that its sensitivity is worth."""

from collections.abc import Sequence
from math import prod

from ...errors import ConversionError
from ...model.config import ModelConfig
from ...model.parameters import expected_tensors
from ...model.quantization import Quantization, Scheme
from ..plan import reachable_bpw
from .sensitivity import Sensitivity

_HALVINGS = 200


def allocate(config: ModelConfig, found: Sequence[Sensitivity], target_bpw: float) -> Quantization:
    """Return the schemes of the smallest expected divergence within `target_bpw` bits per weight.

    Everything counts: scales, biases and what isn't quantized, at 16 bits. At a price per bit each matrix takes the
    scheme of the smallest total cost; bisection finds the price, and the rest of the budget goes, cheapest first, to
    matrices that still have room for a better scheme. Raises ConversionError where the target is below the minimum.
    """
    # A matrix whose rows no group size divides stays unquantized.
    found = [entry for entry in found if entry.costs]
    total = sum(map(prod, expected_tensors(config).values()))
    kept = total - sum(entry.weights for entry in found)
    budget = target_bpw * total - 16 * kept
    reachable_bpw(config, target_bpw)
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
    if not by_path:
        raise ConversionError("no group size divides the rows of this model's matrices: it can't be quantized")
    default = max(set(by_path.values()), key=lambda scheme: (list(by_path.values()).count(scheme), scheme.bits))
    return Quantization(default, {path: scheme for path, scheme in by_path.items() if scheme != default})


Allocation = list[tuple[Sensitivity, Scheme]]


def _bits(entry: Sensitivity, scheme: Scheme) -> float:
    return entry.weights * scheme.bits_per_weight


def _spent(choice: Allocation) -> float:
    return sum(_bits(entry, scheme) for entry, scheme in choice)


def _chosen(found: Sequence[Sensitivity], price: float) -> Allocation:
    """Return each matrix's best scheme at a price of a bit."""
    return [
        (entry, min(entry.costs, key=lambda scheme: (entry.costs[scheme] + price * _bits(entry, scheme), scheme.bits)))
        for entry in found
    ]


def _filled(choice: Allocation, budget: float) -> Allocation:
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
