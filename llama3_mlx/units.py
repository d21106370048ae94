"""Sizes and counts as every command, error and note shows them."""


def size_text(n_bytes: float) -> str:
    """Return a number of bytes to three digits, in kB, MB or GB of powers of ten."""
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if n_bytes >= size / 10), ("kB", 1e3))
    return f"{n_bytes / size:.2f} {unit}"


def count_text(count: int, thing: str) -> str:
    """Return a count with its noun, which is put in the plural by an s: `1 token`, `2,048 tokens`."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def parameters_text(count: int) -> str:
    """Return a number of parameters as names of models have it: `8.03B`, `134.52M`."""
    size, letter = next(((size, letter) for size, letter in ((1e9, "B"), (1e6, "M")) if count >= size), (1e3, "K"))
    return f"{count / size:.2f}{letter}"
