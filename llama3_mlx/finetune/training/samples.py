"""Answers of a model to some of its examples, before and after training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...model.transformer import LlamaForCausalLM
from ...tokenizer.tokenizer import Tokenizer
from ..data.encoding import Example
from ..objectives.rollouts import RolloutOptions, draw_rollouts


@dataclass(frozen=True)
class Probe:
    """The prompt of an example, as token ids, and the answer that stands in the data."""

    prompt: tuple[int, ...]
    expected: str
    shown: str


def make_probes(examples: Sequence[Example], tokenizer: Tokenizer, n: int) -> list[Probe]:
    """Return the prompts of the first `n` examples whose target tokens follow a prompt."""
    found: list[Probe] = []
    for example in examples:
        if len(found) == n:
            break
        first = int(np.argmax(example.is_target)) if example.is_target.any() else 0
        if first == 0:
            continue
        prompt = example.ids[:first].tolist()
        answer = example.ids[first:][example.is_target[first:]].tolist()
        found.append(Probe(tuple(prompt), tokenizer.decode(answer, control=False), shown_text(tokenizer, prompt)))
    return found


def shown_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return a prompt as people read it: a line break where control tokens stand, which say nothing to them."""
    pieces, ordinary = [], []
    for token in ids:
        if tokenizer.control_text(token) is None:
            ordinary.append(token)
        elif ordinary:
            pieces.append(tokenizer.decode(ordinary).strip())
            ordinary = []
    return "\n".join(piece for piece in [*pieces, tokenizer.decode(ordinary).strip()] if piece)


def answers(
    model: LlamaForCausalLM,
    probes: Sequence[Probe],
    tokenizer: Tokenizer,
    stop_ids: Sequence[int],
    max_tokens: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Return the model's most likely answer to each prompt; after `cancelled` no more of them."""
    training = model.training
    model.eval()
    options = RolloutOptions(max_tokens, 0)
    made = [draw_rollouts(model, probe.prompt, 1, options, stop_ids, 0)[0] for probe in probes if not cancelled()]
    model.train(training)
    return [tokenizer.decode(answer.ids, control=False) for answer in made]
