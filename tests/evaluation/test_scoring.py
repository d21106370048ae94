"""Log-likelihoods of continuations; one plain forward pass of transformers for each is the reference."""

import random
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
import torch
from transformers import AutoModelForCausalLM

from llama3_mlx import Llama
from llama3_mlx.evaluation.scoring import score_continuations
from llama3_mlx.evaluation.sharing import Continuation, batches, make_clusters, make_rows


def ids(rng: random.Random, low: int, high: int) -> tuple[int, ...]:
    return tuple(rng.randrange(256) for _ in range(rng.randint(low, high)))


def shots(rng: random.Random) -> list[Continuation]:
    """Few-shot multiple choice in two subjects, choices of one token and of several, and texts that share nothing."""
    found = []
    for _ in range(2):
        header = ids(rng, 60, 90)
        for _ in range(5):
            question = header + ids(rng, 3, 30)
            found += [Continuation(question, ids(rng, 1, 9)) for _ in range(4)]
        for _ in range(3):
            letters = header + ids(rng, 5, 9)
            found += [Continuation(letters, (token,)) for token in range(65, 69)]
    beginning = ids(rng, 40, 40)
    found += [Continuation(beginning[:at], beginning[at:]) for at in (1, 5, 20, 39)]
    found += [Continuation((256,), ids(rng, 1, 120)) for _ in range(3)]
    found += [Continuation(ids(rng, 1, 12), ids(rng, 1, 4)) for _ in range(5)]
    found.append(found[0])
    rng.shuffle(found)
    return found


@pytest.fixture(scope="module")
def llama(small_chat: Path) -> Iterator[Llama]:
    with Llama.load(small_chat) as loaded:
        yield loaded


@pytest.mark.parametrize(("max_tokens", "max_keys"), [(2048, 65536), (100, 65536), (2048, 300), (16, 40)])
def test_scores_are_those_of_one_pass_each(small_chat: Path, llama: Llama, max_tokens: int, max_keys: int) -> None:
    requests = shots(random.Random(max_tokens))
    model = AutoModelForCausalLM.from_pretrained(small_chat, dtype=torch.float32)
    done: list[int] = []
    found = score_continuations(llama, requests, done.append, max_tokens=max_tokens, max_keys=max_keys)
    assert sum(done) == len(requests)
    for request, score in zip(requests, found, strict=True):
        with torch.no_grad():
            whole = torch.tensor([[*request.context, *request.tokens]])
            logprobs = model(whole).logits[0, len(request.context) - 1 : -1].double().log_softmax(-1)
        tokens = torch.tensor(request.tokens)
        assert score.logprob == pytest.approx(float(logprobs.gather(1, tokens[:, None]).sum()), abs=1e-4)
        assert score.is_greedy == bool((logprobs.argmax(-1) == tokens).all())


def test_greedy_continuations_are_recognized(llama: Llama) -> None:
    prompt = list(b"The river was high and ")
    written = llama.generate(prompt, max_tokens=6, temperature=0, ignore_eos=True).token_ids
    requests = [Continuation(tuple(prompt), tuple(written)), Continuation(tuple(prompt), (*written[:-1], 3))]
    assert [score.is_greedy for score in score_continuations(llama, requests)] == [True, False]


def test_shared_prefixes_are_run_once(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two subjects of 12 questions each with four choices: tokens through the model, padding apart, are counted."""
    rng = random.Random(3)
    requests, fewest = [], 0
    opening = ids(rng, 20, 20)
    for subject in range(2):
        header = (*opening, subject, *ids(rng, 200, 200))
        fewest += 201
        for number in range(12):
            question = (*header, number, *ids(rng, 30, 30))
            choices = [(letter, *ids(rng, 5, 5)) for letter in range(4)]
            requests += [Continuation(question, choice) for choice in choices]
            fewest += 31 + 4 * 5
    tokens = 0
    run = type(llama.model).run

    def counted(self: object, ids: mx.array, *rest: object) -> mx.array:
        nonlocal tokens
        tokens += ids.size
        return run(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(type(llama.model), "run", counted)
    score_continuations(llama, requests)
    assert tokens <= fewest + len(opening)


def test_clusters_follow_what_is_shared() -> None:
    header = tuple(range(100, 300))
    alone = [Continuation((number, 7, 7, 7), (1,)) for number in range(3)]
    together = [Continuation((*header, number), (1,)) for number in range(5)]
    clusters = make_clusters(make_rows([*alone, *together]))
    assert sorted((cluster.stem, len(cluster.rows)) for cluster in clusters) == [(0, 3), (200, 5)]
    assert sum(len(rows) for cluster in clusters for rows in batches(cluster, 2, 10**6)) == 8


def test_a_trie_of_any_depth_is_planned() -> None:
    requests = [Continuation((5,) * n, (1, 2)) for n in range(1, 3000, 2)]
    rows = make_rows(requests)
    assert sorted(len(row.ids) for cluster in make_clusters(rows) for row in cluster.rows) == sorted(
        len(request.context) + 1 for request in requests
    )
