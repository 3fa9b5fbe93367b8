"""Several rows in one sequence: texts laid end to end, and rows packed by their lengths. No torch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from builder.stages.tokens import Encoded, Example, plain_ids
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["join_texts", "pack"]


def join_texts(tokenizer: Any, texts: Sequence[str], *, max_length: int, where: str) -> Encoded:  # noqa: ANN401
    """Lay texts end to end, an end token after each, and cut the whole into sequences of one length.

    The last, shorter piece is left out.

    Raises:
        InvalidError: All texts together are shorter than one sequence.
    """
    ended = [(*ids, tokenizer.eos_token_id) for ids in plain_ids(tokenizer, texts)]
    stream = [token for ids in ended for token in ids]
    ends = list(accumulate(map(len, ended)))  # text number n is the one that ends first after a token of it
    pieces = [tuple(stream[start : start + max_length]) for start in range(0, len(stream), max_length)]
    whole = [piece for piece in pieces if len(piece) == max_length]
    if not whole:
        raise InvalidError(
            f"all texts together are {len(stream)} tokens, one sequence takes {max_length}",
            where=where,
            mend="lower train.max_length, or give more text",
        )
    examples = tuple(
        Example(
            input_ids=piece,
            labels=piece,
            lengths=(len(piece),),
            rows=tuple(range(bisect_right(ends, start) + 1, bisect_right(ends, start + max_length - 1) + 2)),
        )
        for start, piece in zip(range(0, len(stream), max_length), whole, strict=False)
    )
    left = len(stream) - len(whole) * max_length
    remarks = (f"the last {left} tokens of the texts make no whole sequence, and were left out",) if left else ()
    return Encoded(examples=examples, truncated=0, silent=0, remarks=remarks)


def pack(encoded: Encoded, *, max_length: int) -> Encoded:
    """Put several rows into one sequence, best fit first, longest rows first.

    Rows keep their order within a sequence; which rows lie together depends on the lengths only.
    """
    free: list[tuple[int, int]] = []  # room left, number of the bin
    bins: list[list[Example]] = []
    for example in sorted(encoded.examples, key=lambda one: -len(one.input_ids)):
        size = len(example.input_ids)
        at = bisect_left(free, (size, -1))
        if at < len(free):
            room, number = free.pop(at)
        else:
            room, number = max_length, len(bins)
            bins.append([])
        bins[number].append(example)
        insort(free, (room - size, number))
    return replace(encoded, examples=tuple(map(_joined, bins)))


def _joined(examples: Sequence[Example]) -> Example:
    return Example(
        input_ids=_chain(examples, lambda one: one.input_ids),
        labels=_chain(examples, lambda one: one.labels),
        lengths=_chain(examples, lambda one: one.lengths),
        rows=_chain(examples, lambda one: one.rows),
    )


def _chain(examples: Sequence[Example], part: Callable[[Example], tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(value for example in examples for value in part(example))
