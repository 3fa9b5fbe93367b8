"""What is found is judged: each thing that hurts is told with its mend, and what is well is not complained of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.doctor import remote
from builder.doctor.child import ask_module, ask_program
from builder.doctor.disk import judge_room
from builder.doctor.dvc import read_settings, setting_findings
from builder.doctor.finding import Finding
from builder.doctor.git import clock_finding, version_finding
from builder.doctor.gpu import judge_gpus
from builder.doctor.packages import judge_versions, package_findings, pins
from builder.doctor.remote import judge_remote
from registry import __version__

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
TORCH = {"torch": "2.13.0+cu130", "cuda": "13.0", "usable": True, "names": ["H200"], "problem": ""}
WELL = """\
[core]
    remote = storage
[cache]
    type = "reflink,hardlink,copy"
['remote "storage"']
    url = s3://bucket/path
    verify = true
"""


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("git version 2.39.5\n", "ok"),
        ("git version 2.31.0.windows.1\n", "ok"),
        ("git version 2.30.9\n", "fail"),
        ("git version 1.8.3\n", "fail"),
        ("", "fail"),
    ],
)
def test_an_old_git_is_refused(said: str, status: str) -> None:
    assert version_finding(said).status == status


@pytest.mark.parametrize(
    ("newest", "status", "said"),
    [
        (0, "ok", "not before the newest commit"),
        (10_000, "ok", "not before the newest commit"),
        (10_299, "ok", "not before the newest commit"),
        (10_600, "warn", "10 minutes before the newest commit"),
        (200_000, "fail", "3167 minutes before the newest commit"),
    ],
)
def test_a_clock_that_lags_behind_history(newest: int, status: str, said: str) -> None:
    finding = clock_finding(newest, 10_000.0)
    assert (finding.status, finding.said) == (status, said)


def judged(tmp_path: Path, *files: str) -> list[tuple[str, str]]:
    (tmp_path / ".dvc").mkdir()
    for name, text in zip(("config", "config.local"), files, strict=False):
        (tmp_path / ".dvc" / name).write_text(text)
    return [(one.status, one.said) for one in setting_findings(read_settings(tmp_path))]


def test_settings_that_are_well(tmp_path: Path) -> None:
    assert judged(tmp_path, WELL) == [("ok", "none that hurts")]


@pytest.mark.parametrize(
    ("old", "new", "status", "said"),
    [
        (
            '"reflink,hardlink,copy"',
            "symlink",
            "fail",
            "cache.type has symlink: an artifact of symbolic links is refused",
        ),
        ('"reflink,hardlink,copy"', "hardlink, symlink", "fail", "cache.type has symlink"),
        (
            '"reflink,hardlink,copy"',
            "copy",
            "warn",
            "cache.type is copy: without reflinks every artifact is stored twice",
        ),
        ("remote = storage", "remote = storage\n    autostage = true", "warn", "core.autostage is on"),
        ("remote = storage", "remote = storage\n    hardlink_lock = true", "warn", "core.hardlink_lock is on"),
        ("remote = storage", "", "warn", "there is no default remote"),
        ("remote = storage", "remote = other", "fail", "the default remote 'other' is not declared"),
        ("verify = true", "verify = false", "warn", "remote 'storage' is not verified"),
        ("    verify = true\n", "", "warn", "remote 'storage' is not verified"),
    ],
)
def test_settings_that_hurt(tmp_path: Path, old: str, new: str, status: str, said: str) -> None:
    assert old in WELL
    found = [one for one in judged(tmp_path, WELL.replace(old, new)) if one[0] != "ok"]
    assert [one[0] for one in found] == [status]
    assert found[0][1].startswith(said)


def test_a_machine_s_own_settings_win(tmp_path: Path) -> None:
    found = judged(tmp_path, WELL, "[cache]\ntype = symlink\n")
    assert ("fail" in {status for status, _ in found}) is True


@pytest.mark.parametrize(("free", "status"), [(500 << 20, "fail"), (GIB, "warn"), (19 * GIB, "warn"), (20 * GIB, "ok")])
def test_room(free: int, status: str) -> None:
    assert judge_room("the store", free).status == status


@pytest.mark.parametrize(
    ("answer", "must_write", "status", "said"),
    [
        ({"reads": True, "writes": True, "problem": ""}, True, "ok", "an object was written, read and removed"),
        ({"reads": True, "writes": False, "problem": "403"}, True, "fail", "can be read, not written: 403"),
        ({"reads": True, "writes": False, "problem": "403"}, False, "ok", "can be read, not written, which is right"),
        ({"reads": False, "writes": False, "problem": "no host"}, False, "fail", "cannot be reached: no host"),
        ("no answer within 60 s", False, "fail", "cannot be reached: no answer within 60 s"),
    ],
)
def test_a_remote(answer: dict[str, object] | str, must_write: bool, status: str, said: str) -> None:  # noqa: FBT001
    finding = judge_remote("storage", answer, must_write=must_write)  # type: ignore[arg-type]
    assert finding.status == status
    assert finding.said.startswith(said)


@pytest.mark.parametrize(
    ("name", "writes", "status"),
    [("storage", True, "warn"), ("storage", False, "ok"), ("quarantine", True, "ok"), ("quarantine", False, "fail")],
)
def test_a_builder_of_requests_writes_to_quarantine_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    writes: bool,  # noqa: FBT001
    status: str,
) -> None:
    (tmp_path / ".dvc").mkdir()
    section = WELL[WELL.index("['remote") :].replace("storage", "quarantine")
    (tmp_path / ".dvc/config").write_text(WELL + section)
    answers = {"storage": {"reads": True, "writes": False}, "quarantine": {"reads": True, "writes": True}}
    answers[name]["writes"] = writes

    def ask(_: str, arguments: list[str], **__: object) -> dict[str, object]:
        return {**answers[arguments[1]], "problem": "403"}

    monkeypatch.setattr(remote, "ask_module", ask)
    found = {one.subject: one.status for one in remote.remote_findings(tmp_path, build=True, request=True)}
    others = {"remote 'storage'": "ok", "remote 'quarantine'": "ok"}
    assert found == {**others, f"remote {name!r}": status}


def test_a_builder_of_requests_needs_a_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(WELL)
    monkeypatch.setattr(remote, "ask_module", lambda *_, **__: "no answer")
    found = {one.subject: one.said for one in remote.remote_findings(tmp_path, build=True, request=True)}
    assert found["remote 'quarantine'"] == "there is none, and the bytes of a request go nowhere else"


@pytest.mark.parametrize(
    ("cards", "change", "device", "status", "said"),
    [
        (["H200, 143771 MiB, 580.1"], {}, "auto", "ok", "H200; torch 2.13.0+cu130 for CUDA 13.0"),
        (
            ["H200, 143771 MiB, 450.1"],
            {"usable": False, "names": []},
            "auto",
            "fail",
            "H200, 143771 MiB, 450.1; torch 2.13.0+cu130 for CUDA 13.0: torch can use none of them",
        ),
        (
            ["H200, 143771 MiB, 580.1"],
            {"names": [], "problem": "no kernel image is available"},
            "auto",
            "fail",
            "H200, 143771 MiB, 580.1; torch 2.13.0+cu130 for CUDA 13.0: no kernel image is available",
        ),
        (
            [],
            {"torch": "2.13.0+cpu", "cuda": "", "usable": False, "names": []},
            "auto",
            "warn",
            "none: stages run on the CPU; torch 2.13.0+cpu, for CPUs alone",
        ),
        (
            [],
            {"torch": "2.13.0+cpu", "cuda": "", "usable": False, "names": []},
            "cuda",
            "fail",
            "none, and .varietal/runner.yaml asks for one; torch 2.13.0+cpu, for CPUs alone",
        ),
    ],
)
def test_gpus(cards: list[str], change: dict[str, object], device: str, status: str, said: str) -> None:
    finding = judge_gpus(cards, {**TORCH, **change}, device=device)  # type: ignore[dict-item]
    assert (finding.status, finding.said) == (status, said)


def test_a_torch_that_does_not_load() -> None:
    finding = judge_gpus([], "ImportError: libcudart.so.13", device="auto")
    assert (finding.status, finding.said) == ("fail", "cannot be loaded: ImportError: libcudart.so.13")


@pytest.mark.parametrize(
    ("found", "build", "status", "said"),
    [
        ({"torch": "2.13.0+cu130", "trl": "1.16.0"}, True, "ok", "2 of 2 that a build uses are here, each as tested"),
        ({"torch": "2.12.0", "trl": "1.16.0"}, True, "warn", "torch 2.12.0, tested is 2.13.0"),
        ({"torch": "", "trl": "1.16.0"}, True, "fail", "not installed: torch"),
        ({"torch": "", "trl": "1.16.0"}, False, "ok", "1 of 2 that a build uses are here, each as tested"),
    ],
)
def test_versions(found: dict[str, str], build: bool, status: str, said: str) -> None:  # noqa: FBT001
    finding = judge_versions(found, pins("# all\nTorch==2.13.0\ntrl == 1.16.0\nx>=1\n"), build=build)
    assert (finding.status, finding.said) == (status, said)


def test_another_tool_than_the_repository_pins(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("bases: {}\nrecipes: {sft: 9}\n")
    (tmp_path / "requirements.txt").write_text("varietal==9.9.9\n")
    found = {one.subject: one for one in package_findings(tmp_path, build=False)}
    assert (found["varietal"].status, found["varietal"].said) == ("warn", f"{__version__}, the repository pins 9.9.9")
    assert (found["recipes"].status, found["recipes"].said) == ("fail", "recipe 9 of sft is pinned, this tool has 1")


def test_a_finding_is_told_with_its_mend() -> None:
    finding = Finding(subject="disk", status="fail", said="full", mend="make room")
    assert finding.lines() == ["FAIL  disk: full", "      mend: make room"]
    assert finding.to_json() == {"subject": "disk", "status": "fail", "said": "full", "mend": "make room"}


def test_a_child_that_fails_or_hangs_is_told_of(tmp_path: Path) -> None:
    assert ask_program(["no-such-program-here"], root=tmp_path, timeout_s=5) == ""
    assert ask_program(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], root=tmp_path, timeout_s=5) == "last"
    assert ask_program(["sleep", "5"], root=tmp_path, timeout_s=0.1) == "no answer within 0 s"
    assert isinstance(ask_module("builder.no_such_module", [], root=tmp_path, timeout_s=30), str)
