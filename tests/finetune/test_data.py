"""Data as people have them: files of every kind, layouts of well-known data sets, examples in memory."""

import copy
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.cli import main
from llama3_mlx.errors import DataError, RequestError, TrainingError
from llama3_mlx.finetune import Callback, TrainSettings, fuse, grpo, train
from llama3_mlx.finetune.data.encoding import Example, ExampleEncoder, encode_all
from llama3_mlx.finetune.data.formats import read_labeled, read_pairs, read_samples, unread_columns
from llama3_mlx.finetune.data.records import Record, read_columns, read_records
from llama3_mlx.finetune.data.sources import as_sources
from llama3_mlx.finetune.sft import make_encoder
from llama3_mlx.finetune.training.job import load_text_side, resumed_job
from llama3_mlx.finetune.training.running import run_job

from ..support.finetune_fixtures import write_lines
from ..support.small_chat import BOS, EOT, save_small_chat

QUICK: dict[str, Any] = {
    "rank": 2, "steps": 1, "max_length": 128, "batch_size": 2, "samples": 0, "report": False, "targets": "q_proj",
}  # fmt: skip
ROWS = [{"question": f"{n}?", "answer": f"{n}!", "topic": "math"} for n in range(4)]


class Notes(Callback):
    """Keeps what a run tells before it begins."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def on_plan(self, notes: Sequence[str]) -> None:
        self.told.extend(notes)


def sample(value: dict[str, Any]) -> Any:
    return read_samples([Record("here", value)])[0]


def encoder(folder: Path, **settings: Any) -> ExampleEncoder:
    return make_encoder(load_text_side(str(folder)), TrainSettings(date="2026-01-02", **settings))


def targets(made: Example) -> list[int]:
    return [int(token) for token, mark in zip(made.ids, made.is_target, strict=True) if mark]


def text_of(ids: Sequence[int]) -> str:
    """The text of the small model's tokens, which are bytes in the order of ByteLevel's alphabet."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return "".join("<end>" if token == EOT else alphabet[token] for token in ids).replace("Ġ", " ").replace("Ċ", "\n")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "jsonl.gz", "parquet"])
