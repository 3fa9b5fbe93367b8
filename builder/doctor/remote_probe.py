"""Writes, reads and removes one small object on a DVC remote. Run as a process of its own, since it loads DVC.

``python -m builder.doctor.remote_probe ROOT REMOTE`` prints ``{"reads": ..., "writes": ..., "problem": ...}``.
"""

from __future__ import annotations

import json
import sys
import uuid
from contextlib import closing
from typing import Any

__all__ = ["probe"]

_CONTENT = b"varietal doctor was here\n"


def probe(root: str, remote: str) -> dict[str, Any]:
    """What can be done with a remote."""
    from dvc.repo import Repo  # this process alone loads it

    found: dict[str, Any] = {"reads": False, "writes": False, "problem": ""}
    try:
        with closing(Repo(root)) as repository:
            database = repository.cloud.get_remote_odb(remote, "doctor")
            found["reads"] = _reads(database)
            _write(database)
            found["reads"] = found["writes"] = True
    except Exception as error:  # noqa: BLE001 - each storage library has errors of its own
        found["problem"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return found


def _reads(database: Any) -> bool:  # noqa: ANN401 - DVC has no types
    """Whether the place is there; of a web server, which lists no folders, whether it answers at all."""
    if database.fs.exists(database.path):
        return True
    if database.fs.protocol not in {"http", "https"}:
        return False
    try:
        database.fs.info(database.path)
    except Exception as error:  # "not found" is raised of a lost connection, too: its cause knows
        cause: BaseException | None = error
        while cause is not None:
            if getattr(cause, "status", 0):
                return True
            cause = cause.__cause__
        raise
    return True


def _write(database: Any) -> None:  # noqa: ANN401 - the same
    fs = database.fs
    fs.makedirs(database.path, exist_ok=True)
    path = fs.join(database.path, f".varietal-doctor-{uuid.uuid4().hex}")
    fs.pipe_file(path, _CONTENT)
    try:
        with fs.open(path, "rb") as stream:
            if stream.read() != _CONTENT:
                message = "what was written came back changed"
                raise OSError(message)
    finally:
        fs.remove(path)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(*sys.argv[1:3])))
