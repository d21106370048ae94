"""The recipes in a short form, on a random model of bytes: what they do holds whatever the model says."""

import asyncio
import csv
import io
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from examples import recipes
from examples.recipes import (
    ask_notes,
    classify_csv,
    extract,
    guarded_chat,
    line_service,
    memory,
    several_adapters,
    speculate,
    summarize,
    text_to_sql,
    use_tools,
    webhook_bot,
)
from llama3_mlx import Llama
from llama3_mlx.engine.request import AnswerRequest
from llama3_mlx.generation.options import GenerationOptions
from llama3_mlx.safety import Guard
from llama3_mlx.safety.shield import Shield

from ..support.scripted_llama import ScriptedLlama
from ..support.server_fixtures import save_adapter

Script = Callable[[str, GenerationOptions], str]


@pytest.fixture(scope="module")
def llama(small_chat: Path) -> Iterator[Llama]:
    with Llama.load(small_chat, disk_cache=False) as loaded:
        yield loaded


@pytest.fixture
def scripted(small_chat: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], ScriptedLlama]]:
    """Gives a model that says what a function of prompt and options returns; constraints hold for what it says."""
    loaded: list[Llama] = []

    def load(script: Script) -> ScriptedLlama:
        kind: type[ScriptedLlama] = type("Scripted", (ScriptedLlama,), {"script": staticmethod(script), "seen": []})
        llama = kind.load(small_chat, disk_cache=False)
        assert isinstance(llama, ScriptedLlama)
        loaded.append(llama)

        def submit(prompt: Sequence[int], answers: Sequence[AnswerRequest], *_: object, **__: object) -> None:
            llama.submit(prompt, [each.options for each in answers], [each.reply for each in answers])

        monkeypatch.setattr(llama._submitter, "submit", submit)
        return llama

    yield load
    for llama in loaded:
        llama.close()


def test_what_cannot_be_had_ends_a_recipe_with_one_line(
    small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (("--model", str(tmp_path / "none")), ("--model", str(small_chat))):
        monkeypatch.setattr("sys.argv", ["summarize", str(tmp_path / "none.txt"), *given])
        with pytest.raises(SystemExit, match=r"^error: .*none"):
            recipes.run(summarize.main)
    monkeypatch.setattr("sys.argv", ["webhook_bot"])
    monkeypatch.setenv("APP_SECRET", "key")
    with pytest.raises(SystemExit):
        recipes.run(webhook_bot.main)
    assert "set VERIFY_TOKEN, PAGE_TOKEN in the environment" in capsys.readouterr().err


def test_a_document_is_summarized_by_parts_that_are_read_once(llama: Llama) -> None:
    text = "\n\n".join(f"Paragraph {number} says {number * 7}." for number in range(12))
    parts = list(summarize.parts_of(llama, text, 100))
    assert len(parts) > 2
    assert "\n\n".join(parts) == text
    long = list(summarize.parts_of(llama, "word " * 100, 100))
    assert "".join(part.replace(" ", "") for part in long) == "word" * 100
    _, notes = summarize.summarize(llama, text, part=100, max_tokens=4)
    assert len(notes) == len(parts)
    for note, part in zip(notes, parts, strict=True):
        assert note.cached_tokens > len(part), "a byte is a token, and the second question goes on from the first"


def test_notes_are_found_and_only_they_are_cited(scripted: Callable[[Script], ScriptedLlama], tmp_path: Path) -> None:
    (tmp_path / "house.md").write_text("# House\n\nThe boiler is due in May.\n\nThe roof was mended in 2019.\n")
    (tmp_path / "trips.txt").write_text("Bergen was rainy.")
    index = ask_notes.Index(ask_notes.passages_of(tmp_path))
    assert [(each.file.name, each.line) for each in index.passages] == [
        ("house.md", 1), ("house.md", 3), ("house.md", 5), ("trips.txt", 1),
    ]  # fmt: skip

    def script(prompt: str, _: GenerationOptions) -> str:
        assert "[1] The boiler is due in May." in prompt
        return json.dumps({"sources": [1, 1], "answer": "In May."})

    answer = ask_notes.ask(scripted(script), index, "When is the boiler due?")
    assert answer.text == "In May."
    assert [each.text for each in answer.sources] == ["The boiler is due in May."]
    assert ask_notes.ask(scripted(script), index, "Zebras?").sources == ()


def test_facts_outlast_a_conversation_and_old_turns_are_folded(
    scripted: Callable[[Script], ScriptedLlama], tmp_path: Path
) -> None:
    def script(prompt: str, options: GenerationOptions) -> str:
        if options.schema is not None:
            return json.dumps(["likes tea"] if "I like tea" in prompt else [])
        return "A talk about tea." if "Summarize this conversation" in prompt else "Good."

    llama = scripted(script)
    chat = memory.Chat(llama, memory.Memory.load(tmp_path / "memory.json"), longest=700)
    assert chat.say("I like tea") == "Good."
    assert chat.say("x" * 400) == "Good."
    assert chat.say("y" * 100) == "Good."
    assert chat.summary == "A talk about tea."
    assert chat.turns[0]["content"] != "I like tea"
    again = memory.Chat(llama, memory.Memory.load(tmp_path / "memory.json"))
    again.say("Hello")
    assert any("- likes tea" in prompt and "Hello" in prompt for prompt in llama.seen)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    file = tmp_path / "the shop.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE customers (name TEXT, city TEXT, 'born in' INTEGER)")
        connection.execute("CREATE TABLE orders (customer TEXT, cents INTEGER)")
        connection.execute("INSERT INTO customers VALUES ('Amara', 'Bergen', 1990)")
    connection.close()
    return file


