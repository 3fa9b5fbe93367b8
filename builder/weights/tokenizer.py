"""New tokens in a tokenizer's files: ids, and the pieces that each token was before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from tokenizers import AddedToken, Tokenizer

from registry.canonical import pretty
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.weights.draft import Draft
    from registry.canonical import JSON

__all__ = ["TOKENIZER", "TOKENIZER_CONFIG", "Extension", "extend_tokenizer", "parse_tokenizer", "token_id"]

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"

_ADDED_TOKENS: Final = "added_tokens.json"
_FLAGS: Final = {"lstrip": False, "rstrip": False, "single_word": False}
_Table: TypeAlias = "dict[str, JSON]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """What new tokens do to a tokenizer.

    Attributes:
        known: One more than the highest id before.
        pieces: Id of each new token -> ids of the tokens that its text was made of before, in order.
        files: Name -> bytes of the files that change, in canonical JSON.
    """

    known: int
    pieces: Mapping[int, tuple[int, ...]]
    files: Mapping[str, bytes]


def extend_tokenizer(draft: Draft, *, plain: Sequence[str], special: Sequence[str]) -> Extension:
    """Add tokens: first the plain ones, then the special ones, each in the order given, with the next free ids.

    A plain token is matched in normalised text; a special one in the text as it is, and is skipped when text is decoded
    without special tokens. Neither takes the blanks around it, nor asks to be a word of its own. In files, only what
    must change changes: ``added_tokens`` of ``tokenizer.json``, ``added_tokens_decoder`` of ``tokenizer_config.json``
    and ``added_tokens.json``, the last two where they are there.

    Args:
        draft: The model, with its files as they are by now.
        plain: Texts of plain tokens; may be empty.
        special: Texts of special tokens; may be empty.

    Raises:
        NotFoundError: There is no ``tokenizer.json``.
        InvalidError: A token comes twice, is one already, has no pieces, or would not be one token; or a file breaks
            its format.
    """
    where = draft.where
    table = _read_table(draft)
    tokenizer = _tokenizer(table, where)
    known = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    texts = (*plain, *special)
    _check(tokenizer, texts, where)
    unknown = _unknown(tokenizer, table)
    pieces = [
        _pieces(tokenizer, text, unknown if index < len(plain) else None, where) for index, text in enumerate(texts)
    ]
    tokenizer.add_tokens([AddedToken(text, normalized=True, special=False) for text in plain])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    ids = {text: _id(tokenizer, text, where) for text in texts}
    entries: dict[int, _Table] = {
        ids[text]: {"content": text, "normalized": index < len(plain), "special": index >= len(plain), **_FLAGS}
        for index, text in enumerate(texts)
    }
    files = _changed_files(draft, table, entries)
    _prove(files[TOKENIZER], ids, where)
    return Extension(known=known, pieces=dict(zip(ids.values(), pieces, strict=True)), files=files)


def parse_tokenizer(data: bytes, *, where: str) -> Tokenizer:
    """The tokenizer that ``tokenizer.json`` describes, without truncation and padding.

    Raises:
        InvalidError: It breaks its format.
    """
    try:
        tokenizer = Tokenizer.from_str(data.decode())
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except BaseException as error:
        # The library raises the bare class, or where its own code fails what is no Exception; all else is none of its.
        panicked = type(error).__name__ == "PanicException"
        if type(error) is not Exception and not isinstance(error, UnicodeDecodeError) and not panicked:
            raise
        raise _broken(str(error), where) from error
    return tokenizer


def token_id(tokenizer: Tokenizer, text: str) -> int | None:
    """The id of the token with just this text; ``None`` where there is none."""
    found = tokenizer.token_to_id(text)
    return found if isinstance(found, int) else None


def _read_table(draft: Draft) -> _Table:
    """The value of ``tokenizer.json``; not by the strict reader, whose limit on brackets counts those in tokens."""
    data = draft.file(TOKENIZER)
    if data is None:
        raise NotFoundError(
            f"there is no {TOKENIZER}, and no other tokenizer can be added to",
            where=draft.where,
            mend="save the model's tokenizer as a fast one, and import the model again",
        )
    try:
        table = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _broken(str(error), draft.where) from error
    if not isinstance(table, dict) or not isinstance(table.get("added_tokens", []), list):
        raise _broken("it is no table with a list of added_tokens", draft.where)
    return table


def _tokenizer(table: _Table, where: str) -> Tokenizer:
    model = table.get("model")
    steady = {**model, "dropout": None} if isinstance(model, dict) and "dropout" in model else model
    return parse_tokenizer(json.dumps({**table, "model": steady}).encode(), where=where)


def _check(tokenizer: Tokenizer, texts: Sequence[str], where: str) -> None:
    for index, text in enumerate(texts):
        if not text:
            raise InvalidError("a token is empty", where=where, mend="write its text, or leave it out")
        if text in texts[:index]:
            raise InvalidError(f"token {text!r} comes twice", where=where, mend="name it once, as plain or as special")
        found = token_id(tokenizer, text)
        if found is not None:
            raise InvalidError(
                f"token {text!r} exists already: it has id {found}", where=where, mend="leave it out of the new ones"
            )


def _unknown(tokenizer: Tokenizer, table: Mapping[str, JSON]) -> int:
    """The id that stands for text that is of no token; -1 without one."""
    model = table.get("model")
    said = model if isinstance(model, dict) else {}
    number, text = said.get("unk_id"), said.get("unk_token")
    found = token_id(tokenizer, text) if isinstance(text, str) else number
    return found if isinstance(found, int) else -1


def _pieces(tokenizer: Tokenizer, text: str, unknown: int | None, where: str) -> tuple[int, ...]:
    """The tokens that a text is made of; it must not be the one token already that a text of its kind would then be.

    A plain token (``unknown`` given) is matched in normalised text, so there whatever becomes one token is in its way.
    """
    pieces: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    if not pieces:
        raise InvalidError(
            f"token {text!r} is nothing to the tokenizer: its normaliser removes the text",
            where=where,
            mend="choose another text",
        )
    same = tokenizer.decode(pieces, skip_special_tokens=False) == text
    if len(pieces) == 1 and (same or unknown not in {None, pieces[0]}):
        raise InvalidError(
            f"token {text!r} exists already: the tokenizer makes it the one token {pieces[0]}",
            where=where,
            mend="leave it out of the new ones",
        )
    return tuple(pieces)


def _id(tokenizer: Tokenizer, text: str, where: str) -> int:
    found = token_id(tokenizer, text)
    if found is None:
        raise InvalidError(f"the tokenizer does not take {text!r} as a token", where=where, mend="choose another text")
    return found


def _changed_files(draft: Draft, table: _Table, entries: Mapping[int, Mapping[str, JSON]]) -> dict[str, bytes]:
    before = table.get("added_tokens", [])
    added: JSON = [*(before if isinstance(before, list) else []), *({"id": key, **entries[key]} for key in entries)]
    files = {TOKENIZER: pretty({**table, "added_tokens": added})}
    config = draft.table(TOKENIZER_CONFIG)
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        named: JSON = {**decoder, **{str(key): dict(entry) for key, entry in entries.items()}}
        files[TOKENIZER_CONFIG] = pretty({**config, "added_tokens_decoder": named})
    if draft.file(_ADDED_TOKENS) is not None:
        texts = {str(entry["content"]): key for key, entry in entries.items()}
        files[_ADDED_TOKENS] = pretty({**draft.table(_ADDED_TOKENS), **texts})
    return files


def _prove(data: bytes, ids: Mapping[str, int], where: str) -> None:
    """Read the new file as everyone will: each new token is one token, with its id."""
    tokenizer = parse_tokenizer(data, where=where)
    for text, number in ids.items():
        got = tokenizer.encode(text, add_special_tokens=False).ids
        if got != [number]:
            raise InvalidError(
                f"token {text!r} would be {got}, not the one token {number}: the tokenizer changes or splits its text",
                where=where,
                mend="make it a special token, or choose another text",
            )


def _broken(problem: str, where: str) -> InvalidError:
    return InvalidError(
        f"{TOKENIZER} cannot be read: {problem}", where=where, mend="fetch the model again, or save its tokenizer again"
    )
