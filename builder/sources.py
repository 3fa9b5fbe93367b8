"""Where imported models and adapters come from: a pinned folder, or a pinned commit on the Hugging Face Hub.

Only files of known use are taken; what a loader could execute is not among them. A folder is held by the digest of its
files, a commit by the hash that the Hub lists for each file: the Hub's own client checks neither, so the bytes are
fetched here, with a limit of size, and hashed as they arrive. No torch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from registry.artifact import LISTING, Artifact, FileEntry, check_path
from registry.digest import Digest, digest_file
from registry.errors import DeniedError, DigestMismatchError, InvalidError, MachineError, NotFoundError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["MODEL_FILES", "Choose", "Source", "fetch_hub", "folder_pin", "open_folder"]

MODEL_FILES = (
    "LICENSE*",
    "NOTICE*",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Names of files that are passed on byte for byte; nothing that is code or a pickle."""

_TENSORS = ".safetensors"
# Read, but written anew.
_DESCRIPTIONS = ("adapter_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_BLOCK_BYTES = 1 << 20
_MAX_ENTRIES = 10_000
_TIMEOUT_S = 60.0
_TRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Files on this disk, each checked against its pin.

    Attributes:
        where: The folder in the repository, or the commit on the Hub; for messages.
        folder: Where they lie, at the top level.
        names: Names of the files to take: weights and :data:`MODEL_FILES`, sorted; pickles only once they are chosen.
        left_out: Paths of all others, sorted.
    """

    where: str
    folder: Path
    names: tuple[str, ...]
    left_out: tuple[str, ...]


Choose: TypeAlias = "Callable[[Source], Sequence[str]]"


def folder_pin(folder: Path) -> Digest:
    """Digest that pins a folder: the artifact digest of its files, hidden ones (with a leading dot) left out.

    Raises:
        NotFoundError: There is no such folder.
        InvalidError: There is a symlink or a special file in it.
    """
    if not folder.is_dir():
        raise NotFoundError(
            "there is no such folder", where=str(folder), mend="correct the path, or put the files there"
        )
    files = tuple(
        FileEntry(path=path, size_bytes=(folder / path).stat().st_size, digest=digest_file(folder / path))
        for path in sorted(_walk(folder, ""))
    )
    return Artifact(type="model", files=files, tensors=()).digest


def open_folder(root: Path, path: str, pin: Digest, choose: Choose) -> Source:
    """Check a folder of the repository against its pin.

    Args:
        root: Root of the repository.
        path: Folder, relative to it.
        pin: Digest that :func:`folder_pin` must give.
        choose: Names the weights to take, or refuses.

    Raises:
        NotFoundError: There is no such folder.
        InvalidError: The folder is outside of the repository, or a symlink is in it.
        DigestMismatchError: It has another digest.
    """
    folder = root / path
    if not folder.resolve().is_relative_to(root.resolve()):
        raise InvalidError(
            "the folder is outside of the repository", where=path, mend="copy it into the repository, and pin the copy"
        )
    found = folder_pin(folder)
    if found != pin:
        raise DigestMismatchError(
            f"the folder has {found}, the pin says {pin}",
            where=path,
            mend=f"if the change is meant, pin it again: varietal pin {path}",
        )
    source = _source(path, folder, _walk(folder, ""))
    return _with_weights(source, choose(source))


def fetch_hub(work: Path, hub: str, revision: str, say: Callable[[str], None], choose: Choose) -> Source:
    """Fetch a commit of a model repository on the Hub; every file is checked against the Hub's own listing.

    Files that a killed run fetched whole are checked and kept; a part of one is continued.

    Args:
        work: Folder that survives a kill.
        hub: Repository, ``organisation/name``.
        revision: Commit, 40 hexadecimal digits.
        say: Tells the person at the terminal.
        choose: Names the weights to take, or refuses, once all other files are there: before much is fetched.

    Raises:
        NotFoundError: There is no such repository, commit or file.
        DeniedError: The repository is gated or private.
        InvalidError: The listing is not sound.
        DigestMismatchError: A file's bytes are not what the listing says.
        TransportError: The Hub does not answer as it should.
        MachineError: There is not enough room on the disk.
    """
    where = f"hub:{hub}@{revision}"
    listed = _list_hub(hub, revision, where)
    folder = work / "hub"
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(name: str) -> None:
        _fetch(folder / name, listed[name], _Place(hub=hub, revision=revision, name=name, where=where), say)

    source = _source(where, folder, listed)
    for name in source.names:
        if not name.endswith(_TENSORS):
            fetch(name)
    chosen = _with_weights(source, choose(source))
    if missing := [name for name in chosen.names if name not in listed]:
        raise NotFoundError(f"{missing[0]} is not there", where=where, mend="import a commit that is complete")
    _check_room(folder, sum(listed[name].size_bytes for name in chosen.names), where)
    for name in chosen.names:
        fetch(name)
    return chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listed:
    """A file as the Hub lists it: the sha256 of a large one, git's blob hash of a small one."""

    size_bytes: int
    sha256: str
    git_blob: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    hub: str
    revision: str
    name: str
    where: str


def _source(where: str, folder: Path, paths: Iterable[str]) -> Source:
    everything = sorted(paths)
    names = tuple(path for path in everything if "/" not in path and _is_taken(path))
    left_out = tuple(path for path in everything if path not in names)
    return Source(where=where, folder=folder, names=names, left_out=left_out)


def _with_weights(source: Source, weights: Sequence[str]) -> Source:
    """Of the files with tensors only those that were chosen."""
    names = tuple(sorted({name for name in source.names if not name.endswith(_TENSORS)} | set(weights)))
    return replace(source, names=names, left_out=tuple(sorted({*source.left_out, *source.names} - set(names))))


def _is_taken(name: str) -> bool:
    return name.endswith(_TENSORS) or any(fnmatchcase(name, pattern) for pattern in (*MODEL_FILES, *_DESCRIPTIONS))


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Paths of all files that are not hidden."""
    with os.scandir(folder / prefix) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.name.startswith(".") or path == LISTING:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder, f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                yield check_path(path, where=str(folder))
            else:
                raise InvalidError(
                    f"{path} is a symlink or a special file", where=str(folder), mend="put the file itself there"
                )


def _list_hub(hub: str, revision: str, where: str) -> dict[str, _Listed]:
    from huggingface_hub import HfApi, RepoFile  # noqa: PLC0415 - a folder needs no client

    with _narrowed(where):
        entries = list(islice(HfApi().list_repo_tree(hub, revision=revision, recursive=True), _MAX_ENTRIES + 1))
    if len(entries) > _MAX_ENTRIES:
        raise InvalidError(f"more than {_MAX_ENTRIES} files", where=where, mend="import a repository of one model")
    return {
        check_path(entry.path, where=where): _Listed(
            size_bytes=entry.size, sha256=entry.lfs.sha256 if entry.lfs else "", git_blob=entry.blob_id
        )
        for entry in entries
        if isinstance(entry, RepoFile)
    }


def _check_room(folder: Path, size_bytes: int, where: str) -> None:
    """What is fetched is written once more as an artifact."""
    free = shutil.disk_usage(folder).free
    if free < 2 * size_bytes:
        raise MachineError(
            f"{free} bytes are free, the import needs {2 * size_bytes}: as fetched, and as an artifact",
            where=where,
            mend="make room, then run again; what was fetched is kept",
        )


def _fetch(path: Path, listed: _Listed, place: _Place, say: Callable[[str], None]) -> None:
    if path.exists() and _is_listed(path, listed):
        return
    say(f"fetching {place.name} ({listed.size_bytes} bytes)")
    part = path.with_name(f".{place.name}.part")
    for attempt in range(1, _TRIES + 1):
        try:
            with _narrowed(f"{place.where}/{place.name}"):
                _continue(part, listed, place)
            break
        except TransportError:
            if attempt == _TRIES:
                raise
    if not _is_listed(part, listed):
        found = f"{part.stat().st_size} bytes, {digest_file(part)}"
        part.unlink()
        raise DigestMismatchError(
            f"{place.name} has {found}; the Hub lists {listed.size_bytes} bytes, {listed.sha256 or listed.git_blob}",
            where=place.where,
            mend="run again; if it repeats, the Hub or something on the way changes the bytes",
        )
    part.replace(path)


def _continue(part: Path, listed: _Listed, place: _Place) -> None:
    """Append what is missing, and not one byte more than is listed."""
    from huggingface_hub import get_session, hf_hub_url  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # noqa: PLC0415

    had = part.stat().st_size if part.exists() else 0
    if had >= listed.size_bytes > 0:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"} | ({"Range": f"bytes={had}-"} if had else {})
    url = hf_hub_url(place.hub, place.name, revision=place.revision)
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True) as response:
        hf_raise_for_status(response)
        continued = response.status_code == 206  # noqa: PLR2004 - partial content; anything else starts anew
        left = listed.size_bytes - (had if continued else 0)
        with part.open("ab" if continued else "wb") as stream:
            for block in response.iter_raw():  # as it arrives: a chunk size would lose what a broken connection left
                stream.write(block[: max(left, 0) + 1])  # one byte too many is enough to be refused
                left -= len(block)
                if left < 0:
                    return


def _is_listed(path: Path, listed: _Listed) -> bool:
    size_bytes = path.stat().st_size
    if size_bytes != listed.size_bytes:
        return False
    if listed.sha256:
        return digest_file(path).hex == listed.sha256
    hasher = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)  # git's name of a small file
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest() == listed.git_blob


@contextmanager
def _narrowed(where: str) -> Iterator[None]:
    """Turn every error of the Hub's client into one of ours."""
    from huggingface_hub import errors  # noqa: PLC0415

    foreign: Any = errors
    try:
        yield
    except foreign.GatedRepoError as error:
        raise DeniedError(
            "the repository is gated", where=where, mend="accept its terms on the Hub, then log in with `hf auth login`"
        ) from error
    except (foreign.RepositoryNotFoundError, foreign.RevisionNotFoundError, foreign.EntryNotFoundError) as error:
        raise NotFoundError(
            "the Hub has no such repository, commit or file, or you may not see it",
            where=where,
            mend="check name and revision; for a private one log in with `hf auth login`",
        ) from error
    except (foreign.HTTPError, foreign.HfHubHTTPError, ValueError, KeyError) as error:
        raise TransportError(
            f"the Hub does not answer as it should: {error}", where=where, mend="try again later"
        ) from error