def test_every_query_that_the_grammar_allows_runs(llama: Llama, shop: Path) -> None:
    """SQLite judges what a random model writes at a high temperature."""
    tables = text_to_sql.tables_of(shop)
    assert tables == {"customers": ["name", "city", "born in"], "orders": ["customer", "cents"]}
    grammar = text_to_sql.grammar_of(tables)
    done = llama.samples("SQL:", 12, grammar=grammar, max_tokens=250, temperature=1.5, seed=1)
    whole = [each.text for each in done if each.finish_reason == "stop"]
    assert len(whole) >= 6
    assert len(set(whole)) > 3
    for text in whole:
        text_to_sql.query(shop, text)


def test_a_query_answers_and_nothing_can_be_written(scripted: Callable[[Script], ScriptedLlama], shop: Path) -> None:
    said = "SELECT name FROM customers WHERE city = 'Bergen' ORDER BY \"born in\" DESC LIMIT 5"
    llama = scripted(lambda prompt, _: said if "customers(name, city, born in)" in prompt else "")
    text = text_to_sql.write_query(llama, text_to_sql.tables_of(shop), "Who is from Bergen?")
    assert text_to_sql.query(shop, text) == [("Amara",)]
    for refused in ("DELETE FROM customers", "ATTACH 'x' AS y", "PRAGMA user_version = 3", "SELECT 1; SELECT 2"):
        with pytest.raises(sqlite3.Error):
            text_to_sql.query(shop, refused)


def test_what_a_validator_objects_to_is_asked_for_again(scripted: Callable[[Script], ScriptedLlama]) -> None:
    lines = [{"text": "Lamp", "cents": 1200}, {"text": "Bulb", "cents": 300}]

    def script(prompt: str, _: GenerationOptions) -> str:
        total = 1500 if "the lines add up to 1500" in prompt else 1400
        return json.dumps({"seller": "Ostrow", "lines": lines, "total_cents": total})

    log = io.StringIO()
    invoice = extract.extract(scripted(script), "Lamp 12.00, bulb 3.00", log=log)
    assert invoice is not None
    assert invoice.total_cents == 1500
    attempts = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [each["problem"] is None for each in attempts] == [False, True]
    assert extract.extract(scripted(script), "…", log=io.StringIO(), attempts=1) is None


