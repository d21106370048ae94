"""An engine over some processes beside one in a process alone: what a host (see node_host.py) finds."""

import contextlib
import io
import random
from collections.abc import Iterator
from typing import Any
from unittest import mock

from llama3_mlx import Llama  # isort: skip
import mlx.core as mx

from llama3_mlx.distributed import loading
from llama3_mlx.engine.reply import Stream
from llama3_mlx.evaluation.perplexity import measure_perplexity
from llama3_mlx.evaluation.scoring import score_continuations
from llama3_mlx.evaluation.sharing import Continuation
from llama3_mlx.evaluation.windows import PerplexityOptions
from llama3_mlx.generation.sampling import uniforms

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}
GREEDY: dict[str, Any] = {"max_tokens": 8, "temperature": 0}


def requests(count: int) -> list[dict[str, Any]]:
    """Return mixed requests: lengths, seeds, penalties, structure, shared prefixes, cancels."""
    rng = random.Random(0)
    stem = "The quick brown fox jumps over the lazy dog. " * 8
    made = []
    for number in range(count):
        settings: dict[str, Any] = {"max_tokens": rng.randint(1, 24), "seed": number}
        settings["temperature"] = rng.choice([0.0, 0.8, 1.0])
        if number % 5 == 1:
            settings["repetition_penalty"] = 1.2
        if number % 7 == 2:
            settings["schema"] = SCHEMA
        if number % 6 == 3:
            settings["speculate"] = False
        start = rng.choice([0, 0, 40, 200])
        made.append(
            {
                "prompt": stem[:start] + "".join(rng.choices("abc def", k=rng.randint(1, 60))),
                "cancel": rng.random() < 0.15,
                "settings": settings,
            }
        )
    return made


def answers(llama: Llama, asked: list[dict[str, Any]]) -> list[list[int] | str | None]:
    """Run all at once; None for what was cancelled, the error's class for what failed."""
    streams: list[tuple[dict[str, Any], Stream[Any]]] = []
    for request in asked:
        streams.append((request, llama.stream(request["prompt"], **request["settings"])))
        if request["cancel"]:
            streams[-1][1].close()
    found: list[list[int] | str | None] = []
    for request, stream in streams:
        if request["cancel"]:
            found.append(None)
            continue
        try:
            found.append(list(stream.completion.token_ids))
        except Exception as error:
            found.append(type(error).__name__)
    return found


