"""The tokens of a model by their ids, as ``tokenizer.json`` has them; no tokenizer is run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from builder.weights.folder import plain_file
from registry.digest import Digest, digest_file
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.weights.folder import ModelFolder
    from registry.canonical import JSON

__all__ = ["TokenIds", "id_of", "other_files", "read_token_ids"]

_TOKENIZER: Final = "tokenizer.json"
_OTHERS: Final = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenIds:
    """What a ``tokenizer.json`` says.

    Attributes:
        name: What the manifest calls its model.
        path: The file.
        table: Its value.
        core: Token -> id, of the tokens that text is cut into.
        added: Token -> its entry, of those that are looked for in the text as they are.
    """

    name: str
    path: Path
    table: Mapping[str, JSON]
    core: Mapping[str, int]
    added: Mapping[str, Mapping[str, JSON]]

    @property
    def ids(self) -> dict[str, int]:
        """Token -> id, of all tokens."""
        return {**self.core, **{token: id_of(entry) for token, entry in self.added.items()}}

    @property
    def model(self) -> Mapping[str, JSON]:
        """What cuts text into tokens: its type, and its table of tokens."""
        model = self.table.get("model")
        return model if isinstance(model, dict) else {}


def read_token_ids(folder: ModelFolder, name: str) -> TokenIds | None:
    """Read the tokens of a model; ``None`` where it has no ``tokenizer.json``.

    Raises:
        InvalidError: The file is not what the ``tokenizers`` library writes, or two tokens have one id.
    """
    if _TOKENIZER not in folder.others:
        return None
    path = folder.path / _TOKENIZER
    table = _table(path)
    model, added = table.get("model"), table.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(added, list):
        raise _bad(path, "it has no table `model` or no list `added_tokens`")
    entries = {
        token: entry
        for entry in added
        if isinstance(entry, dict) and isinstance(token := entry.get("content"), str) and _is_id(entry.get("id"))
    }
    if len(entries) != len(added):
        raise _bad(path, "an entry of `added_tokens` has no content or no id, or comes twice")
    made = TokenIds(name=name, path=path, table=table, core=_core(model, path), added=entries)
    ids = made.ids
    if len(set(ids.values())) != len(ids):
        raise _bad(path, "two tokens have one id")
    return made


def other_files(folder: ModelFolder) -> Mapping[str, Digest]:
    """Digests of the files that say what the tokens are without ``tokenizer.json``; empty where there are none.

    Raises:
        OSError: A file cannot be read.
    """
    return {name: digest_file(folder.path / name) for name in _OTHERS if name in folder.others}


def id_of(entry: Mapping[str, JSON]) -> int:
    """The id of an added token."""
    value = entry["id"]
    return value if isinstance(value, int) else -1


def _table(path: Path) -> dict[str, JSON]:
    """The value of the file; not by the strict reader, whose limit on brackets counts those in tokens."""
    try:
        value = json.loads(plain_file(path.parent, path.name).read_bytes())
    except (ValueError, RecursionError) as error:
        raise _bad(path, str(error)) from error
    if not isinstance(value, dict):
        raise _bad(path, "it is no table")
    return value


def _core(model: Mapping[str, JSON], path: Path) -> dict[str, int]:
    """Tokens of the model's table: by id for most types, for Unigram a list of tokens with their scores."""
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        found = {token: number for token, number in vocab.items() if isinstance(number, int) and _is_id(number)}
    elif isinstance(vocab, list):
        pairs = [pair for pair in vocab if isinstance(pair, list) and pair]
        found = {str(pair[0]): number for number, pair in enumerate(pairs)}
    else:
        raise _bad(path, "its model has no table of tokens")
    if len(found) != len(vocab):
        raise _bad(path, "a token comes twice, or has no id")
    return found


def _is_id(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _bad(path: Path, problem: str) -> InvalidError:
    return InvalidError(f"no sound tokenizer: {problem}", where=str(path), mend="save the tokenizer again")
