"""Perplexity of a text, and how far a model's predictions on it are from another's.

Two models run side by side, window by window, so no logits are ever kept. The figures are those of llama.cpp's
`llama-perplexity --kl-divergence`: KL from the other model (the base) to this one, Δp the difference of the
probabilities that the two give to the text's own next token.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import mlx.core as mx
import numpy as np

from ..device import back_end, bounded_cache
from ..divergence import kl_divergence, log_probabilities, same_top, token_logprobs
from ..errors import CheckpointError, RequestError
from ..generation.limits import check_fits
from ..json_types import JsonObject
from ..llama import Llama
from ..model.transformer import LlamaForCausalLM
from .estimates import Array, Estimate, Spread, correlation, mean, root_mean_square, spread, without_nan
from .windows import PerplexityOptions, Window, windows

Progress = Callable[[int, int], None]
KL_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0)
DELTA_PERCENTILES = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)
# Tokens that a forward pass has at most, unless one window alone has more.
_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of one model on a text, with its standard error."""

    perplexity: Estimate
    tokens: int
    """Predicted tokens that count."""
    windows: int

    def to_dict(self) -> JsonObject:
        """Return the figures as JSON."""
        return without_nan(asdict(self))


@dataclass(frozen=True)
class Comparison:
    """A model beside another, the base, on the same tokens. Natural logarithms; probabilities from 0 to 1."""

    perplexity: Estimate
    base_perplexity: Estimate
    log_ratio: Estimate
    """ln(perplexity / base perplexity)."""
    ratio: Estimate
    difference: Estimate
    correlation: float
    """Of the two models' log-probabilities of the text's tokens."""
    kl: Spread
    """Kullback-Leibler divergence from the base to the model, nats a token."""
    delta_p: Spread
    """Probability of the text's next token, less the base's."""
    rms_delta_p: Estimate
    same_top: Estimate
    """Share of positions with the same most likely token."""
    tokens: int
    windows: int

    def to_dict(self) -> JsonObject:
        """Return the figures as JSON."""
        return without_nan(asdict(self))


def measure_perplexity(
    llama: Llama, text: str | Sequence[int], options: PerplexityOptions | None = None, progress: Progress | None = None
) -> Perplexity:
    """Measure the perplexity of a text.

    Args:
        llama: The model; an adapter that it was loaded with is applied.
        text: The text, every character of it ordinary, or its token ids without a beginning-of-text token.
        options: How the text is cut into windows.
        progress: Called with (windows so far, windows in all).

    Raises:
        RequestError: The text is too short, or a window doesn't fit the model's context.
        CheckpointError: The model's predictions are not finite.
    """
    cut = _windows(llama, text, options or PerplexityOptions())
    losses = []
    with bounded_cache():
        for batch in _batches(cut, progress):
            hidden = _hidden(llama, batch)
            for part, targets in _parts(llama, batch):
                losses.append(-np.array(token_logprobs(_logprobs(llama, hidden, part), targets), np.float64))
    each = np.concatenate(losses)
    _check_finite(llama, each)
    return Perplexity(mean(each).exp(), len(each), len(cut))


