"""GPUs that the builds of one user share: a lock file for each, given back by the kernel however its holder ends.

The files lie in the machine's folder for temporary files, in one of this user's own, whatever work tree or repository a
build is of. A build holds a device from the start of a stage to its end, and so does the supervisor of that stage: if
the build is killed, the device is free when the stage has ended, not before.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

__all__ = ["Devices", "ask_driver", "lock_folder"]

_DRIVER_S = 20
_SHOWN = 4
_WIDEST = 4096


def lock_folder() -> Path:
    """Folder of this user's lock files on this machine, made where it is not there.

    Not that of the login session (``XDG_RUNTIME_DIR``): a service and a terminal of one user would each have their own.

    Raises:
        MachineError: It cannot be made, or somebody else made it.
    """
    folder = Path(tempfile.gettempdir()) / f"varietal-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise _unusable(folder, "it is not a folder of this user's own")
    return folder


def ask_driver(*fields: str, must_answer: bool = False) -> tuple[tuple[str, ...], ...]:
    """What the driver's own tool says of each GPU, so that nothing of torch is loaded; nothing where it is not there.

    Args:
        *fields: Names of ``nvidia-smi``, such as ``index``.
        must_answer: Whether one that is there and fails is an error; else it says nothing.

    Raises:
        MachineError: It fails, and must not.
    """
    command = ("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    own = {**os.environ, "LC_ALL": "C"}
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_DRIVER_S, env=own)
    except FileNotFoundError:
        return ()
    except (OSError, subprocess.SubprocessError) as error:
        if must_answer:
            raise MachineError(
                f"the driver does not say which GPU is which: {error}",
                where="nvidia-smi",
                mend="see what `nvidia-smi` says; to compute without a GPU, set `device: cpu` in .varietal/runner.yaml",
            ) from error
        return ()
    rows = (tuple(word.strip() for word in line.split(",")) for line in said.stdout.splitlines())
    return tuple(row for row in rows if len(row) == len(fields) and row[0].isdecimal())


class Devices:
    """The GPUs of one build; each is taken by it alone, for so many of its jobs at once."""

    def __init__(self, names: Sequence[str], *, each: int, root: Path, say: Callable[[str], None]) -> None:
        """Nothing is taken yet.

        Args:
            names: GPUs, as ``CUDA_VISIBLE_DEVICES`` says them; none on a machine without.
            each: Jobs of this build that may share one.
            root: Root of the repository, told to others who wait.
            say: Tells the person at the terminal.

        Raises:
            InvalidError: One GPU is named twice.
            MachineError: There is no place for the lock files, or the driver does not say which GPU is which.
        """
        self.names = tuple(names)
        self._each = each
        self._root = root
        self._say = say
        self._uses = dict.fromkeys(names, 0)
        self._held: dict[str, int] = {}
        self._told = False
        self._files = _files(names, lock_folder()) if names else {}

    def take(self, *, beside: Collection[str] = ()) -> tuple[str, int] | None:
        """A device for one more job, and the open lock that whoever uses it has to have; ``None`` where none is free.

        The one that fewest jobs of this build are on; of these, the first. That all are in use is told once, until
        :meth:`served` is called.

        Args:
            beside: Devices that the job has already.

        Raises:
            MachineError: A lock file cannot be used.
        """
        others = [name for name in self.names if name not in beside]
        for name in sorted(others, key=lambda one: self._uses[one]):
            if self._uses[name] < self._each and self._lock(name):
                self._uses[name] += 1
                return name, self._held[name]
        if not self._told and len(self._held) < len(self.names):
            self._told = True
            self._say(f"waiting for a GPU: {self._users()}")
        return None

    def served(self) -> None:
        """Note that a job has all the devices that it takes: the next one that has to wait is told of again."""
        self._told = False

    def give_back(self, name: str) -> None:
        """A job on a device has ended, and what it started, too."""
        self._uses[name] -= 1
        if not self._uses[name]:
            os.close(self._held.pop(name))

    def _lock(self, name: str) -> bool:
        """Whether this build has a device, now at the latest."""
        if name in self._held:
            return True
        try:
            if not self._files[name].parent.exists():  # whoever cleans up took it
                lock_folder()
            return self._try(name)
        except FileNotFoundError:  # it, or the file, went at this very moment: the next try makes it anew
            return False
        except OSError as error:
            raise _unusable(self._files[name], error.strerror or str(error)) from error

    def _try(self, name: str) -> bool:
        path = self._files[name]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), path.stat()):  # somebody has removed the file
                return False
            self._held[name] = descriptor
            with suppress(OSError):  # on a full disk the lock holds all the same, and nobody is told whose it is
                _write(descriptor, {"pid": os.getpid(), "root": str(self._root)})
        except BlockingIOError:
            return False
        finally:
            if name not in self._held:
                os.close(descriptor)
        return True

    def _users(self) -> str:
        """Who has the devices that this build has not."""
        others = [name for name in self.names if name not in self._held]
        said = [f"{name} is in use by {_user(self._files[name])}" for name in others[:_SHOWN]]
        return ", ".join(said) + (f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else "")


def _files(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """The lock file of each device, by what the driver calls it whatever number it has, where that is known.

    Raises:
        InvalidError: Two names are of one GPU: what needs two would wait for ever.
        MachineError: The driver does not answer. Without its ids two builds could have one GPU by two names.
    """
    rows = ask_driver("index", "uuid", must_answer=True)
    ids = {index: one for index, one in rows}  # noqa: C416 - dict() takes no rows of any width
    found: dict[Path, str] = {}
    for name in names:
        path = folder / f"gpu-{quote(_known(name, ids), safe='')}.lock"
        if path in found:
            raise InvalidError(
                f"one GPU is named twice, as {found[path]} and as {name}",
                where="`devices` of .varietal/runner.yaml, or CUDA_VISIBLE_DEVICES",
                mend="name each GPU once",
            )
        found[path] = name
    return {name: path for path, name in found.items()}


def _known(name: str, ids: Mapping[str, str]) -> str:
    """CUDA takes the beginning of an id for the id."""
    alike = [one for one in ids.values() if one.startswith(name)]
    return ids.get(name) or (alike[0] if len(alike) == 1 else name)


def _write(descriptor: int, value: Mapping[str, object]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(value).encode(), 0)


def _user(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(_WIDEST))
        return f"process {int(value['pid'])} in {value['root']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another build"


def _unusable(path: Path, why: str) -> MachineError:
    return MachineError(
        f"the locks of this machine's GPUs cannot be kept: {why}",
        where=str(path),
        mend="remove it, or set TMPDIR for every build of this machine alike",
    )
