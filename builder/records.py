"""The last stage of a pipeline: copies the records that DVC keeps into git, byte for byte, each with its curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.work import write_file
from registry.errors import InvalidError, NotFoundError
from registry.record import Record, artifact_record, curve_file, git_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["copy_records", "curve_table"]

_COPIES = frozenset({".json", ".tsv"})


def copy_records(root: Path, variant: str, stages: Sequence[str], *, prune: bool) -> tuple[str, ...]:
    """Copy the records of ``stages`` to the folder that git tracks, and beside them what their trainings logged.

    Args:
        root: Root of the repository.
        variant: Whose records.
        stages: Which ones.
        prune: Remove the copies of stages that are not among ``stages``.

    Returns:
        The paths written or removed, from the root.

    Raises:
        NotFoundError: A record is not there; nothing was copied.
        InvalidError: A record is broken or is another stage's; nothing was copied.
    """
    records = {stage: _read(root, variant, stage) for stage in stages}
    touched: list[str] = []
    for stage, (data, record) in records.items():
        path = root / git_record(variant, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        for copy, content in ((path, data), (root / curve_file(variant, stage), curve_table(record))):
            if content and (not copy.exists() or copy.read_bytes() != content):
                write_file(copy, content)
                touched.append(str(copy.relative_to(root)))
            elif not content and copy.exists():
                copy.unlink()
                touched.append(str(copy.relative_to(root)))
    if prune:
        touched += _prune(root, variant, set(stages))
    return tuple(touched)


def curve_table(record: Record) -> bytes:
    """The curve of a training, for DVC's plots; empty where the record has none."""
    return "".join(f"{line}\n" for line in record.curve).encode()


def _read(root: Path, variant: str, stage: str) -> tuple[bytes, Record]:
    path = artifact_record(variant, stage)
    try:
        data = (root / path).read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(
            "the record is not there",
            where=str(path),
            mend=f"run `varietal build {variant}`, which fetches or builds it",
        ) from error
    record = Record.from_bytes(data, where=str(path))
    if (record.variant, record.stage) != (variant, stage):
        raise InvalidError(
            f"this is the record of {record.ref}", where=str(path), mend="remove the file and run `dvc repro`"
        )
    return data, record


def _prune(root: Path, variant: str, stages: set[str]) -> list[str]:
    folder = (root / git_record(variant, "any")).parent
    gone = [path for path in sorted(folder.glob("*.*")) if path.suffix in _COPIES and path.stem not in stages]
    for path in gone:
        path.unlink()
    return [str(path.relative_to(root)) for path in gone]
