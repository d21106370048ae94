"""A chat that remembers: facts about you outlast the conversation, and old turns are folded into a summary.

    python -m examples.recipes.memory --file ~/.memory.json

After each answer the model is asked, held to a schema, for new facts that the user has told; they stand in the system
message of every later conversation. The small model notes too much and wrongly; an 8B notes names, wishes and dates.
Read the file and strike out what is wrong: it is plain JSON.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from examples.recipes import arguments, messages, run
from llama3_mlx import Llama

NOTE = "List new facts about the user that the last message states, each in a few words. None is the usual case."
FACTS = {"type": "array", "items": {"type": "string", "maxLength": 80}, "maxItems": 3}


@dataclass
class Memory:
    """Facts about the user, in a file."""

    file: Path
    facts: list[str] = field(default_factory=list[str])

    @classmethod
    def load(cls, file: Path) -> "Memory":
        """Read the facts of earlier conversations."""
        return cls(file, json.loads(file.read_text(encoding="utf-8")) if file.exists() else [])

    def add(self, facts: list[str]) -> None:
        """Keep the facts that are new."""
        self.facts += [fact for fact in dict.fromkeys(facts) if fact.strip() and fact not in self.facts]
        self.file.write_text(json.dumps(self.facts, indent=1, ensure_ascii=False), encoding="utf-8")


class Chat:
    """A conversation that stays below `longest` tokens."""

    def __init__(self, llama: Llama, memory: Memory, *, longest: int = 2000, max_tokens: int = 300) -> None:
        self.llama, self.memory = llama, memory
        self.longest, self.max_tokens = longest, max_tokens
        self.summary = ""
        self.turns: list[dict[str, str]] = []

    def messages(self) -> list[dict[str, str]]:
        """Return the dialog as the model reads it."""
        known = "\n".join(f"- {fact}" for fact in self.memory.facts)
        parts = ["You are a helpful assistant."]
        parts += [f"You know of the user:\n{known}"] if known else []
        parts += [f"Earlier in this conversation: {self.summary}"] if self.summary else []
        return [{"role": "system", "content": "\n\n".join(parts)}, *self.turns]

    def say(self, text: str) -> str:
        """Answer a message; note what it tells, and fold old turns where the dialog has become too long."""
        self.turns.append({"role": "user", "content": text})
        answer = self.llama.chat(self.messages(), max_tokens=self.max_tokens).text
        self.turns.append({"role": "assistant", "content": answer})
        self._remember(text)
        while len(self.turns) > 2 and len(self.llama.encode_chat(self.messages())) > self.longest:
            self._fold()
        return answer

    def _remember(self, text: str) -> None:
        question = [{"role": "user", "content": f"{text}\n\n{NOTE}"}]
        done = self.llama.chat(question, schema=FACTS, max_tokens=120, temperature=0)
        self.memory.add(done.parsed or [])

    def _fold(self) -> None:
        """Put the oldest two turns into the summary."""
        old = "\n".join(f"{turn['role']}: {turn['content']}" for turn in self.turns[:2])
        question = f"{self.summary}\n{old}\n\nSummarize this conversation in two sentences.".strip()
        done = self.llama.chat([{"role": "user", "content": question}], max_tokens=80, temperature=0)
        self.summary, self.turns = done.text.strip(), self.turns[2:]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--file", type=Path, default=Path("memory.json"), help="where facts are kept (%(default)s)")
    args = parser.parse_args()
    with Llama.load(args.model) as llama:
        chat = Chat(llama, Memory.load(args.file.expanduser()))
        for text in messages():
            print(chat.say(text))


if __name__ == "__main__":
    run(main)
