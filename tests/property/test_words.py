"""Rows of embeddings in another order: what is read in pieces is what one look at the whole tables gives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from builder.weights.stream import Scratch
from builder.weights.words import RemappedRows, align

TOKENS = "abcdefgh"


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
        assert 0 <= start < stop <= len(self.values)
        part = self.values[start:stop]
        return scratch.host(role, "F64", part.numel()).copy_(part.reshape(-1)).view(part.shape)


def vocabularies(count: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(TOKENS), min_size=count, max_size=len(TOKENS), unique=True)


@given(
    tables=st.lists(vocabularies(1), min_size=1, max_size=4),
    start=st.integers(-1, 3),
    padding=st.integers(0, 2),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)
def test_each_row_is_that_of_its_token(tables: list[list[str]], start: int, padding: int, cuts: list[int]) -> None:
    first = start if 0 <= start < len(tables) else None
    embeddings = [
        torch.arange(2.0 * (len(table) + padding), dtype=torch.float64).view(-1, 2) + 100 * index
        for index, table in enumerate(tables)
    ]
    models = [{token: row for row, token in enumerate(table)} for table in tables]
    new = sorted({token for table in tables for token in table} - models[0].keys())
    wanted = {**models[0], **{token: len(models[0]) + place for place, token in enumerate(new)}}
    rows = max(len(embeddings[0]), len(wanted))
    spans = align(wanted, models, rows=rows, base=0, start=first)
    bounds = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    for index, model in enumerate(models):
        remapped = RemappedRows(sources=tuple(map(Held, embeddings)), spans=spans[index])
        scratch = Scratch()
        pieces = [remapped.read(a, b, scratch, "x").clone() for a, b in pairwise(bounds)]
        found = torch.cat(pieces)
        assert found.shape == remapped.shape == (rows, 2)
        by_row = {row: token for token, row in wanted.items()}
        for row in range(rows):
            token = by_row.get(row)
            if token is None:
                expected = embeddings[0][row]
            elif token in model:
                expected = embeddings[index][model[token]]
            elif first is not None and token in models[first]:
                expected = embeddings[first][models[first][token]]
            else:
                having = [embeddings[one][models[one][token]] for one in range(len(models)) if token in models[one]]
                expected = torch.stack(having).mean(0)
            assert torch.equal(found[row], expected)
