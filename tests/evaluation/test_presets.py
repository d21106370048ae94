"""Every task of the presets, from end to end, on local data sets of the Hub's layout; the harness' `hf` is not asked.

The layouts (splits, columns) are those that the harness' task files read; the rows are written here. What `evaluate`
loads from the Hub beside, metrics, lies in the same folder.
"""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import datasets
import lm_eval
import yaml

from llama3_mlx import Llama
from llama3_mlx.evaluation import EvalOptions, evaluate
from llama3_mlx.evaluation.benchmarks import PRESETS, Benchmark

Rows = list[dict[str, Any]]
# With examples these fail inside the harness (0.4.13), on any model and data: SQuAD v2 lacks an argument that it gets;
# the targets of AGIEval, lists of indices, are not read. Their rows say so, and the others run.
FAULTS = {"squadv2": "TypeError", "agieval_en": "AssertionError"}
TASKS = Path(lm_eval.__file__).parent / "tasks"

MMLU = [{"question": f"What is {n} + 1?", "choices": [str(n + k) for k in range(4)], "answer": 1} for n in range(6)]
AGIEVAL = [{"query": f"Q: {n}? A:", "choices": ["(A)1", "(B)2"], "gold": [n % 2], "answer": "1"} for n in range(4)]
LETTERED = [
    {"question": f"What is {n}?", "choices": {"label": list("ABCDE"), "text": list("vwxyz")}, "answerKey": "B"}
    for n in range(26)
]
WINOGRANDE = [
    {"sentence": f"The cat {n} saw the dog and _ ran.", "option1": "cat", "option2": "dog", "answer": "1"}
    for n in range(6)
]
NUMBER = {"number": "3", "date": {"day": "", "month": "", "year": ""}, "spans": ["x"]}
VALIDATED = {"number": ["3"], "date": [{"day": "", "month": "", "year": ""}], "spans": [["x"]]}
TRIVIA = [{"question": f"Who is {n}", "answer": {"value": "Ann", "aliases": ["Ann", "Anna"]}} for n in range(6)]
SQUAD = [
    {
        "id": str(n),
        "title": "T",
        "context": "It rained.",
        "question": "What?",
        "answers": {"text": ["rain"], "answer_start": [3]},
    }
    for n in range(3)
]
BOOLQ = [{"passage": "It rained.", "question": f"did it rain {n}", "label": 1, "idx": n} for n in range(3)]
DROP = [
    {
        "query_id": str(n),
        "passage": "3 cats.",
        "question": "How many?",
        "answer": NUMBER,
        "validated_answers": VALIDATED,
    }
    for n in range(5)
]
GPQA = [
    {"Question": "What?", "Correct Answer": "a", **{f"Incorrect Answer {k}": f"b{k}" for k in (1, 2, 3)}}
    for _ in range(3)
]
PROGRAM = [
    {"task_id": "a/0", "prompt": 'def one():\n    """Return 1."""\n', "canonical_solution": "    return 1\n",
     "test": "def check(f):\n    assert f() == 1\n", "entry_point": "one"}
]  # fmt: skip
GSM8K = [{"question": f"What is {n} + 1?", "answer": f"It is.\n#### {n + 1}"} for n in range(9)]
MATH = [{"problem": "1+1?", "solution": r"So \boxed{2}.", "level": "Level 1", "type": "Algebra"} for _ in range(5)]
# Name on the Hub: splits, rows.
DATA: dict[str, tuple[tuple[str, ...], Rows]] = {
    "cais/mmlu": (("test", "dev"), MMLU),
    "hails/mmlu_no_train": (("test", "dev"), MMLU),
    "tau/commonsense_qa": (("train", "validation"), LETTERED),
    "allenai/winogrande": (("train", "validation"), WINOGRANDE),
    "SaylorTwift/bbh": (("test",), [{"input": f"{n}?", "target": "1"} for n in range(4)]),
    "allenai/ai2_arc": (("train", "validation", "test"), LETTERED),
    "mandarjoshi/trivia_qa": (("train", "validation"), TRIVIA),
    "lighteval/squad_v2": (("train", "validation"), SQUAD),
    "aps/super_glue": (("train", "validation"), BOOLQ),
    "EleutherAI/drop": (("train", "validation"), DROP),
    "Idavidrein/gpqa": (("train",), GPQA),
    "openai/openai_humaneval": (("test",), PROGRAM),
    "openai/gsm8k": (("train", "test"), GSM8K),
    "gsm8k": (("train", "test"), GSM8K),
    "EleutherAI/hendrycks_math": (("train", "test"), MATH),
}
# As the metrics of the `evaluate` package are called; the rows' answers decide.
METRICS = {
    "squad_v2": (
        "{'predictions': {'id': str_, 'prediction_text': str_, 'no_answer_probability': float_}, "
        "'references': {'id': str_, 'answers': datasets.Sequence({'text': str_, 'answer_start': int_})}}",
        "return dict.fromkeys(('exact', 'f1', 'HasAns_exact', 'HasAns_f1', 'best_exact', 'best_f1'), 1.0)",
    ),
    "code_eval": (
        "{'predictions': datasets.Sequence(str_), 'references': str_}",
        "return {f'pass@{number}': 0.0 for number in k}, {}",
    ),
}
METRIC = """
import datasets
import evaluate
str_, float_, int_ = datasets.Value("string"), datasets.Value("float32"), datasets.Value("int32")
class Metric(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(FEATURES))
    def _compute(self, predictions, references, k=(1,), **more):
        COMPUTE
"""


