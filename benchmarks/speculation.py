"""Drafts against plain decoding of the same model in one process, on SmolLM2: tokens per pass and rate.

Prompt lookup, or with --draft FOLDER a draft head beside it; --projection writes what published costs let expect.

Answers are greedy, and each speculated one is compared with the plain one, token for token. A GPU verifies drafts more
cheaply than a CPU, so that longer ones pay there: its tokens per pass are counted by generating the same answers again
with a GPU's costs. The two ways alternate; their rates are those of processor time, which other programs disturb less.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.projection import LONGEST, projected
from benchmarks.prompts import FREE, GROUNDED, grounded
from benchmarks.tables import parser, publish
from llama3_mlx import Completion, Llama
from llama3_mlx.speculation import Costs, LookupDrafter
from llama3_mlx.speculation.draft import HEAD
from llama3_mlx.speculation.speculators import GPU_COSTS
from tests.support.smollm2 import save_smollm2


@dataclass
class Tally:
    """Sums over the prompts of one kind."""

    prompts: int = 0
    equal: int = 0
    tokens: int = 0
    passes: int = 0
    gpu_passes: int = 0
    seconds: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})

    def add(self, other: "Tally") -> None:
        """Add another kind's sums."""
        for name in ("prompts", "equal", "tokens", "passes", "gpu_passes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.seconds = {way: seconds + other.seconds[way] for way, seconds in self.seconds.items()}


def row(kind: str, tally: Tally) -> list[str]:
    """Write a kind's figures."""
    return [
        f"{kind}: {tally.prompts} prompts",
        f"{tally.tokens / tally.passes:.2f}",
        f"{tally.tokens / tally.gpu_passes:.2f}",
        f"{tally.seconds[False] / tally.seconds[True]:.2f}",
        f"{tally.equal} of {tally.prompts}",
    ]


def replayed_passes(prompt: Sequence[int], answer: Sequence[int]) -> int:
    """Count the passes that write `answer` with a GPU's costs."""
    drafter, at, passes = LookupDrafter(prompt, costs=GPU_COSTS), 0, 0
    while at < len(answer):
        draft = drafter.draft(len(answer) - at - 1)
        right = [a == b for a, b in zip(draft, answer[at:], strict=False)]
        accepted = (*right, False).index(False)
        drafter.add(answer[at : at + accepted + 1])
        at, passes = at + accepted + 1, passes + 1
    return passes


def always(drafts: int) -> Costs:
    """Return costs with which drafts pay wherever they are accepted at all, and none are longer than `drafts`."""
    return Costs(verify=99.0, measured=lambda rows: 1 + 0.01 * (rows - 1) if rows <= 1 + drafts else 99.0 * rows)


def accepted(answers: Sequence[Completion], drafts: int) -> list[float]:
    """Return how often the head's token at each place of a draft was accepted where those before it were."""
    drafted, right = [0] * drafts, [0] * drafts
    for counts in (counts for answer in answers for counts in answer.drafts if counts.source == HEAD):
        reached = counts.drafted[0], *counts.accepted
        for at, (tried, kept) in enumerate(zip(reached, counts.accepted, strict=False)):
            drafted[at] += min(tried, counts.drafted[at])
            right[at] += kept
    return [kept / tried if tried else 0.0 for tried, kept in zip(drafted, right, strict=True)]


def with_head(folder: Path, args: argparse.Namespace) -> None:
    """Measure a draft head, greedily and sampled, and project what it would gain."""
    kinds = {kind: grounded(kind) for kind in GROUNDED} | {"free text": FREE}
    rows, free = [], [0.0]
    with Llama.load(folder, dtype="float32", draft=args.draft) as llama:
        llama.engine.speculators.assume(always(args.drafts))
        for kind, texts in kinds.items():
            prompts = [llama.encode_chat([{"role": "user", "content": text}]) for text in texts]
            plain = [llama.generate(p, max_tokens=args.tokens, temperature=0.0, speculate=False) for p in prompts]
            greedy = [llama.generate(p, max_tokens=args.tokens, temperature=0.0) for p in prompts]
            sampled = {"max_tokens": args.tokens, "temperature": 0.7}
            warm = [llama.generate(p, seed=at, **sampled) for at, p in enumerate(prompts)]
            equal = sum(a.token_ids == b.token_ids for a, b in zip(plain, greedy, strict=True))
            free = accepted(greedy, args.drafts)
            places = " ".join(f"{rate:.0%}" for rate in free)
            rows.append(
                [f"{kind}: {len(texts)} prompts", *map(per_pass, (greedy, warm)), places, f"{equal} of {len(texts)}"]
            )
    note = (
        f"SmolLM2-135M in float32 with the draft head {Path(args.draft).name}, drafts of up to {args.drafts} tokens "
        f"beside prompt lookup, answers of up to {args.tokens} tokens to the prompts of benchmarks/prompts.py. The "
        "column of places says how often the head's tokens were accepted there, where those before them were."
    )
    header = ["", "tokens per pass, greedy", "at temperature 0.7", "accepted by place", "texts equal to plain"]
    publish("Draft head", header, rows, note, args.write)
    project([(f"this head, free text, up to {args.drafts}", free)], args.write)


def per_pass(answers: Sequence[Completion]) -> str:
    """Write the tokens per forward pass over all answers."""
    return f"{sum(len(each.token_ids) for each in answers) / sum(each.passes for each in answers):.2f}"


def project(measured: Sequence[tuple[str, Sequence[float]]], write: bool) -> None:
    """Write the projection for some acceptance rates, and for measured ones."""
    even = [(f"{rate:.0%} accepted", [rate] * LONGEST) for rate in (0.5, 0.6, 0.7, 0.8)]
    note = (
        "**A projection, measured on none of these machines by this project**: the rate with drafts of an EAGLE-3 head "
        "in rates of plain decoding, from published costs of passes over several rows (in passes over one; between two "
        "published ones on a straight line), a draft step at 1/20 of a plain step, and the length of drafts, in "
        "brackets, that gains most. A share of each drafted token is taken to be accepted where those before it were. "
        "For M2 Pro no cost of a pass was found: mlx#3764 says that its affine 4-bit products read the weights anew "
        "for each row."
    )
    header, rows = projected([*even, *measured])
    publish("Projection of drafts by a head", header, rows, note, write)


def write(llama: Llama, prompt: list[int], tokens: int, *, speculate: bool) -> tuple[Completion, float]:
    """Write one greedy answer to a prompt that is kept; return it and its processor time in seconds."""
    began = time.process_time()
    answer = llama.generate(prompt, max_tokens=tokens, temperature=0.0, speculate=speculate)
    return answer, time.process_time() - began


def measure(llama: Llama, texts: Sequence[str], tokens: int) -> Tally:
    """Answer each prompt both ways."""
    tally = Tally()
    for number, text in enumerate(texts):
        prompt = llama.encode_chat([{"role": "user", "content": text}])
        ways = (False, True) if number % 2 == 0 else (True, False)
        write(llama, prompt, 1, speculate=False)
        answers = {way: write(llama, prompt, tokens, speculate=way) for way in ways}
        for way, (_, seconds) in answers.items():
            tally.seconds[way] += seconds
        (plain, _), (fast, _) = answers[False], answers[True]
        tally.prompts += 1
        tally.equal += plain.token_ids == fast.token_ids
        tally.tokens += len(fast.token_ids)
        tally.passes += fast.passes
        tally.gpu_passes += replayed_passes(prompt, plain.token_ids)
    return tally


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--tokens", type=int, default=160, help="tokens of each answer at most")
    arguments.add_argument("--draft", metavar="FOLDER", help="measure this draft head beside prompt lookup")
    arguments.add_argument("--drafts", type=int, default=4, help="with --draft: tokens of a draft at most")
    arguments.add_argument("--projection", action="store_true", help="only write what published costs let expect")
    args = arguments.parse_args()
    if args.projection:
        project([], args.write)
        return
    if args.draft:
        with tempfile.TemporaryDirectory() as name:
            with_head(save_smollm2(Path(name)), args)
        return
    kinds = {kind: grounded(kind) for kind in GROUNDED} | {"free text": FREE}
    with tempfile.TemporaryDirectory() as name, Llama.load(save_smollm2(Path(name)), dtype="float32") as llama:
        write(llama, [1, 2, 3], 2, speculate=False)
        tallies = {kind: measure(llama, texts, args.tokens) for kind, texts in kinds.items()}
    together = Tally()
    for kind in GROUNDED:
        together.add(tallies[kind])
    rows = [row(kind, tally) for kind, tally in {**tallies, ", ".join(GROUNDED): together}.items()]
    note = (
        f"SmolLM2-135M in float32, greedy answers of up to {args.tokens} tokens to the prompts of "
        "benchmarks/prompts.py; drafts come from prompt and answer, no draft model. The rate is that of speculated "
        "to plain decoding by processor time, alternating."
    )
    header = ["", "tokens per pass", "with a GPU's costs", "speed-up over plain", "texts equal to plain"]
    publish("Prompt lookup", header, rows, note, args.write)


if __name__ == "__main__":
    main()
