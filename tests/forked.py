"""The real command in forks of one process that has loaded torch: each run may be killed, or its disk end, at a point.

A fork starts in milliseconds where a new process takes seconds; so a stage can be broken off at many points. The parent
loads modules and computes nothing, so that no thread of its own is lost in a fork.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Commands", "Ended"]

_SERVER = r"""
import builtins, errno, importlib, io, json, os, signal, sys, tempfile, threading

import torch  # noqa: F401 - this is what takes long
from builder.cli import main
for kind in ("fold", "fuse", "blend", "extract", "graft", "cast", "imports"):
    importlib.import_module(f"builder.stages.{kind}")


class Disk:
    room = written = calls = reached = 0
    buffer_bytes = 0


class File(io.FileIO):
    def write(self, data):
        view = memoryview(data).cast("B")
        if len(view) and Disk.written >= Disk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = super().write(view[: Disk.room - Disk.written])
        Disk.written += count
        return count


def limited(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if not set(mode) & set("wax+"):
        return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if not buffering:
        return raw
    buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, Disk.buffer_bytes)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


def counted(name, at):
    module, _, path = name.partition(":")
    place = importlib.import_module(module)
    *owners, name = path.split(".")
    for owner in owners:
        place = getattr(place, owner)
    function, lock = getattr(place, name), threading.Lock()
    def call(*arguments, **named):
        with lock:
            Disk.calls += 1
            if Disk.calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
        try:
            return function(*arguments, **named)
        finally:
            Disk.reached = Disk.written
    setattr(place, name, call)


real = io.open
for line in sys.stdin:
    job = json.loads(line)
    out, err, told = (tempfile.TemporaryFile("w+") for _ in range(3))
    child = os.fork()
    if not child:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.chdir(job["root"])
        os.environ.update(job["variables"])
        sys.argv = ["varietal", *job["arguments"]]
        sys.stdin.close()
        Disk.room = job["room"]
        builtins.open = io.open = limited
        Disk.buffer_bytes = job["buffer"]
        if job["function"]:
            counted(job["function"], job["at"])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 99
        told.write(json.dumps([Disk.written, Disk.calls, Disk.reached]))
        told.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for stream in (out, err, told):
        stream.seek(0)
    answer = [code, out.read(), err.read(), *json.loads(told.read() or "[0, 0, 0]")]
    for stream in (out, err, told):
        stream.close()
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code; the number of a signal below zero.
        out: What it wrote to stdout.
        err: What it said.
        written_bytes: Bytes that it wrote to files, unless it was killed.
        calls: How often the counted function was called, unless it was killed.
        reached_bytes: How much had been written when it was called for the last time.
    """

    code: int
    out: str
    err: str
    written_bytes: int
    calls: int
    reached_bytes: int


class Commands:
    """Runs ``varietal``; a context manager."""

    def __init__(self) -> None:
        """Start the process that is forked."""
        environment = os.environ | {"OMP_WAIT_POLICY": "passive", "DVC_NO_ANALYTICS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """The runner itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.communicate()

    def run(
        self,
        root: Path,
        *arguments: str,
        function: str = "",
        at: int = 0,
        room_bytes: int = sys.maxsize,
        buffer_bytes: int = io.DEFAULT_BUFFER_SIZE,
    ) -> Ended:
        """Run one command in a repository.

        Args:
            root: The repository.
            arguments: What follows ``varietal``.
            function: Counts the calls of it: ``module:Class.method``.
            at: The call at which the process is killed; never with 0.
            room_bytes: How much may be written before the disk is full, as a real one is: a write may end half-way, and
                what is in a buffer fails when the file is closed.
            buffer_bytes: Size of the buffer of a file; with a small one a tiny file, too, is half on the disk.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {
            "root": str(root),
            "arguments": arguments,
            "variables": {"VARIETAL_STORE": str(root.parent / "store")},
            "function": function,
            "at": at,
            "room": room_bytes,
            "buffer": buffer_bytes,
        }
        print(json.dumps(job), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Ended(
            **dict(zip(("code", "out", "err", "written_bytes", "calls", "reached_bytes"), answer, strict=True))
        )

    def must(self, root: Path, *arguments: str) -> Ended:
        """The same; a failure ends the test with what was said."""
        ended = self.run(root, *arguments)
        assert ended.code == 0, f"{' '.join(arguments)}: {ended.code}\n{ended.out}\n{ended.err}"
        return ended