# Where the harness keeps the tasks of a data set with several configurations.
CONFIGURED = {
    "cais/mmlu": "mmlu/default",
    "hails/mmlu_no_train": "llama3/instruct/mmlu",
    "SaylorTwift/bbh": "bbh/cot_fewshot",
    "allenai/winogrande": "winogrande",
    "allenai/ai2_arc": "arc",
    "mandarjoshi/trivia_qa": "triviaqa",
    "aps/super_glue": "super_glue/boolq",
    "Idavidrein/gpqa": "gpqa/zeroshot",
    "openai/gsm8k": "gsm8k",
    "EleutherAI/hendrycks_math": "minerva_math",
}


def values_of(folder: str, key: str) -> set[str]:
    """Return what the harness' task files in a folder say under a key."""
    files = [path for path in (TASKS / folder).rglob("*") if path.suffix == ".yaml" or path.name.endswith("_yaml")]
    return {
        value for path in files for value in re.findall(rf'^"?{key}"?: "?([\w/.-]+)', path.read_text(), re.MULTILINE)
    }


def save_data(folder: Path) -> None:
    """Write every data set in all configurations that the harness' tasks ask for, and the metrics."""
    agieval = dict.fromkeys(values_of("agieval", "dataset_path"), (("test",), AGIEVAL))
    for name, (splits, rows) in {**DATA, **agieval}.items():
        place = folder / name
        place.mkdir(parents=True)
        for split in splits:
            (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
        names = sorted(values_of(CONFIGURED[name], "dataset_name") - {"null"}) if name in CONFIGURED else ["default"]
        listed = [{"config_name": each, "data_files": files} for each in names]
        (place / "README.md").write_text(f"---\nconfigs: {json.dumps(listed)}\n---\n")
    for name, (features, compute) in METRICS.items():
        (folder / name).mkdir()
        text = METRIC.replace("FEATURES", features).replace("COMPUTE", compute)
        (folder / name / f"{name}.py").write_text(text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    save_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setenv("HF_ALLOW_CODE_EVAL", "1")
        # Of the cards of the data sets; in Python it takes most of the time here.
        patch.setattr(yaml, "safe_load", lambda text: yaml.load(text, yaml.CSafeLoader))
        yield folder


@pytest.fixture(scope="module")
def llama(small_chat: Path) -> Iterator[Llama]:
    with Llama.load(small_chat) as loaded:
        yield loaded


def cases() -> list[tuple[str, Benchmark]]:
    return [(preset, each) for preset, benchmarks in PRESETS.items() for each in benchmarks if each.task is not None]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "benchmark"), cases(), ids=lambda value: getattr(value, "task", value))
def test_a_task_of_a_preset_runs_to_its_figure(
    preset: str, benchmark: Benchmark, llama: Llama, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if benchmark.task == "minerva_math" and importlib.util.find_spec("math_verify") is None:
        pytest.skip("MATH needs lm-eval[math]")
    monkeypatch.setitem(PRESETS, preset, (benchmark,))
    options = EvalOptions(data=data, limit=1, unsafe_code=True, max_length=2048)
    [outcome] = evaluate(llama, [preset], options).outcomes
    if benchmark.task in FAULTS:
        assert outcome.problem is not None and outcome.problem.startswith(FAULTS[benchmark.task])
        return
    assert outcome.problem is None
    main = outcome.main
    assert main is not None and 0 <= main.percent <= 100
    # A question for each task of a group.
    tasks = {"mmlu": 57, "mmlu_llama": 57, "bbh_cot_fewshot": 27, "agieval_en": 10, "minerva_math": 7}
    assert main.n == tasks.get(str(benchmark.task), 1)
    assert main.shots == benchmark.shots
