"""The policies that Llama Guard models were trained on, and what is special about the prompt of each.

Source: the chat templates of meta-llama's Hugging Face repositories; Llama-Guard2/MODEL_CARD.md and
Llama-Guard3/{1B,8B}/MODEL_CARD.md in https://github.com/meta-llama/PurpleLlama. Prompts and cards name some categories
differently: a prompt has to have the name that the model knows.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ..errors import RequestError

_CODE = re.compile(r"S[1-9]\d{0,2}\Z")


@dataclass(frozen=True)
class Category:
    """A kind of content that is unsafe: its code in prompts and answers, its name there, its title for people."""

    code: str
    name: str
    title: str


@dataclass(frozen=True)
class Policy:
    """The categories of a prompt, and its form: `version` is 2, 3-8b or 3-1b."""

    version: str
    categories: tuple[Category, ...]

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is a user's message of a dialog; Guard 2's is plain text."""
        return self.version != "2"

    @property
    def begin(self) -> str:
        """What stands before the prompt's first control token; a space in Guard 3 8B's template."""
        return " " if self.version == "3-8b" else ""

    @property
    def line_end(self) -> str:
        """What stands behind a category's name."""
        return " \n" if self.version == "2" else "\n"

    @property
    def end(self) -> str:
        """What ends the prompt's text."""
        return {"2": " [/INST]", "3-8b": "", "3-1b": " "}[self.version]

    def category(self, code: str) -> Category | None:
        """Return the category of a code, None for one that isn't the policy's."""
        return next((category for category in self.categories if category.code == code), None)

    def with_categories(self, names: Mapping[str, str] | None = None, excluded: Collection[str] = ()) -> "Policy":
        """Return the policy with other categories, each by its code (S1, S2, …), or without some.

        A name may go on with a description in further lines. Raises RequestError for codes that can't be.
        """
        wrong = [code for code in names or () if not _CODE.match(code)]
        wrong += [code for code in excluded if not _CODE.match(code)]
        if wrong:
            raise RequestError(f"a category's code must be S and a number up to 999, as in S1, not {wrong[0]!r}")
        chosen = self.categories
        if names is not None:
            chosen = tuple(Category(code, name, _title(name)) for code, name in names.items())
        unknown = sorted(set(excluded) - {category.code for category in chosen})
        if unknown:
            known = ", ".join(category.code for category in chosen)
            raise RequestError(f"there is no category {unknown[0]} to leave out; there are {known}")
        kept = tuple(category for category in chosen if category.code not in excluded)
        if not kept:
            raise RequestError("no category is left to look for: give at least one")
        return replace(self, categories=kept)


def _title(name: str) -> str:
    return name.strip().splitlines()[0].strip().removesuffix(".") if name.strip() else ""


def _categories(*names: str) -> tuple[Category, ...]:
    titles = {"Sex Crimes": "Sex-Related Crimes", "Child Exploitation": "Child Sexual Exploitation"}
    titles["Self-Harm"] = "Suicide & Self-Harm"
    return tuple(Category(f"S{at}", f"{name}.", titles.get(name, name)) for at, name in enumerate(names, start=1))


_CRIMES = ("Violent Crimes", "Non-Violent Crimes", "Sex Crimes", "Child Exploitation")
_COMMON = (
    "Specialized Advice",
    "Privacy",
    "Intellectual Property",
    "Indiscriminate Weapons",
    "Hate",
    "Self-Harm",
    "Sexual Content",
)
_GUARD_3 = (*_CRIMES, "Defamation", *_COMMON, "Elections")
POLICIES = {
    "2": Policy("2", _categories(*_CRIMES, *_COMMON)),
    "3-8b": Policy("3-8b", _categories(*_GUARD_3, "Code Interpreter Abuse")),
    "3-1b": Policy("3-1b", _categories(*_GUARD_3)),
}


def recognized_version(template: str | None) -> str | None:
    """Return which Llama Guard a chat template belongs to, None for another model's."""
    if template is None or "unsafe content" not in template:
        return None
    if "[INST]" in template:
        return "2"
    return "3-1b" if "selectattr" in template else "3-8b"
