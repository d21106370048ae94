"""A download's progress as reports: a tqdm class that huggingface_hub drives in place of bars on a terminal."""

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

_EVERY_S = 0.25


def bar_class(report: Callable[[Mapping[str, Any]], None]) -> type[Any]:
    """Return a tqdm class whose bars over bytes report `status`, `digest`, `total` and `completed`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """A bar that draws nothing."""

        def __init__(self, *args: Any, **more: Any) -> None:
            more["disable"] = False
            super().__init__(*args, **{**more, "file": _Nowhere()})
            self._reported_s = 0.0

        def display(self, *_: Any, **__: Any) -> None:
            """Draw nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            """Count and report."""
            shown: bool | None = super().update(n)
            now = time.monotonic()
            if self.unit == "B" and self.total and (now - self._reported_s > _EVERY_S or self.n >= self.total):
                self._reported_s = now
                name = str(self.desc or "weights").rstrip(": ")
                digest = "sha256:" + sha256(name.encode()).hexdigest()
                report(
                    {
                        "status": f"pulling {name}",
                        "digest": digest,
                        "total": int(self.total),
                        "completed": int(self.n),
                    }
                )
            return shown

    return Bar


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, _: str) -> int:
        return 0

    def flush(self) -> None:
        pass
