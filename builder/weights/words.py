"""Embeddings of models whose tokens have different ids: the rows of one model put into the order of another one.

A token that a model lacks has a stand-in there, so that the model takes no side on it: the row of the model that the
blend starts from, or, where that lacks the token too or there is none, the mean of the rows of all models that have it.
So a token that one model alone has comes out as that model has it. Rows that no token has are the base's own.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from builder.weights.token_ids import other_files
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from builder.weights.architecture import Member
    from builder.weights.blend.rows import Rows, StoredRows
    from builder.weights.stream import Scratch
    from builder.weights.token_ids import TokenIds

__all__ = ["RemappedEntries", "RemappedRows", "Span", "Words", "align", "check_same", "is_identity", "row_count"]

_MATRIX: Final = 2
_SHOWN: Final = 3
_At: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Rows of a result that follow each other in what they are taken from, too.

    Attributes:
        start: First row of the result.
        stop: One after the last.
        at: Where they come from: pairs of a model and its first row. The mean where there are several.
    """

    start: int
    stop: int
    at: _At


@dataclass(frozen=True, kw_only=True, slots=True)
class RemappedRows:
    """Rows of an embedding in another order, some of them from other models.

    Attributes:
        sources: The embedding of each model, ``[its tokens, width]``.
        spans: Where each row comes from; without a gap, in order.
    """

    sources: tuple[Rows, ...]
    spans: tuple[Span, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens of the result, and the width of the embedding."""
        return self.spans[-1].stop, self.sources[0].shape[1]

    @property
    def where(self) -> str:
        """The files."""
        return ", ".join(source.where for source in self.sources)

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        """Rows of the result: float64, shape ``[stop - start, width]``, good until ``role`` is read again.

        Raises:
            InvalidError: The tensor cannot be had.
            OSError: A file cannot be read.
        """
        width = self.shape[1]
        out = scratch.host(role, "F64", (stop - start) * width).view(stop - start, width)
        for span in _within(self.spans, start, stop):
            first, last = max(span.start, start), min(span.stop, stop)
            part = out[first - start : last - start]
            for position, (model, row) in enumerate(span.at):
                at = row + first - span.start
                rows = self.sources[model].read(at, at + last - first, scratch, f"{role} remapped")
                part.copy_(rows) if position == 0 else part.add_(rows)
            if len(span.at) > 1:
                part.div_(len(span.at))
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class RemappedEntries:
    """The same for a head's bias: one row with an entry for each token.

    Attributes:
        sources: The bias of each model, ``[1, its tokens]``.
        spans: Where each entry comes from; without a gap, in order.
    """

    sources: tuple[Rows, ...]
    spans: tuple[Span, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """One row, and the tokens of the result."""
        return 1, self.spans[-1].stop

    @property
    def where(self) -> str:
        """The files."""
        return ", ".join(source.where for source in self.sources)

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        """The one row: float64, shape ``[stop - start, tokens]``, good until ``role`` is read again.

        Raises:
            InvalidError: The tensor cannot be had.
            OSError: A file cannot be read.
        """
        count = self.shape[1]
        out = scratch.host(role, "F64", (stop - start) * count).view(stop - start, count)
        biases = [
            source.read(start, stop, scratch, f"{role} remapped {model}") for model, source in enumerate(self.sources)
        ]
        for span in self.spans:
            part = out[:, span.start : span.stop]
            for position, (model, entry) in enumerate(span.at):
                entries = biases[model][:, entry : entry + span.stop - span.start]
                part.copy_(entries) if position == 0 else part.add_(entries)
            if len(span.at) > 1:
                part.div_(len(span.at))
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """How the vocabularies of several models meet in the tensors that have a row for each token.

    Attributes:
        remapped: Names of those tensors; empty where all models mean the same token by each row.
        spans: For each model where the rows of its tensors come from.
    """

    remapped: frozenset[str] = frozenset()
    spans: tuple[tuple[Span, ...], ...] = ()

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor in the result."""
        return (self.spans[0][-1].stop, *shape[1:]) if name in self.remapped else shape

    def sources(self, model: int) -> frozenset[frozenset[int]]:
        """The models that rows of one model's tensors come from: together those whose mean is taken."""
        return frozenset(frozenset(source for source, _ in span.at) for span in self.spans[model])

    def rows(self, model: int, sources: Sequence[StoredRows]) -> Rows:
        """A tensor of one model as the blend sees it.

        Args:
            model: The model.
            sources: That tensor of every model.
        """
        spans = self.spans[model]
        if len(sources[model].stored.info.shape) == 1:
            return RemappedEntries(sources=tuple(sources), spans=spans)
        return RemappedRows(sources=tuple(sources), spans=spans)


def align(
    wanted: Mapping[str, int],
    models: Sequence[Mapping[str, int]],
    *,
    rows: int,
    base: int,
    start: int | None,
) -> tuple[tuple[Span, ...], ...]:
    """Where each row of the result's embedding comes from, for each model.

    Args:
        wanted: Token -> row in the result; a token beyond ``rows`` has none.
        models: For each model token -> row, of the tokens that have one.
        rows: Rows of the result.
        base: The model whose own rows stand where no token is.
        start: The model that the blend starts from, which stands in first; ``None`` for none.

    Returns:
        For each model the spans of its embedding as the blend sees it.
    """
    tokens: list[str | None] = [None] * rows
    for token, row in wanted.items():
        if row < rows:
            tokens[row] = token
    stand_ins = [_stand_in(token, models, start) or ((base, row),) for row, token in enumerate(tokens)]
    return tuple(
        _spans(
            [
                ((index, table[token]),) if token is not None and token in table else stand_ins[row]
                for row, token in enumerate(tokens)
            ]
        )
        for index, table in enumerate(models)
    )


def is_identity(spans: Sequence[Span], model: int, rows: int) -> bool:
    """Whether a model's embedding of so many rows is taken as it is."""
    return tuple(spans) == (Span(start=0, stop=rows, at=((model, 0),)),)


def row_count(member: Member) -> int:
    """Rows of a model's token embedding.

    Raises:
        InvalidError: It has none that is known, or one that is no matrix of some rows.
    """
    for name, place in member.folder.network.places.items():
        if place.component == "embedding.token" and name.endswith(".weight"):
            shape = member.folder.tensors[name].info.shape
            if len(shape) == _MATRIX and shape[0]:
                return shape[0]
            raise InvalidError(
                f"{name!r} of {member.name} is {list(shape)}; a token embedding is a matrix with a row for each token",
                where=member.source,
                mend="use weights that transformers has saved, and import the model again",
            )
    raise InvalidError(
        f"{member.name} has no token embedding that is known",
        where=member.source,
        mend="blend it with `tokenizer: same`, or blend models of a known family",
    )


def check_same(base: tuple[Member, TokenIds | None], other: tuple[Member, TokenIds | None]) -> tuple[str, ...]:
    """Check that two models mean the same token by each row.

    Returns:
        A note where that cannot be known, since one of them has no tokenizer.

    Raises:
        InvalidError: They do not, or it cannot be told.
    """
    (ours, our_tokens), (theirs, their_tokens) = base, other
    where = f"{theirs.source} with {ours.source}"
    our_rows, their_rows = _rows(ours), _rows(theirs)
    problems = []
    if our_rows != their_rows:
        problems.append(f"{ours.name} has {our_rows} rows, {theirs.name} {their_rows}")
    if our_tokens is not None and their_tokens is not None:
        problems += _differences(our_tokens, their_tokens)
    if problems:
        raise InvalidError(
            f"the vocabularies differ: {'; '.join(problems)}",
            where=where,
            mend=f"write `tokenizer: base` for the tokens of {ours.name}, or `tokenizer: union` for every token of any",
        )
    if our_tokens is not None and their_tokens is not None:
        return ()
    our_files, their_files = other_files(ours.folder), other_files(theirs.folder)
    bare = [
        one
        for one, tokens, files in ((ours, our_tokens, our_files), (theirs, their_tokens, their_files))
        if tokens is None and not files
    ]
    told = our_tokens is None and their_tokens is None and our_files == their_files
    if not bare and not told:
        raise InvalidError(
            f"the vocabularies of {ours.name} and {theirs.name} cannot be compared: "
            f"{(theirs if their_tokens is None else ours).name} has no tokenizer.json",
            where=where,
            mend="save its tokenizer with tokenizer.json, as transformers does, and import it again",
        )
    return tuple(f"{one.name} has no tokenizer: its rows were taken for the same tokens" for one in bare)


def _rows(member: Member) -> int:
    """Rows of the token embedding; 0 where none is known: then only shapes tell."""
    places = member.folder.network.places
    known = any(place.component == "embedding.token" for place in places.values())
    return row_count(member) if known else 0


def _differences(ours: TokenIds, theirs: TokenIds) -> list[str]:
    """The tokens that have different ids, counted, with examples."""
    one, other = ours.ids, theirs.ids
    if one == other:
        return []
    tokens = sorted(
        (token for token in one.keys() | other.keys() if one.get(token) != other.get(token)),
        key=lambda token: (one.get(token, other.get(token, 0)), token),
    )
    told = [
        f"{token!r} is {_id(one, token)} in {ours.name}, {_id(other, token)} in {theirs.name}"
        for token in tokens[:_SHOWN]
    ]
    noun = "token differs" if len(tokens) == 1 else "tokens differ"
    return [f"{len(tokens)} {noun}: {', '.join(told)}"]


def _id(ids: Mapping[str, int], token: str) -> str:
    return str(ids[token]) if token in ids else "missing"


def _stand_in(token: str | None, models: Sequence[Mapping[str, int]], start: int | None) -> _At:
    """What a model that lacks a token takes for it; nothing where no model has it."""
    if token is None:
        return ()
    if start is not None and token in models[start]:
        return ((start, models[start][token]),)
    return tuple((model, table[token]) for model, table in enumerate(models) if token in table)


def _spans(places: Sequence[_At]) -> tuple[Span, ...]:
    """Rows joined as long as each follows the one before it."""
    spans: list[Span] = []
    start = 0
    for row in range(1, len(places) + 1):
        if row < len(places) and places[row] == tuple((model, at + 1) for model, at in places[row - 1]):
            continue
        spans.append(Span(start=start, stop=row, at=places[start]))
        start = row
    return tuple(spans)


def _within(spans: Sequence[Span], start: int, stop: int) -> Iterator[Span]:
    """The spans that hold some of the rows."""
    index = max(0, bisect_right(spans, start, key=lambda span: span.start) - 1)
    while index < len(spans) and spans[index].start < stop:
        yield spans[index]
        index += 1
