"""The inputs of a record as a stage is given them: fetched or found by their digests, and hashed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.data_folder import data_digest
from builder.obtain import obtain
from builder.stage import Input
from registry.errors import Error, NotFoundError
from registry.lineage import ancestors_of_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from registry.canonical import JSON
    from registry.digest import Digest
    from registry.index import Index
    from registry.lineage import Sightings
    from registry.record import Record, RecordInput
    from registry.store import Store

__all__ = ["Fetcher"]

_FILES = ("data:", "code:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetcher:
    """Finds inputs.

    Attributes:
        root: Root of the repository.
        index: Records of the work tree and of git.
        store: Local content store.
        believed: Records that are believed, for ancestry.
        say: Tells the person at the terminal.
    """

    root: Path
    index: Index
    store: Store
    believed: Sightings
    say: Callable[[str], None]

    def inputs(self, record: Record, folder: Path) -> tuple[Input, ...]:
        """Every input of a record, in its order.

        Args:
            record: The record.
            folder: Where artifacts are put, each in a folder of its own.

        Raises:
            NotFoundError: An artifact's bytes are nowhere, or a file is not in the work tree as it was.
        """
        return tuple(
            self._file(one, said)
            if one.source.startswith(_FILES)
            else self._artifact(one, said, folder / f"input-{at}")
            for at, (one, said) in enumerate(_with_settings(record))
        )

    def _file(self, one: RecordInput, said: Mapping[str, JSON]) -> Input:
        """A file of data or code, where the work tree has it as it was."""
        name = one.source.partition(":")[2]
        path = self.root / name
        try:
            found = data_digest(path)
        except (OSError, Error):
            found = None
        if found != one.digest:
            raise NotFoundError(
                "the file is not as it was when the stage ran",
                where=name,
                mend="check out the commit that the record is from, and fetch its data with `dvc pull`",
            )
        settings = {key: value for key, value in said.items() if key != "format"}
        return Input(
            role=one.role,
            name=one.name,
            path=path,
            digest=one.digest,
            artifact=None,
            format=str(said.get("format", "")),
            settings=settings,
            source=one.source,
        )

    def _artifact(self, one: RecordInput, said: Mapping[str, JSON], folder: Path) -> Input:
        artifact = obtain(self.root, one.digest, one.source, folder, index=self.index, store=self.store, say=self.say)
        is_start = one.role == "from"
        return Input(
            role=one.role,
            name=one.name,
            path=folder,
            digest=one.digest,
            artifact=artifact,
            format="",
            settings=said,
            source=one.source,
            ancestors=ancestors_of_model(self.believed, one.digest) if is_start else frozenset(),
            row_ancestors=ancestors_of_model(self.believed, one.digest, rows=True) if is_start else None,
        )


def _with_settings(record: Record) -> Iterator[tuple[RecordInput, Mapping[str, JSON]]]:
    """The inputs, each with what the stage says on it alone; of one role and digest, in the order of the action."""
    left: dict[tuple[str, Digest], list[Mapping[str, JSON]]] = {}
    for each in record.action.inputs:
        left.setdefault((each.role, each.digest), []).append(each.settings)
    for one in record.inputs:
        yield one, left[one.role, one.digest].pop(0)