def compare_predictions(
    llama: Llama,
    base: Llama,
    text: str | Sequence[int],
    options: PerplexityOptions | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure how far a model's predictions of a text are from a base's; arguments as for `measure_perplexity`.

    Raises:
        RequestError: As `measure_perplexity`, and where the two models' tokens differ.
        CheckpointError: A model's predictions are not finite.
    """
    cut = _windows(llama, text, options or PerplexityOptions())
    if _windows(base, text, options or PerplexityOptions()) != cut or base.config.vocab_size != llama.config.vocab_size:
        raise RequestError(
            f"{llama.folder.name} and {base.folder.name} don't have the same tokens: only models of one tokenizer and "
            "vocabulary can be compared token by token"
        )
    rows = []
    with bounded_cache():
        for batch in _batches(cut, progress):
            hidden, base_hidden = _hidden(llama, batch), _hidden(base, batch)
            for part, targets in _parts(llama, batch):
                p, q = _logprobs(base, base_hidden, part), _logprobs(llama, hidden, part)
                figures = (kl_divergence(p, q), same_top(p, q), token_logprobs(p, targets), token_logprobs(q, targets))
                rows.append(np.stack([np.array(each, np.float64) for each in figures]))
    kl, agreed, base_logprobs, logprobs = np.concatenate(rows, axis=1)
    _check_finite(base, base_logprobs)
    _check_finite(llama, logprobs)
    return _comparison(kl, agreed, base_logprobs, logprobs, len(cut))


def _check_finite(llama: Llama, logprobs: Array) -> None:
    if not np.isfinite(logprobs).all():
        raise CheckpointError(
            f"the predictions of {llama.folder.name} are not finite: its weights are damaged or overflow the dtype"
        )


def _comparison(kl: Array, agreed: Array, base_logprobs: Array, logprobs: Array, n_windows: int) -> Comparison:
    perplexity, base_perplexity = mean(-logprobs).exp(), mean(-base_logprobs).exp()
    log_ratio = mean(base_logprobs - logprobs)
    delta_p = np.exp(logprobs) - np.exp(base_logprobs)
    n = len(kl)
    # The difference's error follows from the paired errors of the two logarithms.
    weighted = mean(perplexity.value * -logprobs - base_perplexity.value * -base_logprobs).error
    share = float(agreed.mean())
    return Comparison(
        perplexity=perplexity,
        base_perplexity=base_perplexity,
        log_ratio=log_ratio,
        ratio=log_ratio.exp(),
        difference=Estimate(perplexity.value - base_perplexity.value, weighted),
        correlation=correlation(logprobs, base_logprobs),
        kl=spread(kl, KL_PERCENTILES),
        delta_p=spread(delta_p, DELTA_PERCENTILES),
        rms_delta_p=root_mean_square(delta_p),
        same_top=Estimate(share, math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan),
        tokens=n,
        windows=n_windows,
    )


def _windows(llama: Llama, text: str | Sequence[int], options: PerplexityOptions) -> list[Window]:
    tokenizer = llama.tokenizer
    ids = tokenizer.encode(text) if isinstance(text, str) else llama.prompts.text(text)
    cut = windows(ids, tokenizer.bos_id if tokenizer.adds_bos else None, options)
    check_fits(max((window.ids for window in cut), key=len), llama.config.max_position_embeddings)
    return cut


def _batches(cut: Sequence[Window], progress: Progress | None) -> Iterator[list[Window]]:
    """Yield windows of one length that are run together."""
    start = 0
    while start < len(cut):
        if progress is not None:
            progress(start, len(cut))
        length = len(cut[start].ids)
        size = max(1, _BATCH_TOKENS // length)
        batch = [window for window in cut[start : start + size] if len(window.ids) == length]
        yield batch
        start += len(batch)
    if progress is not None:
        progress(len(cut), len(cut))


def _hidden(llama: Llama, batch: Sequence[Window]) -> mx.array:
    """Return the hidden states (n, D) from which the batch's targets are predicted, one after the other."""

    def run(model: LlamaForCausalLM) -> mx.array:
        h = model.hidden(mx.array([window.ids for window in batch], mx.int32))
        found = mx.concatenate([h[row, window.first - 1 : -1] for row, window in enumerate(batch)])
        mx.eval(found)
        return found

    return llama.compute(run)


def _parts(llama: Llama, batch: Sequence[Window]) -> Iterator[tuple[slice, mx.array]]:
    """Yield slices of the batch's targets whose logits are made at once, with the targets."""
    targets = [token for window in batch for token in window.targets]
    size = max(1, back_end().loss_chunk_bytes // (4 * llama.config.vocab_size))
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        yield part, mx.array(targets[part], mx.int32)


def _logprobs(llama: Llama, hidden: mx.array, part: slice) -> mx.array:
    """Return the log-probabilities (n, V) of a part of the hidden states."""

    def run(model: LlamaForCausalLM) -> mx.array:
        found = log_probabilities(model.head(hidden[part]))
        mx.eval(found)
        return found

    return llama.compute(run)
