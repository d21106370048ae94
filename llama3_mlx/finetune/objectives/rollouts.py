"""Several answers to one prompt, drawn by the engine from a model that is being trained."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import mlx.core as mx

from ...engine.engine import Engine
from ...engine.reply import Stream
from ...engine.request import AnswerRequest, Request
from ...engine.settings import EngineSettings
from ...generation.completion import Completion
from ...generation.options import GenerationOptions
from ...model.transformer import LlamaForCausalLM
from ...tokenizer.detokenizer import Detokenizer

# Answers that are generated at once.
_MAX_ROLLOUTS = 128


@dataclass(frozen=True)
class RolloutOptions:
    """How answers are drawn; temperature 0 takes the most likely token."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Rollout:
    """Token ids of an answer, the stop token included if it came to one."""

    ids: tuple[int, ...]
    stopped: bool


def draw_rollouts(
    model: LlamaForCausalLM,
    prompt: Sequence[int],
    n: int,
    sampling: RolloutOptions,
    stop_ids: Collection[int],
    seed: int,
) -> list[Rollout]:
    """Return n answers to a prompt; the same for the same seed."""
    # Another thread runs the model: what is lazy here can't be computed there.
    mx.eval(model.parameters())
    settings = EngineSettings(
        memory_bytes=2**62,
        bytes_per_token=1.0,
        prefix_bytes=0,
        stop_ids=frozenset(stop_ids),
        max_sequences=_MAX_ROLLOUTS,
    )
    engine = Engine(model, settings, lambda _: Detokenizer(lambda _: b""))
    try:
        streams = [Stream() for _ in range(n)]
        asks = [
            AnswerRequest(_options(sampling, (seed << 20) + at), stream.reply, sampling.max_tokens)
            for at, stream in enumerate(streams)
        ]
        for start in range(0, n, _MAX_ROLLOUTS):
            engine.submit(Request(list(prompt), asks[start : start + _MAX_ROLLOUTS], bulk=True))
        return [_answer(stream.completion) for stream in streams]
    finally:
        engine.close()


def _options(sampling: RolloutOptions, seed: int) -> GenerationOptions:
    return GenerationOptions(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed % 2**64,
        speculate=False,
    )


def _answer(done: Completion) -> Rollout:
    if done.stop_token is None:
        return Rollout(done.token_ids, stopped=False)
    return Rollout((*done.token_ids, done.stop_token), stopped=True)
