"""Prompt lookup against plain decoding of the same model in one process, on SmolLM2: tokens per pass and rate.

Answers are greedy, and each speculated one is compared with the plain one, token for token. A GPU verifies drafts more
cheaply than a CPU, so that longer ones pay there: its tokens per pass are counted by generating the same answers again
with a GPU's costs. The two ways alternate; their rates are those of processor time, which other programs disturb less.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.prompts import FREE, GROUNDED, grounded
from benchmarks.tables import parser, publish
from llama3_mlx import Completion, Llama
from llama3_mlx.speculation import LookupDrafter
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
    args = arguments.parse_args()
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
