"""Messages and exit codes of errors."""

from __future__ import annotations

from registry import errors
from registry.errors import Error, Fault, InvalidError, NotFoundError


def test_a_message_says_what_where_and_how_to_mend() -> None:
    error = NotFoundError("no such tag", where="support@v9.9.9", mend="see `varietal list`")
    assert str(error) == "no such tag\n  where: support@v9.9.9\n  mend: see `varietal list`"


def test_every_class_has_the_exit_code_of_the_design() -> None:
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__ if name.endswith("Error")}
    assert codes == {
        "Error": 1,
        "RefusedError": 1,
        "NotFoundError": 2,
        "DigestMismatchError": 3,
        "InvalidError": 4,
        "ConflictError": 5,
        "TransportError": 6,
        "DeniedError": 7,
        "MachineError": 8,
    }


def test_all_faults_are_listed_by_file_and_line() -> None:
    late = Fault(file="models/b/model.yaml", line=2, key="stages.x", problem="unknown kind 'sfft'", mend="sft")
    early = Fault(file="models/a/model.yaml", line=9, key="base", problem="expected text, got 3", mend="a name")
    whole = Fault(file="models/c/model.yaml", line=0, key="", problem="is empty", mend="write a manifest")
    error = InvalidError.from_faults([late, whole, early])
    assert error.faults == (early, late, whole)
    assert str(error) == (
        "models/a/model.yaml:9: base: expected text, got 3\n  mend: a name\n"
        "models/b/model.yaml:2: stages.x: unknown kind 'sfft'\n  mend: sft\n"
        "models/c/model.yaml: is empty\n  mend: write a manifest\n"
        "3 faults found: correct every one; nothing was changed"
    )


def test_every_error_has_the_one_root() -> None:
    assert all(issubclass(getattr(errors, name), Error) for name in errors.__all__ if name.endswith("Error"))
