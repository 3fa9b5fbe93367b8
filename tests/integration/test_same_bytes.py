"""Every way of making weights from weights gives the bytes that it gave on the machines of docs/performance.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bench.same_bytes import DIGESTS, run_all, write_repository
from builder.kinds import KINDS

if TYPE_CHECKING:
    from pathlib import Path


def test_every_weights_kind_gives_the_recorded_digest(tmp_path: Path) -> None:
    write_repository(tmp_path)
    records = run_all(tmp_path)
    assert {record.kind for record in records.values()} == {name for name, kind in KINDS.items() if kind.weights}
    exact = {ref: str(record.artifact.digest) for ref, record in records.items() if not record.depends_on}
    assert exact == json.loads(DIGESTS.read_text())
    assert {ref for ref, record in records.items() if record.depends_on} == {"all:fuse-ties", "all:extract"}
