"""What a machine cannot do ends as an error that advises, never as a trace; all else goes through as it is."""

from __future__ import annotations

import errno

import pytest

from builder import call as module
from builder.call import call, enough_memory
from builder.kinds import Kind
from registry.errors import MachineError

TORCH = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 "
    "bytes. Error code 12 (Cannot allocate memory)\nmore"
)


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(TORCH), f": {TORCH.partition(chr(10))[0]}"),
        (OutOfMemoryError("CUDA: tried to allocate 2 GiB"), ": CUDA: tried to allocate 2 GiB"),
        (RuntimeError("CUDA error: out of memory"), ": CUDA error: out of memory"),
        (MemoryError(), ""),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ": [Errno 12] Cannot allocate memory"),
    ],
)
def test_a_failed_allocation_says_at_which_stage_and_what_to_do(error: Exception, said: str) -> None:
    with pytest.raises(MachineError) as caught, enough_memory("support:final (fold)"):
        raise error
    assert str(caught.value) == (
        f"the memory is too small{said}\n"
        "  where: support:final (fold)\n"
        "  mend: use a machine with more of it, or set fewer `threads`, a smaller `micro_batch` or `device: cpu` "
        "in .varietal/runner.yaml"
    )
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.EACCES, "no"), KeyError("x")])
def test_any_other_error_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, enough_memory("x"):
        raise error
    assert caught.value is error


def test_torch_names_its_errors_so() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(MachineError), enough_memory("x"):
        torch.empty(2**50)
    assert torch.OutOfMemoryError.__name__ == "OutOfMemoryError"
    assert issubclass(torch.OutOfMemoryError, RuntimeError)


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KINDS", {"odd": Kind(recipe=1, function="no_such_package.odd:odd")})
    with pytest.raises(MachineError) as caught:
        call("odd", None, where="x:y")  # type: ignore[arg-type] # not looked at
    assert caught.value.what == "no_such_package is not installed"
