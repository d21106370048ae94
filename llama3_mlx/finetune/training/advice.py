"""What to do after a run, by what its numbers say."""

from collections.abc import Sequence
from pathlib import Path

from ...json_types import JsonMapping

# A validation loss this much above its best shows that the data are being learned by heart.
_WORSE = 1.02
_FEW_STEPS = 30
# A share of questions without spread above this leaves little to learn from.
_FLAT = 0.5


def advice(
    folder: Path,
    run: JsonMapping,
    result: JsonMapping,
    steps: Sequence[JsonMapping],
    checks: Sequence[JsonMapping],
) -> list[tuple[str, str]]:
    """Return sentences, each with the command that does it ("" without one)."""
    kind, model = run["kind"], run["model"]
    resume = f"llama3-mlx {kind} --resume {_quoted(folder)}"
    if result.get("ended") == "cancelled":
        return [("The run was stopped: it can be resumed where it was.", resume)]
    if kind == "draft train":
        return _on_drafts(folder, run, resume, result, steps, checks)
    use = f"-m {_quoted(model)} --adapter {_quoted(folder)}"
    found = [("Try it.", f"llama3-mlx chat {use}")]
    found += _on_learning(resume, result, steps, checks)
    fuse = f"llama3-mlx fuse -m {_quoted(model)} -a {_quoted(folder)} -o {_quoted(f'{folder}-fused')}"
    export = f"llama3-mlx adapter export {_quoted(folder)} {_quoted(f'{folder}.gguf')} -m {_quoted(model)}"
    found.append(("Put it into the model's weights, or export it for llama.cpp and Ollama.", f"{fuse}\n{export}"))
    return found


def _on_drafts(
    folder: Path,
    run: JsonMapping,
    resume: str,
    result: JsonMapping,
    steps: Sequence[JsonMapping],
    checks: Sequence[JsonMapping],
) -> list[tuple[str, str]]:
    adapter = run["settings"].get("adapter")
    use = f"-m {_quoted(run['model'])}" + (f" --adapter {_quoted(adapter)}" if adapter else "")
    found = [("Try it.", f"llama3-mlx chat {use} --draft {_quoted(folder)}")]
    found += _on_learning(resume, result, steps, checks)
    small = f"llama3-mlx convert {_quoted(folder)} {_quoted(f'{folder}-4bit')} --bits 4"
    return [*found, ("A draft costs less of a quantized head.", small)]


def _on_learning(
    resume: str, result: JsonMapping, steps: Sequence[JsonMapping], checks: Sequence[JsonMapping]
) -> list[tuple[str, str]]:
    found = []
    flat = [step["groups without spread"] for step in steps if "groups without spread" in step]
    if flat and sum(flat) > _FLAT * len(flat):
        text = (
            f"For {sum(flat) / len(flat):.0%} of the questions all answers got one reward, which teaches nothing: give "
            "a finer reward, a higher --temperature or a larger --group-size."
        )
        found.append((text, ""))
    if len(steps) < _FEW_STEPS:
        longer = f"{resume} --steps {max(100, 3 * len(steps))}"
        found.append((f"{len(steps)} steps are few: if it hasn't learned enough, train longer.", longer))
    if not checks:
        text = (
            "Nothing was held out, so that these curves can't tell learning from learning by heart: next time give "
            "--valid FILE, or --valid-share 0.1."
        )
        return [*found, (text, "")]
    best = min(check["loss"] for check in checks)
    last = checks[-1]["loss"]
    if last > best * _WORSE and last > 0:
        text = (
            f"The validation loss was lowest at step {result['best_step']} and rose from there; what was "
            "trained up to that step was kept. Fewer epochs do, or --patience 3; more data would help."
        )
        found.append((text, ""))
    elif len(checks) > 1 and last <= best:
        found.append(("The validation loss was still falling at the end: train longer.", f"{resume} --epochs N"))
    return found


def _quoted(value: object) -> str:
    text = str(value)
    return f"'{text}'" if any(character in text for character in " '\"$&()") else text
