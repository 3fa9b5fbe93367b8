"""Rows of embeddings in another order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from builder.weights.stream import Scratch
from builder.weights.words import RemappedEntries, RemappedRows, Span, align, is_identity


@dataclass(frozen=True)
class Held:
    """Rows in memory."""

    values: torch.Tensor
    where: str = "memory"

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        part = self.values[start:stop]
        return scratch.host(role, "F64", part.numel()).copy_(part.reshape(-1)).view(part.shape)


def table(first: float, rows: int) -> torch.Tensor:
    return first + torch.arange(rows * 2, dtype=torch.float64).view(rows, 2)


def test_rows_are_found_by_their_tokens() -> None:
    wanted = {"a": 0, "b": 1, "c": 2}
    ours, theirs = align(wanted, [wanted, {"c": 0, "a": 1, "b": 2}], rows=3, base=0, start=None)
    assert is_identity(ours, 0, 3)
    assert theirs == (Span(start=0, stop=2, at=((1, 1),)), Span(start=2, stop=3, at=((1, 0),)))


def test_a_token_that_a_model_lacks_has_the_row_of_the_start() -> None:
    wanted = {"a": 0, "b": 1}
    spans = align(wanted, [{"a": 0, "b": 1}, {"a": 0}, {"b": 0, "a": 1}], rows=2, base=0, start=2)
    assert spans[1] == (Span(start=0, stop=1, at=((1, 0),)), Span(start=1, stop=2, at=((2, 0),)))


def test_without_a_start_it_has_the_mean_of_those_that_have_it() -> None:
    wanted = {"a": 0, "b": 1}
    models = [{"a": 0}, {"a": 0, "b": 1}, {"b": 0, "a": 1}]
    spans = align(wanted, models, rows=2, base=0, start=None)
    assert spans[0] == (Span(start=0, stop=1, at=((0, 0),)), Span(start=1, stop=2, at=((1, 1), (2, 0))))
    rows = RemappedRows(sources=tuple(Held(table(first, 2)) for first in (0.0, 10.0, 20.0)), spans=spans[0])
    assert rows.read(0, 2, Scratch(), "x").tolist() == [[0, 1], [16, 17]]
    # The same where the start lacks the token, too.
    assert align(wanted, models, rows=2, base=0, start=0)[0] == spans[0]


def test_rows_that_no_token_has_are_the_base_s() -> None:
    spans = align({"a": 0}, [{"a": 0}, {"a": 1}], rows=3, base=0, start=None)
    assert spans[1] == (Span(start=0, stop=1, at=((1, 1),)), Span(start=1, stop=3, at=((0, 1),)))


def test_a_bias_is_put_in_order_too() -> None:
    spans = align({"a": 0, "b": 1}, [{"b": 0}, {"a": 0, "b": 1}], rows=3, base=1, start=None)
    sources = (Held(torch.tensor([[1.0]])), Held(torch.tensor([[5.0, 6.0, 7.0]])))
    entries = RemappedEntries(sources=sources, spans=spans[0])
    assert (entries.shape, entries.where) == ((1, 3), "memory, memory")
    assert entries.read(0, 1, Scratch(), "x").tolist() == [[5, 1, 7]]
