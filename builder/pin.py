"""What to write into ``params.yaml`` or a manifest so that a source can never change unseen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from builder.sources import folder_pin
from registry.errors import InvalidError, MachineError, NotFoundError, TransportError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["pin"]

_DESCRIBED_BY = ("config.json", "adapter_config.json")
_DATA = "data needs no pin: declare the file under `data:`, and DVC hashes it"
_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth"})
_HUB = re.compile(r"hub:(?P<name>[^@]+)(?:@(?P<revision>.+))?")


def pin(root: Path, source: str, *, start: Path | None = None) -> tuple[tuple[str, str], ...]:
    """The entry that pins a source, as pairs of key and value.

    Args:
        root: Root of the repository.
        source: A folder, or ``hub:organisation/name`` with ``@branch``, ``@tag`` or ``@commit`` after it.
        start: Folder that a relative path is meant from; the root where it is left out.

    Raises:
        NotFoundError: There is no such folder, repository or revision.
        InvalidError: The folder is outside of the repository, or all of it, or holds neither a model nor an adapter.
        TransportError: The Hub does not answer.
    """
    match = _HUB.fullmatch(source)
    if match is not None:
        return ("hub", match["name"]), ("revision", _commit(match["name"], match["revision"] or "main"))
    folder = ((start or root) / source).resolve()
    if folder == root.resolve():
        raise InvalidError(
            "the folder is the repository itself", where=source or "varietal pin", mend="name a folder within it"
        )
    if not folder.is_relative_to(root.resolve()):
        raise InvalidError("the folder is outside of the repository", where=source, mend="copy it into the repository")
    _check_kind(folder, source)
    return ("path", str(folder.relative_to(root.resolve()))), ("sha256", folder_pin(folder).hex)


def _check_kind(folder: Path, source: str) -> None:
    """Refuse what no import could take; a folder that is not there is refused by who digests it."""
    if folder.is_file():
        mend = _DATA if folder.suffix == ".jsonl" else "name the folder that the model or the adapter lies in"
        raise InvalidError("a file, not a folder", where=source, mend=mend)
    if not folder.is_dir():
        return
    weights = any(path.suffix in _WEIGHTS for path in folder.iterdir() if path.is_file())
    if weights and any((folder / name).is_file() for name in _DESCRIBED_BY):
        return
    mend = _DATA
    if not any(path.suffix == ".jsonl" for path in folder.iterdir()):
        mend = "name a folder with config.json or adapter_config.json and its weights in it"
    raise InvalidError("the folder holds neither a model nor an adapter", where=source, mend=mend)


def _commit(name: str, revision: str) -> str:
    """The commit that a branch or a tag of a Hub repository points at now."""
    try:
        from huggingface_hub import HfApi, errors  # noqa: PLC0415 - part of the build extra
    except ModuleNotFoundError as error:
        raise MachineError(
            "huggingface_hub is not installed", where="varietal pin", mend="pip install 'varietal[build]'"
        ) from error
    foreign: Any = errors
    where = f"hub:{name}@{revision}"
    try:
        return str(HfApi().model_info(name, revision=revision, timeout=30).sha)
    except foreign.HFValidationError as error:
        raise InvalidError(f"{name!r} is no repository's name", where=where, mend="write organisation/name") from error
    except foreign.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in {401, 403, 404}:
            raise NotFoundError(
                "no such repository or revision, or it is not open to you",
                where=where,
                mend="check it; `hf auth login`",
            ) from error
        raise TransportError(f"the Hub answered {status}", where=where, mend="try again later") from error
    except (foreign.HTTPError, OSError) as error:
        raise TransportError(f"the Hub does not answer: {error}", where=where, mend="check the network") from error
