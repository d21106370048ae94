"""Best of n: draw several answers to each prompt, score them, keep the best; then train on what was kept.

Answers are kept in a file as they come, so that a run that was broken off resumes where it was.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import disk_errors, save_json, save_text
from ..llama import Llama
from .data.formats import Question, read_questions
from .data.records import collected, read_records
from .objectives.grpo import questions_digest
from .objectives.rewards import Reward, load_rewards, total_rewards
from .objectives.rollouts import RolloutOptions, draw_rollouts
from .reinforcement import encode_prompts

SCORED, BEST, DRAWN = "scored.jsonl", "best.jsonl", "drawn.json"


@dataclass(frozen=True)
class BestOf:
    """What was kept: `mean` and `best_mean` are rewards of all answers and of those kept."""

    file: Path
    kept: int
    prompts: int
    mean: float
    best_mean: float


def best_of_n(
    llama: Llama,
    data: Sequence[str],
    folder: Path,
    rewards: Sequence[str],
    *,
    n: int = 8,
    min_reward: float | None = None,
    sampling: RolloutOptions | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> BestOf:
    """Write `best.jsonl` with the best of n answers to each prompt, as dialogs to train on.

    `min_reward` drops prompts whose best answer has a lower reward. Raises DataError.
    """
    if llama.dialog is None:
        raise DataError("best-of-n asks questions in dialogs, and this base model has no dialog format")
    functions = load_rewards(rewards)
    with collected() as problems:
        questions = read_questions(read_records(data, problems=problems), problems)
        encode_prompts(llama.dialog, questions, problems)
    sampling = sampling or RolloutOptions()
    drawn = {
        "model": str(llama.folder),
        "questions": questions_digest(questions),
        "rewards": [[name, _file_digest(name.rpartition(":")[0])] for name in rewards],
        "sampling": asdict(sampling),
        "n": n,
        "seed": seed,
    }
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        scored = _earlier(folder, drawn)
        with (folder / SCORED).open("a", encoding="utf-8") as file:
            for number in range(len(scored), len(questions)):
                scored.append(_scored(llama, questions[number], functions, n, sampling, seed + number))
                file.write(json.dumps(scored[-1], ensure_ascii=False) + "\n")
                file.flush()
                progress(number + 1, len(questions))
        return _keep_best(folder, questions, scored, min_reward)


def _file_digest(name: str) -> str:
    return hashlib.sha256(Path(name).expanduser().read_bytes()).hexdigest()


def _earlier(folder: Path, drawn: dict[str, Any]) -> list[dict[str, list[object]]]:
    """Return the answers of an earlier run, whose last line may be incomplete; none if it drew in another way."""
    path, record = folder / SCORED, folder / DRAWN
    if not record.exists() or json.loads(record.read_text(encoding="utf-8")) != drawn:
        path.unlink(missing_ok=True)
        save_json(record, drawn)
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    save_text(path, complete)
    # Not splitlines: answers may hold the other line separators of Unicode.
    return [json.loads(line) for line in complete.split("\n")[:-1]]


def _scored(
    llama: Llama, question: Question, rewards: Sequence[Reward], n: int, sampling: RolloutOptions, seed: int
) -> dict[str, list[object]]:
    prompt = llama.encode_chat(question.messages)
    answers = draw_rollouts(llama.model, prompt, n, sampling, llama.stop_ids, seed)
    texts = [llama.tokenizer.decode(answer.ids, control=False) for answer in answers]
    columns = {key: [value] * n for key, value in question.columns.items()}
    totals = total_rewards(rewards, [question.messages] * n, texts, columns)
    return {"answers": list(texts), "rewards": list(totals)}


def _keep_best(
    folder: Path, questions: Sequence[Question], scored: Sequence[dict[str, list[object]]], min_reward: float | None
) -> BestOf:
    lines, best_rewards, all_rewards = [], [], []
    for question, item in zip(questions, scored, strict=True):
        rewards = [float(str(reward)) for reward in item["rewards"]]
        all_rewards += rewards
        best = max(range(len(rewards)), key=rewards.__getitem__)
        if min_reward is not None and rewards[best] < min_reward:
            continue
        best_rewards.append(rewards[best])
        messages = [*question.messages, {"role": "assistant", "content": item["answers"][best]}]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    if not lines:
        raise DataError(f"no answer reached a reward of {min_reward}: the best had {max(all_rewards, default=0):g}")
    save_text(folder / BEST, "".join(lines))
    return BestOf(
        folder / BEST,
        len(lines),
        len(questions),
        sum(all_rewards) / len(all_rewards),
        sum(best_rewards) / len(best_rewards),
    )
