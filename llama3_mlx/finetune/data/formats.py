"""Records brought into the four kinds of examples, by the layout that their keys show."""

from collections.abc import Mapping, Sequence

from ...errors import DataError
from ...json_types import JsonValue
from .layouts import LABELED, PREFERENCE, QUESTIONS, SUPERVISED, Layout
from .records import Record, collected
from .samples import Labeled, Pair, Question, Sample

# Columns that name an example, which nobody expects to be learned.
_NAMES = frozenset(("id", "idx", "index", "uuid", "_id", "prompt_id", "example_id", "source", "dataset"))


def read_samples(records: Sequence[Record], layout: str = "auto", problems: list[str] | None = None) -> list[Sample]:
    """Return the examples of supervised data.

    Raises DataError with every one that is malformed or of another shape; where `problems` is given, they are added to
    it instead. The same holds for all that read here.
    """
    return _read(records, SUPERVISED, layout, problems)


def read_pairs(records: Sequence[Record], problems: list[str] | None = None) -> list[Pair]:
    """Return the pairs of preference data."""
    return _read(records, PREFERENCE, "auto", problems)


def has_pairs(records: Sequence[Record]) -> bool:
    """Return whether these are pairs, going by the first."""
    return bool(records) and layout_of(records[0], {**LABELED, **PREFERENCE}) in PREFERENCE


def has_labels(records: Sequence[Record]) -> bool:
    """Return whether these are labeled continuations, going by the first."""
    return bool(records) and layout_of(records[0], LABELED) is not None


def read_labeled(records: Sequence[Record], problems: list[str] | None = None) -> list[Labeled]:
    """Return the labeled continuations of unpaired preference data; pairs give one of each."""
    if has_pairs(records):
        pairs = read_pairs(records, problems)
        return [item for p in pairs for item in (Labeled(p.where, p.chosen, True), Labeled(p.where, p.rejected, False))]
    return _read(records, LABELED, "auto", problems)


def read_questions(records: Sequence[Record], problems: list[str] | None = None) -> list[Question]:
    """Return prompts, with all other columns beside them."""
    return _read(records, QUESTIONS, "auto", problems)


def layout_of(record: Record, layouts: Mapping[str, Layout]) -> str | None:
    """Return the name of the first layout all of whose keys the record has."""
    return next((name for name, layout in layouts.items() if all(key in record.value for key in layout.keys)), None)


def unread_columns(records: Sequence[Record], layout: str = "auto") -> list[str]:
    """Return the columns of the examples that their layout doesn't look at, in their order."""
    layouts = {**LABELED, **PREFERENCE, **SUPERVISED}
    names: dict[str, None] = {}
    for record in records:
        name = layout_of(record, layouts) if layout == "auto" else layout
        if name in layouts:
            read = {*layouts[name].keys, *layouts[name].optional, *_NAMES}
            names |= {str(key): None for key, value in record.value.items() if key not in read and value is not None}
    return list(names)


def _read(
    records: Sequence[Record], layouts: Mapping[str, Layout], layout: str, problems: list[str] | None
) -> list[JsonValue]:
    if layout != "auto" and layout not in layouts:
        raise DataError(f"layout must be one of auto, {', '.join(layouts)}, not {layout!r}")
    made: list[JsonValue] = []
    accepted = layouts if layout == "auto" else {layout: layouts[layout]}
    # The first example that has a layout sets it for all.
    common = next((name for record in records if (name := layout_of(record, accepted))), None)
    explained = False
    with collected(problems) as bad:
        for record in records:
            found = layout_of(record, accepted)
            if found is None:
                bad.append(f"{record.where}: {_no_layout(record, accepted, explained=explained)}")
                explained = True
            elif found != common:
                bad.append(f"{record.where}: its layout is {found} and the first example's {common}: mixed data")
            else:
                try:
                    made.append(layouts[found].read(record))
                except DataError as error:
                    bad.append(f"{record.where}: {error}")
    return made


def _no_layout(record: Record, accepted: Mapping[str, Layout], *, explained: bool) -> str:
    """Say that a record has no layout that is accepted; which are accepted is said once."""
    has = ", ".join(map(str, record.value)) or "no keys"
    others = {"train": SUPERVISED, "dpo, orpo and kto": PREFERENCE, "kto": LABELED}
    commands = [name for name, layouts in others.items() if layout_of(record, layouts)]
    if commands:
        return f"it has {has:.200}: data for {commands[0]}"
    keys = "; ".join(f"{name}: {', '.join(layout.keys)}" for name, layout in accepted.items())
    hint = f" ({keys}); other names of columns are given as --columns NAME=COLUMN"
    return f"it has {has:.200}, which is none of the layouts" + ("" if explained else hint)
