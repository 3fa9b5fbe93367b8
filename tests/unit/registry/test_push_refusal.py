"""What servers say to a push that they turn down, and what is made of it."""

from __future__ import annotations

import pytest

from registry.errors import DeniedError, TransportError
from registry.push_refusal import already_there, push_refusal, was_lost

FAILED = b"error: failed to push some refs to 'https://git.example.org/team.git'\n"
HOOK = (
    b"remote: Tags are made by release managers.        \nremote: Ask in #releases.\nTo https://git.example.org/team.git\n"
    b" ! [remote rejected] support#prod#1 -> support#prod#1 (pre-receive hook declined)\n" + FAILED
)
GITLAB = (
    b"remote: GitLab: You are not allowed to create this tag as it is protected.        \n"
    b" ! [remote rejected] support@v1.0.0 -> support@v1.0.0 (pre-receive hook declined)\n" + FAILED
)
GITHUB = (
    b"remote: error: GH013: Repository rule violations found for refs/tags/support@v1.0.0.        \nremote: \n"
    b"remote: - Cannot create ref due to creations being restricted.\n"
    b" ! [remote rejected] support@v1.0.0 -> support@v1.0.0 (push declined due to repository rule violations)\n"
    + FAILED
)
PORCELAIN = b"remote: no\n!\trefs/heads/a:refs/heads/a\t[remote rejected] (protected branch hook declined)\n" + FAILED


def what(said: bytes) -> str:
    error = push_refusal(said, where="git push", denied="ask", away="check")
    assert isinstance(error, DeniedError)
    assert error.mend == "ask"
    return error.what


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            HOOK,
            "the origin refuses it (pre-receive hook declined): Tags are made by release managers.; Ask in #releases.",
        ),
        (
            GITLAB,
            "the origin refuses it (pre-receive hook declined): GitLab: You are not allowed to create this tag",
        ),
        (
            GITHUB,
            "the origin refuses it (push declined due to repository rule violations): error: GH013: Repository rule",
        ),
        (PORCELAIN, "the origin refuses it (protected branch hook declined): no"),
        (
            b" ! [remote rejected] a -> a (pre-receive hook declined)\n" + FAILED,
            "the origin refuses it (pre-receive hook declined): " + FAILED.decode().strip(),
        ),
        (b"git@host: Permission denied (publickey).\n", "git: git@host: Permission denied (publickey)."),
        (b"fatal: Authentication failed for 'https://a:b@host/x'\n", "git: fatal: Authentication failed for 'https://"),
    ],
)
def test_a_server_that_does_not_let_us(said: bytes, told: str) -> None:
    assert what(said).startswith(told)
    assert "a:b@" not in what(said)
    assert not was_lost(said)
    assert not already_there(said)


def test_all_lines_of_a_reason_are_told_and_one_without_end_is_cut() -> None:
    assert "; - Cannot create ref due to creations being restricted." in what(GITHUB)
    assert len(what(b"remote: " + b"x" * 10_000 + b"\n" + HOOK)) < 500


@pytest.mark.parametrize(
    "said",
    [
        b"fatal: unable to access 'https://host/': Could not resolve host: host\n",
        b"fatal: '/gone' does not appear to be a git repository\n",
        b" ! [remote rejected] a -> a (unpacker error)\n" + FAILED,
    ],
)
def test_a_server_that_does_not_answer_as_it_should(said: bytes) -> None:
    error = push_refusal(said, where="git push", denied="ask", away="check")
    assert isinstance(error, TransportError)
    assert error.mend == "check"


@pytest.mark.parametrize(
    ("said", "there"),
    [
        (b" ! [rejected] a -> a (already exists)\n" + FAILED, True),
        (b"remote: error: cannot lock ref 'refs/tags/a': reference already exists        \n", True),
        (b"remote: a was built already, it already exists\n" + HOOK, False),
    ],
)
def test_a_tag_that_is_there(said: bytes, there: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert already_there(said) is there


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (b"!\ta:b\t[rejected] (stale info)\n", True),
        (b"!\ta:b\t[rejected] (fetch first)\n", True),
        (b"remote: fetch first, says the hook\n" + HOOK, False),
    ],
)
def test_a_push_that_came_second(said: bytes, lost: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert was_lost(said) is lost