def test_each_attempt_stands_in_the_log_at_once(
    small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is broken off leaves what it tried."""
    log_file, seen = tmp_path / "attempts.jsonl", list[str]()

    def attempt(*_: object, log: io.TextIOBase) -> None:
        log.write("tried\n")
        seen.append(log_file.read_text())

    monkeypatch.setattr(extract, "extract", attempt)
    (tmp_path / "invoice.txt").write_text("Lamp 12.00")
    given = [str(tmp_path / "invoice.txt"), "--log", str(log_file), "--model", str(small_chat)]
    monkeypatch.setattr("sys.argv", ["extract", *given])
    with pytest.raises(SystemExit, match="no attempt held"):
        recipes.run(extract.main)
    assert seen == ["tried\n"]


def test_functions_are_called_on_files_of_one_folder(
    scripted: Callable[[Script], ScriptedLlama], tmp_path: Path
) -> None:
    (tmp_path / "plan.txt").write_text("From 2026-01-30 to 2026-03-01.")
    calls = [
        ("read_file", {"name": "plan.txt"}),
        ("read_file", {"name": "../secret"}),
        ("days_between", {"start": "2026-01-30", "end": "2026-03-01"}),
    ]
    said = iter([*(json.dumps({"name": name, "parameters": given}) for name, given in calls), "30 days."])
    run = use_tools.ask(scripted(lambda *_: next(said)), tmp_path, "How many days?")
    results = [message["content"] for message in run.messages if message["role"] == "tool"]
    assert results == ["From 2026-01-30 to 2026-03-01.", "can't be read: outside the folder", "30"]
    assert run.text == "30 days."


def test_rows_are_labeled_in_batches_and_a_run_goes_on(llama: Llama, tmp_path: Path) -> None:
    source, result = tmp_path / "mails.csv", tmp_path / "labeled.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "text"), *((str(n), f'Mail {n}, "quoted"\nand two lines') for n in range(5))])
    labels = ["complaint", "question"]
    assert classify_csv.classify(llama, source, result, "text", labels, batch=2) == 5
    first = result.read_text()
    rows = list(csv.DictReader(io.StringIO(first)))
    assert [row["id"] for row in rows] == list("01234")
    assert {row["label"] for row in rows} <= set(labels)
    cut = first[: first.index('3,"Mail 3')]
    result.write_text(cut)
    assert classify_csv.classify(llama, source, result, "text", labels, batch=2) == 2
    assert result.read_text() == first
    with pytest.raises(SystemExit, match="has no column 'body', but id, text"):
        classify_csv.classify(llama, source, result, "body", labels)


def test_a_guard_holds_back_and_a_shield_warns(scripted: Callable[[Script], ScriptedLlama], tiny_folder: Path) -> None:
    code = "Here:\n```python\nimport hashlib\nhashlib.md5(password)\n```"
    llama, shield = scripted(lambda *_: code), Shield()
    dialog: list[dict[str, str]] = []
    turn = guarded_chat.say(llama, dialog, "Hash it", guard=None, shield=shield)
    assert (turn.text, turn.refused) == (code, False)
    assert turn.warnings
    assert len(dialog) == 2
    with Guard.load(tiny_folder, version="3-8b", disk_cache=False) as guard:
        guard.threshold = 1e-9
        assert guarded_chat.say(llama, dialog, "Hash it", guard=guard, shield=shield).refused
        guard.threshold = 1 - 1e-9
        assert not guarded_chat.say(llama, dialog, "Hash it", guard=guard, shield=shield).refused
    assert len(dialog) == 4


def test_speculation_changes_the_passes_and_not_the_text(small_chat: Path) -> None:
    none, text, draft = speculate.compare(small_chat, small_chat, max_tokens=40)
    assert none.text == text.text == draft.text
    assert none.passes >= none.tokens - 1
    assert draft.passes < none.passes
    assert "passes a token" in str(draft)


# The recipe itself waits for its answers as long as they take.
@pytest.mark.timeout(120)
def test_adapters_answer_side_by_side(small_chat: Path, tmp_path: Path) -> None:
    config = json.loads((small_chat / "config.json").read_text())
    outputs, inputs = config["hidden_size"], config["head_dim"] * config["num_attention_heads"]
    folders = {}
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        folders[name] = save_adapter(
            tmp_path / name, inputs, outputs, layers=config["num_hidden_layers"], seed=seed, size=1.0
        )
    answers = several_adapters.compare(small_chat, folders, "Hi", max_tokens=8)
    assert set(answers) == {"", "one", "two"}
    assert len(set(answers.values())) == 3
    alone = several_adapters.compare(small_chat, {"two": folders["two"]}, "Hi", max_tokens=8)
    assert alone["two"] == answers["two"]


def test_lines_of_several_connections_are_answered(llama: Llama) -> None:
    async def talk() -> tuple[list[str], int]:
        service = line_service.LineService(llama, waiting=2, max_tokens=6)
        server = await asyncio.start_server(service.handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def ask(line: str) -> str:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{line}\n".encode())
            answer = await reader.readline()
            writer.close()
            return answer.decode("utf-8", "replace")

        answers = list(await asyncio.gather(ask("Hi"), ask("Hi")))
        service.waiting = 0
        answers.append(await ask("Hi"))
        await service.finish(30)
        server.close()
        await server.wait_closed()
        return answers, service.open

    answers, still_open = asyncio.run(asyncio.wait_for(talk(), 120))
    assert answers[0] == answers[1]
    assert answers[2].startswith("error: too many questions")
    assert still_open == 0


def test_a_real_small_model_answers_labels_and_queries(smollm2_folder: Path, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "france.md").write_text("The capital of France is Paris.\n\nThe capital of Norway is Oslo.")
    with Llama.load(smollm2_folder, disk_cache=False) as llama:
        index = ask_notes.Index(ask_notes.passages_of(tmp_path / "notes"))
        answer = ask_notes.ask(llama, index, "What is the capital of France?", count=1, max_tokens=120)
        assert [each.file.name for each in answer.sources] == ["france.md"]
        assert "Paris" in answer.text
        labels = classify_csv.label(llama, ["I hate it!", "Thank you, it is lovely!"], ["good", "bad"])
        assert set(labels) <= {"good", "bad"}
        text = text_to_sql.write_query(llama, text_to_sql.tables_of(shop), "List the names of all customers.")
        assert isinstance(text_to_sql.query(shop, text), list)