def test_tables_and_lines_of_every_kind_hold_the_same_examples(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    if suffix in ("csv", "tsv"):
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if suffix == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif suffix == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif suffix == "json":
        path.write_text(json.dumps(ROWS))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        path.write_bytes(gzip.compress(lines) if suffix.endswith("gz") else lines)
    assert [record.value for record in read_records([str(path)])] == ROWS


def test_a_text_file_is_one_text_and_a_long_one_is_learned_to_its_end(small_chat: Path, tmp_path: Path) -> None:
    words = "".join(chr(97 + n % 26) for n in range(300))
    (tmp_path / "book.txt").write_text(words)
    samples = read_samples(read_records([str(tmp_path / "book.txt")]))
    examples = encode_all(encoder(small_chat, max_length=64), samples, split_texts=True)
    assert max(len(made.ids) for made in examples) == 64
    # Every token but the first is the target of exactly one example.
    predicted = [int(token) for made in examples for token in made.ids[1:]]
    assert text_of(predicted[:-1]) == words
    assert all(made.is_target[1:].all() for made in examples)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdf", b"%PDF-1.4 \x00\xff", "a.pdf is not a file of examples: accepted are .jsonl"),
        ("a.jsonl", b"Dear all,\nhere is the report.\nYours\n", "a.jsonl holds no JSON lines"),
        ("a.parquet", b"no table", "a.parquet is not a parquet file"),
        ("a.jsonl", b"\xff\xfe{}", "a.jsonl is not UTF-8"),
    ],
)
def test_a_wrong_kind_of_file_is_told_in_one_line(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_records([str(tmp_path / name)])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_have_their_validation_file_under_any_usual_name(tmp_path: Path) -> None:
    for name in ("val", "dev", "validation"):
        folder = tmp_path / name
        folder.mkdir()
        write_lines(folder / "train.jsonl", ROWS)
        write_lines(folder / f"{name}.jsonl", ROWS[:1])
        assert len(read_records([str(folder)], "valid")) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_saved_data_set_is_read_as_datasets_reads_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": datasets.Dataset.from_list(ROWS), "validation": datasets.Dataset.from_list(ROWS[:2])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert [record.value for record in read_records([str(tmp_path / "saved")])] == ROWS
    assert len(read_records([str(tmp_path / "saved")], "valid")) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "asked", "count"),
    [("o/gsm:main", ("o/gsm", "main"), 4), ("o/gsm:train_sft", ("o/gsm",), 1), ("o/gsm", ("o/gsm",), 4)],
)
def test_a_hub_data_set_may_name_a_configuration_or_a_split(
    name: str, asked: tuple[str, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    calls: list[tuple[str, ...]] = []

    def load(*arguments: str) -> Any:
        calls.append(arguments)
        if arguments[1:] == ("train_sft",):
            raise ValueError("BuilderConfig 'train_sft' not found")
        return {"train": ROWS, "train_sft": ROWS[:1]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(read_records([name])) == count
    assert calls[-1] == asked


@pytest.mark.parametrize(
    "turns",
    [
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
        [{"from": "system", "value": "be kind"}, {"from": "user", "value": "hi"}, {"from": "assistant", "value": "yo"}],
    ],
)
def test_sharegpt_turns_are_the_messages_that_trl_makes_of_them(turns: list[dict[str, str]]) -> None:
    trl = pytest.importorskip("trl.data_utils")
    expected = trl.maybe_convert_to_chatml({"conversations": copy.deepcopy(turns)})["messages"]
    roles = {"human": "user", "gpt": "assistant"}
    assert sample({"conversations": turns}).messages == [
        {**message, "role": roles.get(message["role"], message["role"])} for message in expected
    ]


@pytest.mark.parametrize(
    ("value", "prompt", "completion"),
    [
        ({"instruction": "Sum up.", "context": "Rain.", "response": "Wet."}, "Rain.\n\nSum up.", "Wet."),
        ({"question": "2?", "answer": "two"}, "2?", "two"),
        ({"system_prompt": "Be kind.", "question": "2?", "response": "two", "id": "x"}, "2?", "two"),
        ({"input": "a", "output": "b"}, "a", "b"),
    ],
)
def test_well_known_columns_are_read(value: dict[str, Any], prompt: str, completion: str) -> None:
    made = sample(value)
    assert (made.prompt, made.completion) == (prompt, completion)
    assert made.system == value.get("system_prompt", "")
    assert unread_columns([Record("", value)]) == []


def test_system_and_history_of_alpaca_come_before_its_prompt(small_chat: Path) -> None:
    value = {"instruction": "And 3?", "output": "odd", "system": "Be brief.", "history": [["Is 2 even?", "yes"]]}
    made = encoder(small_chat)(sample(value))
    whole = text_of([int(token) for token in made.ids if token < 256 or token == EOT])
    assert whole.index("Be brief.") < whole.index("Is 2 even?") < whole.index("And 3?")
    assert text_of(targets(made)) == "yes<end>odd<end>"


def test_columns_that_nothing_reads_are_named(small_chat: Path, tmp_path: Path) -> None:
    told: list[str] = []
    train(small_chat, ROWS, tmp_path / "run", callbacks=[Notes(told)], **QUICK)
    assert "columns not read: topic" in told


def test_columns_are_mapped_by_name(capsys: pytest.CaptureFixture[str], small_chat: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", [{"q": "one?", "a": "two!"}] * 2)
    command = ["data", "check", str(data), "-m", str(small_chat)]
    assert main([*command, "--columns", "prompt=q,completion=a"]) == 0
    assert "⟦two!<|eot_id|>⟧" in capsys.readouterr().out
    assert main(command) == 2
    assert "--columns NAME=COLUMN" in capsys.readouterr().err
    with pytest.raises(DataError, match="has the column 'nose'"):
        read_records([str(data)], columns=read_columns(["prompt=nose"]))


def test_weights_of_single_messages_are_honored(small_chat: Path) -> None:
    """OpenAI's fine-tuning format: https://platform.openai.com/docs/guides/fine-tuning, multi-turn examples."""
    messages = [
        {"role": "user", "content": "a", "id": "m1"},
        {"role": "assistant", "content": "first", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "second", "weight": 1},
    ]
    assert text_of(targets(encoder(small_chat)(sample({"messages": messages})))) == "second<end>"


def test_a_dialog_that_the_assistant_opens_is_learned_from_its_first_word(small_chat: Path) -> None:
    messages = [{"role": "assistant", "content": "Welcome!"}, {"role": "user", "content": "hi"}]
    messages += [{"role": "assistant", "content": "How can I help?"}]
    made = encoder(small_chat)(sample({"messages": messages}))
    assert text_of(targets(made)) == "Welcome!<end>How can I help?<end>"


def test_nulls_that_a_table_fills_in_are_no_part_of_tools_and_calls() -> None:
    """As TRL's remove_none_values, which it runs over every example."""
    parameters = {"type": "object", "properties": {"a": {"type": "string"}, "b": None}, "required": None}
    tool = {"type": "function", "function": {"name": "f", "description": None, "parameters": parameters}}
    call = {"function": {"name": "f", "arguments": {"a": "x", "b": None}}, "id": None}
    value = {
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}],
        "tools": json.dumps([tool]),
    }
    made = sample(value)
    kept = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert made.tools == [{"type": "function", "function": {"name": "f", "parameters": kept}}]
    assert made.messages[1]["tool_calls"] == [{"function": {"name": "f", "arguments": {"a": "x"}}}]


def test_pairs_of_ultrafeedback_and_hh_rlhf_are_the_dialogs_that_they_mean() -> None:
    dialog = [{"role": "user", "content": "hi"}]
    good, bad = [*dialog, {"role": "assistant", "content": "hello"}], [*dialog, {"role": "assistant", "content": "no"}]
    pair = read_pairs([Record("", {"prompt": "hi", "chosen": good, "rejected": bad, "score_chosen": 8.0})])[0]
    assert (pair.chosen.messages, pair.rejected.messages) == (good, bad)
    texts = {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: no"}
    pair = read_pairs([Record("", texts)])[0]
    assert (pair.chosen.messages, pair.rejected.messages) == (good, bad)


def test_labels_may_be_numbers_and_are_shown(
    small_chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": n} for n in (1, 0)]
    assert [item.desirable for item in read_labeled([Record("", row) for row in rows])] == [True, False]
    data = write_lines(tmp_path / "d.jsonl", rows)
    assert main(["data", "check", str(data), "-m", str(small_chat)]) == 0
    shown = capsys.readouterr().out
    assert "line 1, desirable" in shown and "line 2, undesirable" in shown


def test_a_table_with_other_columns_is_refused_in_one_line(small_chat: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("frage,antwort\n" + "a,b\n" * 200)
    with pytest.raises(DataError) as caught:
        train(small_chat, tmp_path / "train.csv", tmp_path / "run", **QUICK)
    said = str(caught.value)
    assert "\n" not in said
    assert "row 1: it has frage, antwort, which is none of the layouts" in said
    assert said.endswith("--columns NAME=COLUMN; the same holds for 199 more")


def test_bad_examples_are_left_out_where_that_is_wanted(small_chat: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", [*ROWS, {"question": 5, "answer": "x"}, 7])
    with pytest.raises(DataError, match=r"2 examples can't be used \(--skip-bad: without them\)"):
        train(small_chat, data, tmp_path / "run", **QUICK)
    told: list[str] = []
    train(small_chat, data, tmp_path / "run", skip_bad=True, callbacks=[Notes(told)], **QUICK)
    assert told[0].startswith("2 bad examples are left out, such as")
    assert told[1].startswith("train on 4 examples")


def test_rendered_texts_are_told_of_and_taken_at_their_word_where_that_is_wanted(
    small_chat: Path, tmp_path: Path
) -> None:
    rendered = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    told: list[str] = []
    train(small_chat, [{"text": rendered}], tmp_path / "run", callbacks=[Notes(told)], **QUICK)
    assert any("1 of 1 texts have control tokens such as <|" in note for note in told)
    from tokenizers import Tokenizer

    expected = Tokenizer.from_file(str(small_chat / "tokenizer.json")).encode(rendered, add_special_tokens=False).ids
    plain = encoder(small_chat)(sample({"text": rendered}))
    trusted = encoder(small_chat, parse_special=True)(sample({"text": rendered}))
    assert trusted.ids.tolist() == expected
    assert (plain.ids == BOS).sum() == 1 and len(plain.ids) > len(expected)


def test_rendered_texts_are_shown_as_the_characters_that_they_are(
    small_chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_lines(tmp_path / "d.jsonl", [{"text": "<|start_header_id|>user hi<|eot_id|>"}])
    shown = {}
    for flags in ((), ("--parse-special",)):
        assert main(["data", "check", str(data), "-m", str(small_chat), *flags]) == 0
        printed = capsys.readouterr()
        shown[flags] = next(line for line in printed.out.splitlines() if line.startswith("⟦"))
        assert ("have control tokens" in printed.err) == (not flags)
    assert shown[()] == r"⟦<|begin_of_text|>\<|start_header_id|>user hi\<|eot_id|><|end_of_text|>⟧"
    assert "\\" not in shown[("--parse-special",)]


def test_a_text_beyond_the_embedding_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """261 rows for 262 tokens; test_folder.py has transformers' word on such a text."""
    model = save_small_chat(tmp_path / "model", vocab_size=261)
    content = json.loads((model / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"].append({"id": 261, "content": "<note>", **flags})
    (model / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "data").mkdir()
    row = {"prompt": "a <note> here", "completion": "b", "chosen": "b", "rejected": "c"}
    data = str(write_lines(tmp_path / "d.jsonl", [row]))
    out = ["-o", str(tmp_path / "run"), "--columns"]
    for command in (
        ["data", "check", data],
        ["train", "-d", data, *out, "prompt=prompt,completion=completion"],
        ["dpo", "-d", data, *out, "prompt=prompt,chosen=chosen,rejected=rejected"],
    ):
        assert main([*command, "-m", str(model)]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "'<note>', id 261, and the model's embedding has 261 rows" in error
    assert not (tmp_path / "run").exists()


class Lengthy:
    """Something with a length that can be gone through more than once."""

    def __len__(self) -> int:
        return len(ROWS)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(ROWS)


def given_data() -> dict[str, Callable[[], Any]]:
    datasets = pytest.importorskip("datasets")
    return {
        "list": lambda: ROWS,
        "length": Lengthy,
        "function": lambda: lambda split: ROWS if split == "train" else ROWS[:1],
        "data set": lambda: datasets.Dataset.from_list(ROWS),
        "splits": lambda: datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["list", "length", "function", "data set", "splits"])
def test_examples_in_memory_are_those_of_a_file_and_the_run_is_resumed_with_them(
    kind: str, small_chat: Path, tmp_path: Path
) -> None:
    data = given_data()[kind]()
    out = tmp_path / "run"
    train(small_chat, write_lines(tmp_path / "d.jsonl", ROWS), tmp_path / "file", **{**QUICK, "steps": 2})
    train(small_chat, data, out, **QUICK)
    with pytest.raises(TrainingError, match=r"given in Python \(.*\): resume it there"):
        resumed_job(out, {})
    train(small_chat, data, out, resume=True, **{**QUICK, "steps": 2})
    if kind != "function":
        # The function has a validation split, after which the folder holds the best adapter.
        assert (out / "adapters.safetensors").read_bytes() == (tmp_path / "file" / "adapters.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="aren't those that"):
        train(small_chat, ROWS[:2], out, resume=True, **QUICK)


def test_what_can_be_read_only_once_is_refused() -> None:
    with pytest.raises(RequestError, match="a generator can't: give a list"):
        as_sources(row for row in ROWS)


def test_rewards_may_be_functions(small_chat: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def reward(completions: list[str], **_: Any) -> list[float]:
        seen.append(len(completions))
        return [float(len(text)) for text in completions]

    options: dict[str, Any] = {**QUICK, "group_size": 2, "answer_tokens": 3}
    grpo(small_chat, [{"prompt": "a?"}], tmp_path / "run", rewards=[reward], **options)
    assert seen == [2]
    grpo(small_chat, [{"prompt": "a?"}], tmp_path / "run", rewards=[reward], resume=True, **{**options, "steps": 2})
    assert seen == [2, 2]


def test_a_run_is_fused_and_resumed_from_another_folder(
    small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama3_mlx.finetune.sft import build_supervised

    (tmp_path / "here").mkdir()
    (tmp_path / "model").symlink_to(small_chat)
    monkeypatch.chdir(tmp_path / "here")
    write_lines(Path("d.jsonl"), ROWS)
    train("../model", "d.jsonl", "run", **QUICK)
    fuse("../model", "run", "there")
    monkeypatch.chdir(tmp_path)
    # The base, and the texts on which the effect is measured, are those of the run.
    assert main(["fuse", "-a", "here/run", "-o", "./fused"]) == 0
    assert Path("fused/model.safetensors").read_bytes() == Path("here/there/model.safetensors").read_bytes()
    assert run_job(resumed_job(Path("here/run"), {"steps": 2}), build_supervised, resume=True).steps == 2


def test_a_run_keeps_the_day_that_its_template_wrote(
    small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template like Llama 3.2's writes today's date: resumed on another day, the data must stay the same."""
    from llama3_mlx.finetune.sft import build_supervised
    from llama3_mlx.finetune.training import job as job_module

    class Day(job_module.date):  # type: ignore[misc, name-defined]
        text = "2026-11-26"

        @classmethod
        def today(cls) -> Any:
            return cls.fromisoformat(cls.text)

    monkeypatch.setattr(job_module, "date", Day)
    train(small_chat, ROWS, tmp_path / "given", **QUICK)
    data = write_lines(tmp_path / "d.jsonl", ROWS)
    train(small_chat, data, tmp_path / "run", **QUICK)
    Day.text = "2026-11-27"
    assert run_job(resumed_job(tmp_path / "run", {"steps": 2}), build_supervised, resume=True).steps == 2
    assert train(small_chat, ROWS, tmp_path / "given", resume=True, **{**QUICK, "steps": 2}).steps == 2
    again = train(small_chat, data, tmp_path / "again", **{**QUICK, "steps": 2, "date": "2026-11-26"})
    assert (again.folder / "adapters.safetensors").read_bytes() == (
        tmp_path / "run" / "adapters.safetensors"
    ).read_bytes()


def test_wrong_targets_and_absent_packages_are_found_before_the_data_are_read(
    small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="there is no layer 'nose'"):
        train(small_chat, "nosuch.jsonl", tmp_path / "run", targets=("q_proj,nose",))
    with pytest.raises(RequestError, match="no module of the model matches 'nose'"):
        train(small_chat, "nosuch.jsonl", tmp_path / "run", modules_to_save=("nose",))
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"report\.png needs matplotlib"):
        train(small_chat, "nosuch.jsonl", tmp_path / "run", png=True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("all-linear",), 14),
        (("q_proj,v_proj",), 4),
        (("layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"), 2),
        ((r"layers\.0\.self_attn\.[qkv]_proj",), 3),
        (("embed_tokens",), 1),
    ],
)
def test_targets_are_named_as_peft_names_them(names: tuple[str, ...], expected: int, small_chat: Path) -> None:
    from llama3_mlx.finetune.training.setup import lora_targets

    config = load_text_side(str(small_chat)).config
    assert len(lora_targets(config, TrainSettings(targets=names))) == expected
