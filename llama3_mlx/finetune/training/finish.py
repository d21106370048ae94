"""What a run shows at its end: answers before and after, the report."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from ...files import disk_errors, save_json
from ...model.transformer import LlamaForCausalLM
from ..data.encoding import Example
from ..settings import TrainSettings
from .job import TextSide, TrainingJob, TrainResult
from .report import write_png, write_report
from .samples import Probe, answers, make_probes

BEFORE = "before.json"


@dataclass(frozen=True)
class Before:
    """Prompts, and what the model answered to them as training found it."""

    probes: Sequence[Probe]
    answers: Sequence[str]


def samples_before(
    job: TrainingJob, model: LlamaForCausalLM, text: TextSide, shown: Sequence[Example], cancelled: Callable[[], bool]
) -> Before:
    """Return the answers of the model as training found it: a resumed run has them in a file.

    Who stops the run meanwhile doesn't wait for the rest of them: it has none, which a resumed run makes up for.
    """
    settings = job.settings
    if not isinstance(settings, TrainSettings):
        return Before((), ())
    probes = make_probes(shown, text.tokenizer, settings.samples)
    path = job.out / BEFORE
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        return Before(probes, found if len(found) == len(probes) else [""] * len(probes))
    made = answers(model, probes, text.tokenizer, text.tokenizer.stop_ids, settings.sample_tokens, cancelled)
    if len(made) < len(probes):
        return Before(probes, [""] * len(probes))
    if made:
        with disk_errors(job.out):
            save_json(path, made)
    return Before(probes, made)


def write_reports(
    job: TrainingJob, model: LlamaForCausalLM, text: TextSide, before: Before, result: TrainResult
) -> None:
    """Write the report and the picture that the settings want."""
    if not job.settings.report and not job.settings.png:
        return
    # Who stops a run doesn't want to wait.
    probes = () if result.ended == "cancelled" else before.probes
    limit = job.settings.sample_tokens if isinstance(job.settings, TrainSettings) else 0
    after = answers(model, probes, text.tokenizer, text.tokenizer.stop_ids, limit)
    samples = [
        {"prompt": probe.shown, "expected": probe.expected, "before": old, "after": new}
        for probe, old, new in zip(probes, before.answers, after, strict=False)
    ]
    values = {name: value for name, value in asdict(result).items() if name != "folder"}
    with disk_errors(job.out):
        if job.settings.report:
            write_report(job.out, values, samples)
        if job.settings.png:
            write_png(job.out)
