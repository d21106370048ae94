"""Bandit's tests on a syntax tree, without what only its own program needs: scores, `# nosec`, files, a debug log.

The tests, and what they are told about a node, are bandit's; nodes that no test looks at cost next to nothing.
Source: bandit `core/node_visitor.py` and `core/tester.py`.
"""

import ast
import io
from typing import Any

from bandit.core.config import BanditConfig
from bandit.core.context import Context
from bandit.core.node_visitor import BanditNodeVisitor
from bandit.core.test_set import BanditTestSet
from bandit.core.tester import BanditTester

# Bandit's lowest rank that isn't "undefined".
_LEAST = "LOW"


def load_tests() -> Any:
    """Return all of bandit's tests."""
    return BanditTestSet(BanditConfig())


def issues(code: bytes, tests: Any) -> tuple[list[Any], list[str]]:
    """Return bandit's issues, and what its tests failed at; raises SyntaxError for code that can't be parsed."""
    walk = _Walk(code, tests)
    walk.process(code)
    return [issue for issue in walk.tester.results if issue.filter(_LEAST, _LEAST)], walk.tester.failures


class _Tester(BanditTester):  # type: ignore[misc]
    """Runs the tests for a node; none of them changes what it is told."""

    def __init__(self, tests: Any) -> None:
        super().__init__(tests, False, {}, None)
        self.failures: list[str] = []

    def run_tests(self, raw_context: dict[str, Any], checktype: str) -> None:
        """Keep what the tests find."""
        context = Context(raw_context)
        for test in self.testset.get_tests(checktype):
            try:
                issue = test(context, test._config) if hasattr(test, "_config") else test(context)
            except Exception as error:
                self.failures.append(f"{test.__name__} failed: {error}")
                continue
            if issue is not None:
                issue.lineno = raw_context["lineno"] if issue.lineno is None else issue.lineno
                issue.test_id = issue.test_id or test._test_id
                self.results.append(issue)


class _Walk(BanditNodeVisitor):  # type: ignore[misc]
    """Visits what tests look at and what gives names their meaning."""

    def __init__(self, code: bytes, tests: Any) -> None:
        # The name is that of no file; names of modules come from it.
        super().__init__("./code.py", io.BytesIO(code), None, tests, False, {}, None)
        self.tester = _Tester(tests)
        named = {name.removeprefix("visit_") for name in dir(self) if name.startswith("visit_")}
        self._visited = named | set(tests.tests)

    def generic_visit(self, node: ast.AST) -> None:
        """Go through the nodes below."""
        for _, value in ast.iter_fields(node):
            if isinstance(value, list):
                following = iter([*value[1:], None])
                for item in value:
                    self._enter(item, next(following), node)
            else:
                self._enter(value, None, node)

    def _enter(self, node: Any, sibling: Any, parent: ast.AST) -> None:
        if not isinstance(node, ast.AST) or isinstance(node, ast.expr_context):
            return
        node._bandit_sibling, node._bandit_parent = sibling, parent  # type: ignore[attr-defined]
        if type(node).__name__ not in self._visited:
            self.generic_visit(node)
        elif self.pre_visit(node):
            self.visit(node)
            self.generic_visit(node)
            self.post_visit(node)

    def update_scores(self, scores: None) -> None:
        """Keep none."""
