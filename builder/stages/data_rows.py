"""The rows that a training learns from and is held against: shapes normalised, sets mixed, rows held out. No torch.

What is learnt and what is measured are kept apart here: a row that is in both is named and refused, before anything
heavy is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.mixture import draw, quotas
from builder.row_keys import is_held_out, row_key
from builder.row_shapes import normal_format
from builder.rows import placed_rows
from registry.errors import Fault, InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from builder.rows import PlacedRow, Row
    from builder.stage import Context, Input

__all__ = ["DataRows", "evaluation_rows", "training_rows"]

_MAX_FAULTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRows:
    """Rows of one format.

    Attributes:
        rows: The rows; those of several sets one set after another, in the order of the sets' digests.
        format: Their format: one of :data:`builder.row_shapes.FORMATS`.
        places: Where each row stands, such as ``data/tickets.jsonl, row 7``.
        source: The data sets, for messages.
        notes: What a reader of the record should know of how they were drawn.
    """

    rows: Sequence[Row]
    format: str
    places: Sequence[str]
    source: str
    notes: tuple[str, ...] = ()


def training_rows(context: Context[Any]) -> DataRows:
    """The rows that an epoch has.

    Raises:
        InvalidError: A row is faulty, or is learnt and measured on; or nothing is left to learn from.
    """
    inputs, held = _in_order(context.all("data")), context.all("eval")
    sets = [list(_parted(one, measured=False)) for one in inputs]
    for one, rows in zip(inputs, sets, strict=True):
        if not rows:
            raise InvalidError("every row is held out", where=one.file, mend="hold out a smaller share, or add rows")
    for one in held:
        _refuse_shared(one, zip(inputs, sets, strict=True))
    format_ = normal_format(inputs[0].format)
    source = ", ".join(one.source for one in inputs)
    if format_ == "prompts":
        _refuse_two_forms(sets)
    if len(inputs) == 1:
        return _found(sets[0], format_, source)
    weights = [float(str(one.settings["weight"])) for one in inputs]
    parts = quotas([len(rows) for rows in sets], weights)
    drawn: list[PlacedRow] = []
    notes: list[str] = []
    for one, rows, part in zip(inputs, sets, parts, strict=True):
        seed = context.settings.train.seed
        drawn += [rows[number] for number in draw(len(rows), part, seed=seed, label=str(one.digest))]
        notes.append(_drawn_note(one, len(rows), part))
    return _found(drawn, format_, source, tuple(notes))


def evaluation_rows(context: Context[Any]) -> DataRows | None:
    """The rows that the loss is measured on during the training; ``None`` where nothing is.

    Raises:
        InvalidError: A row is faulty, or no row is held out.
    """
    inputs = context.all("eval")
    rows = [row for one in inputs for row in placed_rows(one.path, one.format, where=one.file)]
    if not inputs:
        inputs = _in_order(one for one in context.all("data") if "held_out" in one.settings)
        rows = [row for one in inputs for row in _parted(one, measured=True)]
    if not inputs:
        return None
    source = ", ".join(one.source for one in inputs)
    if not rows:
        raise InvalidError("no row is held out", where=source, mend="hold out a larger share, or name a set of its own")
    return _found(rows, normal_format(inputs[0].format), source)


def _in_order(sets: Iterable[Input]) -> tuple[Input, ...]:
    """Sets in an order of their own: an action does not tell in which order a manifest names them."""
    return tuple(sorted(sets, key=lambda one: (str(one.digest), float(str(one.settings.get("weight", 0))), one.format)))


def _parted(one: Input, *, measured: bool) -> Iterator[PlacedRow]:
    """The rows of a set that are measured on, or those that are learnt."""
    share = float(str(one.settings.get("held_out", 0)))
    format_ = normal_format(one.format)
    for row in placed_rows(one.path, one.format, where=one.file):
        held = share > 0 and is_held_out(row_key(format_, row.row), share)
        if held == measured:
            yield row


def _refuse_two_forms(sets: Iterable[Sequence[PlacedRow]]) -> None:
    """A trainer asks either texts or conversations; rows of one file are alike already."""
    texts, chats = "", ""
    for row in (row for rows in sets for row in rows):
        if isinstance(row.row["prompt"], str):
            texts = texts or _place(row)
        else:
            chats = chats or _place(row)
    if texts and chats:
        raise InvalidError(
            "prompts are texts in one place and messages in another",
            where=f"{texts}; {chats}",
            mend='write all of them as messages, `[{"role": "user", "content": ...}]`, or all as texts',
        )


def _refuse_shared(held: Input, learnt: Iterable[tuple[Input, Sequence[PlacedRow]]]) -> None:
    """Name every row, up to a number, that is learnt and measured on."""
    format_ = normal_format(held.format)
    places: dict[bytes, PlacedRow] = {}
    for row in placed_rows(held.path, held.format, where=held.file):
        places.setdefault(row_key(format_, row.row), row)
    faults: list[Fault] = []
    for one, rows in learnt:
        for row in rows:
            found = places.pop(row_key(normal_format(one.format), row.row), None)
            if found is None:
                continue
            problem = f"the row is learnt, too: {_place(row)}"
            mend = f"take it out of one of them; `eval: {{share: 0.05}}` holds out rows of {one.name} itself"
            faults.append(Fault(file=found.file, line=found.number, key="", problem=problem, mend=mend))
            if len(faults) == _MAX_FAULTS:
                break
    if faults:
        raise InvalidError.from_faults(faults[:_MAX_FAULTS])


def _found(rows: Sequence[PlacedRow], format_: str, source: str, notes: tuple[str, ...] = ()) -> DataRows:
    return DataRows(
        rows=[one.row for one in rows],
        format=format_,
        places=[_place(one) for one in rows],
        source=source,
        notes=notes,
    )


def _place(row: PlacedRow) -> str:
    return f"{row.file}, row {row.number}"


def _drawn_note(one: Input, size: int, quota: int) -> str:
    times, rest = divmod(quota, size)
    if not times:
        return f"{one.name}: {quota} of its {size} rows make up its part of an epoch"
    repeated = f"each {times} times" + (f", {rest} of them once more" if rest else "") if times > 1 or rest else "each"
    if times == 1 and rest:
        repeated = f"{rest} of them twice"
    return f"{one.name}: its {size} rows, {repeated}, make up its part of an epoch, {quota} rows"
