"""How much of a newcomer's prompt is run between two steps of the answers that are being written."""

PREFILL_CHUNK = 2048
_SMALLEST_CHUNK = 16


class Pace:
    """How long a prompt's chunk may be so that it takes about as long as one step of the others."""

    def __init__(self) -> None:
        self._step_s = 0.0
        self._token_s = 0.0

    def took(self, seconds: float, chunk: int) -> None:
        """Note the time of a step, and of a chunk of so many tokens before it."""
        if not chunk:
            self._step_s = _smoothed(self._step_s, seconds)
        elif self._step_s:
            self._token_s = _smoothed(self._token_s, max(seconds - self._step_s, 0.0) / chunk)

    def chunk(self) -> int:
        """Return the length of the next chunk."""
        if not self._step_s or not self._token_s:
            return 64
        return max(_SMALLEST_CHUNK, min(PREFILL_CHUNK, int(self._step_s / self._token_s)))


def _smoothed(old: float, new: float) -> float:
    return 0.8 * old + 0.2 * new if old else new
