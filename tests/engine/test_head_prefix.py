"""A draft head behind a cached prefix: it drafts as behind the whole prompt, and the text stays as it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama3_mlx import Completion, Llama
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.prefix_cache.disk import BLOCK, BlockStore
from llama3_mlx.prefix_cache.disk_queue import DiskPrefixCache, HeadBlocks
from llama3_mlx.speculation.draft import Draft
from llama3_mlx.speculation.eagle_drafter import DraftOrder
from llama3_mlx.speculation.eagle_head import EagleHead

from ..support.byte_llama import byte_llama, byte_model, calm
from ..support.eagle import cheap_drafts, head_config, random_head

SETTINGS: dict[str, Any] = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
PROMPT = [int(token) for token in np.random.default_rng(5).integers(0, 256, 300)]


def target() -> LlamaForCausalLM:
    return calm(byte_model(num_hidden_layers=2), 0.05)


def attentive_head() -> EagleHead:
    """A head whose drafts depend on all that it has entries of."""
    return random_head(head_config(eagle_aux_hidden_state_layer_ids=[0, 1, 2]))


@contextmanager
def drafting(**options: Any) -> Iterator[tuple[Llama, list[list[int]]]]:
    """A model with a head, and the drafts that the head makes."""
    with byte_llama(target(), draft=attentive_head(), **options) as llama:
        eagle, made = cheap_drafts(llama).engine.speculators.eagle, list[list[int]]()
        assert eagle is not None
        draft = eagle.draft

        def kept(orders: Sequence[DraftOrder]) -> list[Draft]:
            drafts = draft(orders)
            made.extend(list(draft.tokens) for draft in drafts)
            return drafts

        eagle.draft = kept  # type: ignore[method-assign]
        yield llama, made


def cold(prompt: list[int]) -> tuple[Completion, list[list[int]]]:
    with drafting() as (llama, made):
        return llama.generate(prompt, **SETTINGS), made


def test_drafts_behind_a_finished_answer_are_those_behind_a_whole_prompt() -> None:
    with drafting() as (llama, made):
        first = llama.generate(PROMPT, **SETTINGS)
        longer = [*PROMPT, *first.token_ids, 1, 2, 3]
        edited = [*PROMPT[:200], 7, 8, 9]
        for prompt, cached in ((longer, len(longer) - 5), (longer, len(longer) - 2), (edited, 199)):
            made.clear()
            done = llama.generate(prompt, **SETTINGS)
            expected, drafts = cold(prompt)
            assert done.cached_tokens == cached
            assert done.token_ids == expected.token_ids
            assert made == drafts
            assert sum(map(len, drafts)) > 5
        held = llama.engine.call(lambda: llama.engine.prefix_cache._prefixes[-1])
    assert held.nbytes > held.cache.nbytes
    assert drafts != cold([*PROMPT[100:200], 7, 8, 9])[1]


def test_a_prefix_without_entries_is_of_use_and_the_head_begins_behind_it() -> None:
    with drafting() as (llama, _):
        llama.generate(PROMPT, speculate=False, **SETTINGS)
        done = llama.generate([*PROMPT, 1, 2, 3], **SETTINGS)
        more = [*PROMPT, 1, 2, 3, *done.token_ids, 4, 5]
        after = llama.generate(more, **SETTINGS)
    assert done.cached_tokens == len(PROMPT)
    assert done.token_ids == cold([*PROMPT, 1, 2, 3])[0].token_ids
    # Its own entries are kept from where they begin.
    assert after.cached_tokens == len(more) - 4
    assert after.token_ids == cold(more)[0].token_ids


def test_drafts_behind_the_prompt_of_a_running_answer_are_those_behind_a_whole_one() -> None:
    other = [*PROMPT[:250], 1, 2, 3]
    with drafting() as (llama, made):
        running = llama.stream(PROMPT, max_tokens=2000, temperature=0, ignore_eos=True, speculate=True)
        next(running)
        done = llama.generate(other, **SETTINGS)
        running.close()
    expected, drafts = cold(other)
    assert done.cached_tokens == 249
    assert done.token_ids == expected.token_ids
    # How long drafts are depends on how many sequences are decoded.
    assert any(draft and draft[0] == drafts[0][0] for draft in made)


def disk_of(folder: Path, head: EagleHead | None, name: str) -> DiskPrefixCache:
    store, model = BlockStore(folder, 10**9, model="bytes"), target()
    blocks = None if head is None else HeadBlocks(store, head.make_cache, name)
    return DiskPrefixCache(store, partial(model.make_cache, None), lambda _: "model", blocks)


@pytest.mark.parametrize(
    ("writer", "cached"), [("this head", 2 * BLOCK - 1), ("another head", 2 * BLOCK), (None, 2 * BLOCK)]
)
def test_drafts_behind_a_prefix_on_disk(tmp_path: Path, writer: str | None, cached: int) -> None:
    if writer is None:
        with byte_llama(target(), disk=disk_of(tmp_path, None, "")) as llama:
            llama.generate(PROMPT, **SETTINGS)
    else:
        with drafting(disk=disk_of(tmp_path, attentive_head(), writer)) as (llama, _):
            llama.generate(PROMPT, **SETTINGS)
    with drafting(disk=disk_of(tmp_path, attentive_head(), "this head")) as (llama, made):
        done = llama.generate(PROMPT, **SETTINGS)
    expected, drafts = cold(PROMPT)
    assert done.cached_tokens == cached
    assert done.token_ids == expected.token_ids
    assert (made == drafts) == (writer == "this head")
