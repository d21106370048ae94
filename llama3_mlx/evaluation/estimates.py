"""Means with their standard errors, percentiles, and what is derived from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..json_types import JsonObject

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its standard error, nan where there is one observation alone."""

    value: float
    error: float

    def __str__(self) -> str:
        return self.shown(lambda value: f"{value:.6g}", lambda error: f"{error:.2g}")

    def shown(self, value: Callable[[float], str], error: Callable[[float], str] | None = None) -> str:
        """Return the value with its error behind ±, formatted by the functions; without one where there is none."""
        return value(self.value) + ("" if math.isnan(self.error) else f" ± {(error or value)(self.error)}")

    def times(self, factor: float) -> "Estimate":
        """Return the estimate in another unit."""
        return Estimate(self.value * factor, self.error * abs(factor))

    def exp(self) -> "Estimate":
        """Return e to this power, with the error of first order."""
        value = math.exp(self.value) if self.value < 700 else math.inf
        return Estimate(value, value * self.error)


@dataclass(frozen=True, slots=True)
class Spread:
    """How a quantity is spread over tokens; percentiles by their percentage."""

    mean: Estimate
    minimum: float
    maximum: float
    percentiles: dict[float, float]


def without_nan(figures: Mapping[str, Any]) -> JsonObject:
    """Return figures for JSON, which knows no nan: null where there is none."""
    return {
        name: without_nan(value) if isinstance(value, Mapping) else None if value != value else value
        for name, value in figures.items()
    }


def mean(values: Array) -> Estimate:
    """Return the mean and its standard error, observations taken to be independent."""
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(values.mean()), error)


def root_mean_square(values: Array) -> Estimate:
    """Return the root of the mean square, with the error of first order."""
    square = mean(values**2)
    root = math.sqrt(square.value)
    return Estimate(root, 0.5 * square.error / root if root else 0 * square.error)


def spread(values: Array, percentages: Sequence[float]) -> Spread:
    """Return mean, extremes and the percentiles asked for."""
    found = np.percentile(values, percentages)
    percentiles = {share: float(value) for share, value in zip(percentages, found, strict=True)}
    return Spread(mean(values), float(values.min()), float(values.max()), percentiles)


def correlation(x: Array, y: Array) -> float:
    """Return Pearson's correlation; nan where one of the two doesn't vary."""
    if len(x) < 2 or not x.std() or not y.std():
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])
