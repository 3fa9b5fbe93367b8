"""One tokenizer with the tokens of several: the base's, with their ids, and after them what the others have.

Tokens that are looked for in the text as they are (chat marks and the like) can be put together always. Those that text
is cut into can where one tokenizer goes on from the others: byte-pair merges that begin with all of theirs. All else
would cut text in a way that none of the models has seen, and is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from builder.weights.folder import plain_file
from builder.weights.token_ids import id_of
from builder.weights.tokenizer import parse_tokenizer
from registry.canonical import decode
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from builder.weights.token_ids import TokenIds
    from registry.canonical import JSON

__all__ = ["Union", "unite"]

_TOKENIZER: Final = "tokenizer.json"
_CONFIG: Final = "tokenizer_config.json"
_ADDED: Final = "added_tokens.json"
_FLAGS: Final = ("lstrip", "normalized", "rstrip", "single_word", "special")
_CUTTING: Final = ("normalizer", "pre_tokenizer", "decoder")
_TABLES: Final = frozenset({"merges", "vocab"})
_OF_THE_TABLE: Final = frozenset({"merges.txt", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"})
_MEND: Final = "write `tokenizer: base`, or blend models whose tokenizers were made from one another"


@dataclass(frozen=True, kw_only=True, slots=True)
class Union:
    """The tokenizer of a result.

    Attributes:
        ids: Token -> id.
        files: Name -> bytes, of the files of the base's tokenizer that change.
        left_out: Files that say something else now: those from which only the base's own tokens can be read.
        added: How many tokens are new to the base.
    """

    ids: Mapping[str, int]
    files: Mapping[str, bytes]
    left_out: frozenset[str]
    added: int


def unite(base: TokenIds, others: Sequence[TokenIds], *, rows: int) -> Union:
    """Put tokenizers together.

    Args:
        base: The one whose ids stay as they are.
        others: The others, in an order that no name decides; their new tokens follow in that order, then by id.
        rows: Rows of the base's embedding.

    Raises:
        InvalidError: They cannot be put together exactly.
    """
    for other in others:
        _check_cutting(base, other)
    longest = _longest(base, others)
    known = base.ids
    ids = dict(known)
    if beyond := [token for token, number in ids.items() if number >= rows]:
        raise InvalidError(
            f"{base.name} has {len(beyond)} tokens without a row in its embedding, such as {beyond[0]!r}",
            where=str(base.path),
            mend="give them rows first, in a stage of kind graft; or write `tokenizer: base`",
        )
    added = dict(base.added)
    core = dict(base.core)
    following = max(ids.values(), default=-1) + 1
    for other in others:
        _check_flags(added, base, other)
        theirs = other.ids
        for token in sorted(theirs, key=theirs.__getitem__):
            number = ids.setdefault(token, following)
            following += number == following
            if token in other.added and token not in added:
                added[token] = {**other.added[token], "id": number}
            elif token in other.core and token not in core and token not in added:
                core[token] = number
    new = {token: number for token, number in ids.items() if token not in known}
    if not new and added == base.added and longest is base:
        return Union(ids=ids, files={}, left_out=frozenset(), added=0)
    grown = longest is not base or core != base.core
    if grown:  # the library numbers an added token by the table where it can, and else by the table's size
        core |= {token: id_of(entry) for token, entry in added.items()}
    files = _files(base, added, core if grown else None, longest)
    _prove(base, files[_TOKENIZER], ids)
    return Union(ids=ids, files=files, left_out=_OF_THE_TABLE if grown else frozenset(), added=len(new))


def _check_cutting(base: TokenIds, other: TokenIds) -> None:
    """Both must treat text alike, before and after it is cut into tokens."""
    types = [str(one.model.get("type", "BPE")) for one in (base, other)]
    if types[0] != types[1]:
        raise _bad(base, other, f"{base.name} has a tokenizer of type {types[0]}, {other.name} one of type {types[1]}")
    for key in _CUTTING:
        if base.table.get(key) != other.table.get(key):
            raise _bad(base, other, f"the tokenizers of {base.name} and {other.name} differ in their {key}")
    ours = {key: value for key, value in base.model.items() if key not in _TABLES}
    theirs = {key: value for key, value in other.model.items() if key not in _TABLES}
    if differing := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        raise _bad(base, other, f"the tokenizers of {base.name} and {other.name} differ in model.{differing[0]}")
    if types[0] != "BPE" and base.model.get("vocab") != other.model.get("vocab"):
        raise _bad(
            base,
            other,
            f"the {types[0]} tables of {base.name} and {other.name} differ; one of both would cut text as neither does",
        )


def _longest(base: TokenIds, others: Sequence[TokenIds]) -> TokenIds:
    """The tokenizer whose merges begin with those of every other."""
    longest = base
    for other in others:
        ours, theirs = _merges(longest), _merges(other)
        common = min(len(ours), len(theirs))
        if ours[:common] != theirs[:common]:
            at = next(index for index in range(common) if ours[index] != theirs[index])
            raise _bad(
                base,
                other,
                f"the merges of {longest.name} and {other.name} part at number {at + 1}: {' + '.join(ours[at])}, "
                f"{' + '.join(theirs[at])}",
            )
        longest = other if len(theirs) > len(ours) else longest
    return longest


def _merges(one: TokenIds) -> list[tuple[str, ...]]:
    """Pairs of tokens, in the order in which they are joined; older files write a pair as one text."""
    merges = one.model.get("merges", [])
    return [_merge(one, pair) for pair in merges] if isinstance(merges, list) else []


def _merge(one: TokenIds, pair: JSON) -> tuple[str, ...]:
    if isinstance(pair, str):
        return tuple(pair.split(" "))
    parts = [part for part in pair if isinstance(part, str)] if isinstance(pair, list) else []
    if not isinstance(pair, list) or len(parts) != len(pair):
        raise InvalidError(
            f"the tokenizer of {one.name} has {pair!r} among its merges, which is no pair of tokens",
            where=f"{one.name}: {_TOKENIZER}",
            mend="import a model whose tokenizer.json is sound",
        )
    return tuple(parts)


def _check_flags(added: Mapping[str, Mapping[str, JSON]], base: TokenIds, other: TokenIds) -> None:
    """Two models beside the base must not mean different things by one added token; the base's own word stands."""
    for token, entry in other.added.items():
        if token not in added or token in base.added:
            continue
        if differing := [flag for flag in _FLAGS if added[token].get(flag) != entry.get(flag)]:
            raise _bad(base, other, f"the added token {token!r} differs among the models in {', '.join(differing)}")


