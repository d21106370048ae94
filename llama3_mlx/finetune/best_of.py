"""Best of n: draw several answers to each prompt, score them, keep the best; then train on what was kept.

Answers are kept in a file as they come, so that a run that was broken off resumes where it was, and so that other
reward functions score the same answers.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import complete_lines, disk_errors, save_json, save_text
from ..json_types import JsonObject
from ..llama import Llama
from .data.formats import read_questions
from .data.records import collected, read_records
from .data.samples import Question
from .data.sources import Sources, as_sources
from .objectives.grpo import questions_digest
from .objectives.rewards import Reward, load_rewards, total_rewards
from .objectives.rollouts import RolloutOptions, draw_rollouts
from .reinforcement import encodable
from .settings import function_name

ANSWERS, SCORES, BEST, DRAWN, JUDGED = "answers.jsonl", "scores.jsonl", "best.jsonl", "drawn.json", "judged.json"


@dataclass(frozen=True)
class BestOf:
    """What was kept: `mean` and `best_mean` are rewards of all answers and of those kept.

    `reused` prompts had answers from an earlier run.
    """

    file: Path
    kept: int
    prompts: int
    mean: float
    best_mean: float
    reused: int = 0


def best_of_n(
    llama: Llama,
    data: Sources,
    folder: Path,
    rewards: Sequence[str | Reward],
    *,
    n: int = 8,
    min_reward: float | None = None,
    sampling: RolloutOptions | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> BestOf:
    """Write `best.jsonl` with the best of n answers to each prompt, as dialogs to train on.

    `min_reward` drops prompts whose best answer has a lower reward. Answers in `folder` that were drawn in the same way
    are used again, and scored anew where the rewards are others. Raises DataError, also for a folder whose answers were
    drawn in another way.
    """
    if llama.dialog is None:
        raise DataError("best-of-n asks questions in dialogs, and this base model has no dialog format")
    functions = load_rewards(rewards)
    with collected() as problems:
        questions = read_questions(read_records(as_sources(data), problems=problems), problems)
        questions = encodable(llama.dialog, questions, problems)
    options = sampling or RolloutOptions()
    drawn = {
        "model": str(llama.folder),
        "questions": questions_digest(questions),
        "sampling": asdict(options),
        "n": n,
        "seed": seed,
    }
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        answers, scores = _earlier(folder, drawn, [_reward_digest(reward) for reward in rewards])
        reused = len(answers)
        for number, question in enumerate(questions):
            if number == len(answers):
                answers.append(_drawn(llama, question, n, options, seed + number))
                _append(folder / ANSWERS, answers[-1])
            if number == len(scores):
                # Answers are on the disk before a reward function can fail.
                scores.append(_scored(question, answers[number], functions))
                _append(folder / SCORES, scores[-1])
            progress(number + 1, len(questions))
        return _keep_best(folder, questions, answers, scores, min_reward, reused)


def _reward_digest(reward: str | Reward) -> str:
    """Return what tells a reward function from another: its file's content, or its source."""
    if isinstance(reward, str):
        file = Path(reward.rpartition(":")[0]).expanduser()
        return f"{reward.rpartition(':')[2]} {hashlib.sha256(file.read_bytes()).hexdigest()}"
    try:
        source = inspect.getsource(reward)
    except (OSError, TypeError):
        source = repr(reward)
    return f"{function_name(reward)} {hashlib.sha256(source.encode()).hexdigest()}"


def _earlier(folder: Path, drawn: JsonObject, judged: list[str]) -> tuple[list[list[str]], list[list[float]]]:
    """Return answers and scores of an earlier run; its scores only where the same functions gave them."""
    record = folder / DRAWN
    if not record.exists():
        save_json(record, drawn)
    else:
        before = json.loads(record.read_text(encoding="utf-8"))
        changed = [key for key in drawn if before.get(key) != json.loads(json.dumps(drawn[key]))]
        if changed:
            raise DataError(
                f"{folder} holds answers that were drawn with another {', '.join(changed)}: choose another folder, or "
                "delete this one"
            )
    judges = folder / JUDGED
    if not judges.exists() or json.loads(judges.read_text(encoding="utf-8")) != judged:
        (folder / SCORES).unlink(missing_ok=True)
        save_json(judges, judged)
    return _lines(folder / ANSWERS), _lines(folder / SCORES)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in complete_lines(path)]


def _append(path: Path, value: Sequence[Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False) + "\n")


def _drawn(llama: Llama, question: Question, n: int, sampling: RolloutOptions, seed: int) -> list[str]:
    rollouts = draw_rollouts(llama.model, llama.encode_chat(question.messages), n, sampling, llama.stop_ids, seed)
    return [llama.tokenizer.decode(rollout.ids, control=False) for rollout in rollouts]


def _scored(question: Question, answers: Sequence[str], rewards: Sequence[Reward]) -> list[float]:
    columns = {key: [value] * len(answers) for key, value in question.columns.items()}
    return total_rewards(rewards, [question.messages] * len(answers), answers, columns)


def _keep_best(
    folder: Path,
    questions: Sequence[Question],
    answers: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
    min_reward: float | None,
    reused: int,
) -> BestOf:
    lines, best_rewards = [], []
    for question, texts, rewards in zip(questions, answers, scores, strict=True):
        best = max(range(len(rewards)), key=rewards.__getitem__)
        if min_reward is not None and rewards[best] < min_reward:
            continue
        best_rewards.append(rewards[best])
        messages = [*question.messages, {"role": "assistant", "content": texts[best]}]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    all_rewards = [reward for rewards in scores for reward in rewards]
    if not lines:
        raise DataError(f"no answer reached a reward of {min_reward}: the best had {max(all_rewards, default=0):g}")
    save_text(folder / BEST, "".join(lines))
    return BestOf(
        folder / BEST,
        len(lines),
        len(questions),
        sum(all_rewards) / len(all_rewards),
        sum(best_rewards) / len(best_rewards),
        reused,
    )