def on_a_border(one: Llama, request: dict[str, Any], found: Any, expected: Any) -> bool:
    """Whether two answers part where the drawn number lies on the border between both tokens.

    Sums in another order move the borders by some 1e-7, and a random model's distribution has hundreds of them.
    """
    settings = request["settings"]
    if not (settings["temperature"] and isinstance(found, list) and isinstance(expected, list)):
        return False
    if {"repetition_penalty", "schema"} & set(settings):
        return False
    at = next((at for at, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    if at is None:
        return False
    ids = [*one.prompts.text(request["prompt"]), *expected[:at]]
    logits = one.model(mx.array([ids]))[0, -1].astype(mx.float32)
    reached = mx.cumsum(mx.softmax(logits / settings["temperature"]))
    low, high = sorted((found[at], expected[at]))
    drawn = uniforms(settings["seed"], at)[0]
    return all(abs(reached[token].item() - drawn) < 1e-6 for token in range(low, high))


def measured(llama: Llama) -> list[float]:
    """Return the perplexity of a text, and log-likelihoods of continuations that share contexts and beginnings."""
    text = "The quick brown fox jumps over the lazy dog. " * 6
    contexts = [tuple(llama.tokenizer.encode(text[:at])) for at in (5, 90, 90, 100)]
    asked = [Continuation(ids, ids[at : at + 3]) for at, ids in enumerate(contexts)]
    scores = score_continuations(llama, asked)
    perplexity = measure_perplexity(llama, text, PerplexityOptions(length=64)).perplexity
    return [perplexity.value, *(score.logprob for score in scores), *(float(score.is_greedy) for score in scores)]


@contextlib.contextmanager
def as_machines(*, head: bool) -> Iterator[None]:
    """Split as if each process had a machine of its own: a pipeline decodes in groups, and the head may be split."""
    split_head = mock.patch.object(loading, "_head_pays", return_value=head)
    with split_head, mock.patch.object(loading, "groups_pay", return_value=True):
        yield


def load(size: int, split: str, folder: str, **options: Any) -> Llama:
    """Load a model in float32 over all processes, or over one; with "tensor, head", its head is split, too."""
    split, _, head = split.partition(", ")
    with as_machines(head=bool(head)):
        return Llama.load(folder, dtype="float32", nodes=size, split=split, **{"disk_cache": False, **options})


def compare(size: int, split: str, folder: str, count: int) -> dict[str, Any]:
    """Return which of many mixed requests are answered differently, and figures of both."""
    asked = requests(count)
    with load(1, split, folder) as one:
        expected, expected_figures = answers(one, asked), measured(one)
    with load(size, split, folder) as llama:
        found = answers(llama, asked)
        cached = llama.generate("The capital of France is" + "x" * 300, max_tokens=1, temperature=0)
        reused = llama.generate("The capital of France is" + "x" * 300 + "y", max_tokens=1, temperature=0)
        figures = list(zip(measured(llama), expected_figures, strict=True))
    differing = [each for each in zip(asked, found, expected, strict=True) if each[1] != each[2]]
    if differing:
        with load(1, split, folder) as one:
            differing = [each for each in differing if not on_a_border(one, *each)]
    return {
        "differing": differing,
        "cached": [cached.cached_tokens, reused.cached_tokens],
        "measured": figures,
    }


def texts(size: int, split: str, folder: str) -> list[str]:
    """Return what is said of France, over one process and over all."""
    found = []
    for nodes in (1, size):
        with load(nodes, split, folder) as llama:
            found.append(llama.generate("The capital of France is", max_tokens=4, temperature=0).text)
    return found


def drafted(size: int, split: str, drafter: str) -> dict[str, Any]:
    """Return what is generated over one process without drafts and over all with them, and in how many passes.

    An EAGLE head drafts that knows the model, or a model that is like it.
    """
    # Slow imports, of transformers among others, which other checks do without.
    from llama3_mlx.speculation import Costs

    from ..support import byte_llama
    from ..support.eagle import knowing_head

    settings: dict[str, Any] = {"max_tokens": 16, "temperature": 0, "ignore_eos": True}
    prompts = [list(range(start, start + 5 + 9 * start)) for start in range(0, 12, 2)]
    found: dict[str, Any] = {}
    for name, nodes in (("one", 1), ("all", size)):
        byte_llama.NODES, byte_llama.SPLIT = nodes, split
        model, like = (byte_llama.calm(byte_llama.byte_model(num_hidden_layers=4), 0.01) for _ in range(2))
        draft: Any = None
        if nodes > 1:
            draft = knowing_head(model) if drafter == "head" else like
        with as_machines(head=False), byte_llama.byte_llama(model, draft=draft) as llama:
            llama.engine.speculators.assume(Costs(verify=0.01, draft=0.005))
            single = [llama.generate(prompt, speculate=nodes > 1, **settings) for prompt in prompts]
            batch = llama.generate_batch(prompts, speculate=nodes > 1, **settings)
        found[name] = [list(each.token_ids) for each in (*single, *batch)]
        found[f"{name}_passes"] = sum(each.passes for each in single)
        found["sources"] = sorted({counts.source for each in (*single, *batch) for counts in each.drafts})
    return found


def run_tests(size: int, split: str, files: list[str], expression: str) -> list[Any]:
    """Run tests of the engine whose models lie on all processes; return the exit code and what was printed."""
    import pytest

    from ..support import byte_llama

    byte_llama.NODES, byte_llama.SPLIT = size, split.partition(", ")[0]
    with as_machines(head="head" in split), contextlib.redirect_stdout(io.StringIO()) as printed:
        # The deadline of this process is node_host.py's.
        options = ["-q", "--assert=plain", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0"]
        code = pytest.main([*options, *files, "-k", expression])
    return [int(code), printed.getvalue()[-5000:]]