def _files(
    base: TokenIds, added: Mapping[str, Mapping[str, JSON]], core: Mapping[str, int] | None, longest: TokenIds
) -> dict[str, bytes]:
    """The files of the base's tokenizer with the new tokens in them; other keys and their order as they were."""
    model = dict(base.model)
    if core is not None:
        model |= {"vocab": dict(core), "merges": longest.model.get("merges", [])}
    entries = sorted(added.values(), key=id_of)
    files = {_TOKENIZER: _text({**base.table, "added_tokens": entries, "model": model})}
    new = {token: entry for token, entry in added.items() if token not in base.added}
    config = _table(base.path.with_name(_CONFIG))
    known = config.get("added_tokens_decoder")
    if isinstance(known, dict):
        told = {str(id_of(entry)): {key: entry[key] for key in entry if key != "id"} for entry in new.values()}
        files[_CONFIG] = _text({**config, "added_tokens_decoder": {**known, **told}})
    if slow := _table(base.path.with_name(_ADDED)):
        files[_ADDED] = _text({**slow, **{token: id_of(entry) for token, entry in new.items()}})
    return files


def _table(path: Path) -> Mapping[str, JSON]:
    """The value of a file; empty where it is not there."""
    if not path.is_symlink() and not path.is_file():
        return {}
    value = decode(plain_file(path.parent, path.name).read_bytes(), where=str(path))
    return value if isinstance(value, dict) else {}


def _text(value: object) -> bytes:
    return f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode()


def _prove(base: TokenIds, data: bytes, ids: Mapping[str, int]) -> None:
    """Let the library that will read the file say that each token has the id that is meant."""
    found = parse_tokenizer(data, where=str(base.path)).get_vocab(with_added_tokens=True)
    if found == ids:
        return
    token = min((token for token in found.keys() | ids.keys() if found.get(token) != ids.get(token)), key=str)
    raise InvalidError(
        f"the tokens cannot be put together: {token!r} should be {ids.get(token, 'missing')}, "
        f"the tokenizers library reads {found.get(token, 'nothing')}",
        where=str(base.path),
        mend=_MEND,
    )


def _bad(base: TokenIds, other: TokenIds, problem: str) -> InvalidError:
    return InvalidError(f"no union of tokens: {problem}", where=f"{other.path} with {base.path}", mend=_MEND)
