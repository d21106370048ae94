"""Tasks of every kind of lm-evaluation-harness over a few lines of data, all written here."""

import json
from pathlib import Path
from typing import Any

TEXT = "the river was high and nobody crossed it before spring so they waited in the village"
WORDS = TEXT.split()
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "num_fewshot": 2,
        "fewshot_split": "train",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "letters": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C"],
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    },
    "contexts": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "acc"}],
    },
    "endings": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}} ",
        "doc_to_target": "{{choices[answer]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{choices[0]}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["e", "qu"], "max_gen_toks": 12},
        "num_fewshot": 1,
        "fewshot_split": "train",
        "metric_list": [{"metric": "exact_match"}],
    },
    "continued": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "gen_prefix": "The best answer is",
        "generation_kwargs": {"until": [], "max_gen_toks": 8, "do_sample": False},
        "num_fewshot": 1,
        "fewshot_split": "train",
        "metric_list": [{"metric": "exact_match"}],
    },
}


def save_tasks(folder: Path) -> Path:
    """Write the data and a task of each kind."""
    lines = []
    for number in range(8):
        words = WORDS[number : number + 5]
        choices = [" ".join(WORDS[at : at + 1 + at % 3]) for at in (number, number + 3, 9 - number)]
        lines.append({"question": " ".join(words), "choices": choices, "answer": number % 3})
    data = {"train": lines[:3], "test": lines[3:]}
    for split, rows in data.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(folder / f"{split}.jsonl") for split in data}
    for name, task in TASKS.items():
        shared = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps({**shared, **task}))
    return folder
