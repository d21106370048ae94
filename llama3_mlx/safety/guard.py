"""Llama Guard as a judge of messages: one pass over the prompt for the scores, a constrained answer for the categories.

The model writes "safe", or "unsafe" and a line of codes. Guard 3 writes two line feeds before it, which the prompt gets
here already, so that the verdict is the next token.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..chat.template_files import own_templates
from ..errors import RequestError
from ..json_types import JsonMapping
from ..llama import Llama
from .policy import POLICIES, Policy, recognized_version
from .prompt import Role, Turn, prompt_ids, turns_of
from .scoring import AnswerScorer
from .verdict import Verdict

EXAMPLE_GUARD = "meta-llama/Llama-Guard-3-1B"
_UNSAFE, _SAFE = "unsafe", "safe"


class Guard:
    """A loaded Llama Guard with its policy. Make one with `Guard.load`; close it, or use it in a `with` block."""

    def __init__(self, llama: Llama, policy: Policy, *, threshold: float = 0.5) -> None:
        """Judge with a loaded model; a message is flagged where P(unsafe) is at least `threshold`."""
        if not 0 < threshold < 1:
            raise RequestError(f"the threshold must lie between 0 and 1, not be {threshold!r}")
        self.llama, self.policy, self.threshold = llama, policy, threshold
        # Prompts about users and about agents differ from their first words on.
        self._scorers = {word: AnswerScorer(llama.model) for word in ("User", "Agent")}
        encode = llama.tokenizer.encode
        self._verdicts = [_first(encode(word), word) for word in (_UNSAFE, _SAFE)]
        stems = {tuple(encode(category.code)[:-1]) for category in policy.categories}
        self._codes = [encode(category.code)[-1] for category in policy.categories]
        if len(stems) > 1 or len(set(self._codes)) < len(self._codes):
            raise RequestError("the tokenizer doesn't tell the categories' codes apart by one token: no Llama Guard")
        self._before_code = [*encode(f"{_UNSAFE}\n"), *stems.pop()]

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        version: str | None = None,
        categories: Mapping[str, str] | None = None,
        excluded: Collection[str] = (),
        threshold: float = 0.5,
        **loading: Any,
    ) -> "Guard":
        """Load a Llama Guard.

        Args:
            path_or_id: A folder, a name of the library, or a Hub id.
            version: "2", "3-8b" or "3-1b"; by default told by the chat template.
            categories: Other categories than the model's own, a name (with a description in further lines) for each
                code, S1 and so on.
            excluded: Codes of categories not to look for.
            threshold: From which P(unsafe) on a message is flagged.
            loading: What `Llama.load` takes beside.

        Raises:
            RequestError: The model is no Llama Guard, or an argument doesn't fit.
            ConfigError, CheckpointError, TokenizerError, HubError: The model can't be loaded.
        """
        if version is not None and version not in POLICIES:
            raise RequestError(f"version must be one of {', '.join(POLICIES)}, not {version!r}")
        llama = Llama.load(path_or_id, **loading)
        try:
            return cls.of(llama, version=version, categories=categories, excluded=excluded, threshold=threshold)
        except BaseException:
            llama.close()
            raise

    @classmethod
    def of(
        cls,
        llama: Llama,
        *,
        version: str | None = None,
        categories: Mapping[str, str] | None = None,
        excluded: Collection[str] = (),
        threshold: float = 0.5,
    ) -> "Guard":
        """Judge with a model that is loaded already; see `load`. Raises RequestError for one that is no Llama Guard."""
        found = version or recognized_version(llama.dialog.template.source if llama.dialog else None)
        if found is None:
            raise RequestError(
                f"{_no_guard(llama.folder)}; if it is one, name its version, one of {', '.join(POLICIES)}: version=… "
                "in Python, llama3-mlx guard --guard-version …"
            )
        return cls(llama, POLICIES[found].with_categories(categories, excluded), threshold=threshold)

    def check(self, messages: Sequence[JsonMapping], *, role: Role | None = None) -> Verdict:
        """Judge the last message of a dialog.

        Args:
            messages: The dialog, as `{"role", "content"}` objects.
            role: "user" judges the user's last message, without an answer that follows it; "agent" requires that the
                last one is the assistant's. By default the last message is judged, whoever wrote it.

        Returns:
            The verdict: flagged or not, P(unsafe), the violated categories and a score for each category.

        Raises:
            DialogError, RequestError: The messages are malformed, or nothing of them can be judged.
        """
        turns = turns_of(messages, role)
        prompt = self._prompt(turns)
        unsafe, shares = self._scores(prompt, self._scorers[turns[-1][0]])
        scores = {category.code: unsafe * share for category, share in zip(self.policy.categories, shares, strict=True)}
        if unsafe < self.threshold:
            return Verdict(flagged=False, score=unsafe, category_scores=scores)
        codes = self._codes_after(prompt)
        named = tuple(category for category in self.policy.categories if category.code in codes)
        return Verdict(flagged=True, score=unsafe, categories=named, category_scores=scores)

    def check_text(self, text: str) -> Verdict:
        """Judge a text as what a user says."""
        return self.check([{"role": "user", "content": text}])

    def close(self) -> None:
        """Give the model's memory back."""
        self.llama.close()

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt(self, turns: Sequence[Turn]) -> list[int]:
        tokenizer = self.llama.tokenizer
        ids = prompt_ids(tokenizer, self.policy, turns)
        ids += tokenizer.encode("\n\n") if self.policy.is_chat else []
        limit = self.llama.config.max_position_embeddings - len(self._before_code)
        if len(ids) > limit:
            raise RequestError(f"the dialog takes {len(ids)} tokens with its policy, and the guard reads {limit}")
        return ids

    def _scores(self, prompt: list[int], scorer: AnswerScorer) -> tuple[float, list[float]]:
        """Return P(unsafe), and for each category P(named first) where it is unsafe."""
        last = len(prompt) - 1
        ids = [*prompt, *self._before_code]
        asked = [(last, self._verdicts), (len(ids) - 1, self._codes)]
        verdict, codes = self.llama.engine.call(lambda: scorer.probabilities(ids, asked))
        return verdict[0], codes

    def _codes_after(self, prompt: list[int]) -> list[str]:
        """Return the codes that the model lists, held to those of the policy."""
        one = "|".join(category.code for category in self.policy.categories)
        written = self.llama.generate(
            [*prompt, *self.llama.tokenizer.encode(f"{_UNSAFE}\n")],
            regex=f"({one})(,({one})){{0,{len(self.policy.categories) - 1}}}",
            temperature=0.0,
            max_tokens=6 * len(self.policy.categories),
        )
        return [code for code in written.text.strip().split(",") if self.policy.category(code)]


def check_guard(folder: Path) -> None:
    """Raise RequestError where a model's folder holds no Llama Guard by its chat template; nothing is loaded."""
    template = own_templates(folder).get("default")
    if recognized_version(template) is None:
        raise RequestError(_no_guard(folder))


def _no_guard(folder: Path) -> str:
    return f"{folder.name} isn't a Llama Guard by its chat template: take one, such as {EXAMPLE_GUARD}"


def _first(ids: list[int], word: str) -> int:
    if len(ids) != 1:
        raise RequestError(f"the tokenizer has no token {word!r}, so this is no Llama Guard")
    return ids[0]
