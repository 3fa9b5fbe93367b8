"""Who may move which channel, as params.yaml says, and what passes for a public key."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from registry.channels import read_rules
from registry.errors import InvalidError
from registry.ssh_key import PublicKey, read_keys

if TYPE_CHECKING:
    from registry.canonical import JSON


def line(kind: str = "ssh-ed25519", inside: str = "", tail: bytes = bytes(32)) -> str:
    name = (inside or kind).encode()
    fields = b"".join(len(field).to_bytes(4, "big") + field for field in (name, tail))
    return f"{kind} {base64.b64encode(fields).decode()}"


def test_no_rules() -> None:
    assert read_rules({"bases": {}, "what a later version knows": 1}, where="params.yaml") == {}
    assert read_rules({"channels": {}}, where="params.yaml") == {}


def test_rules() -> None:
    value: JSON = {"channels": {"prod": {"promoters": {"ada": f"{line()} ada@home"}}}}
    rules = read_rules(value, where="params.yaml")
    assert str(rules["prod"].promoters["ada"]) == line()


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (["channels"], "expected a table, got a list"),
        ({"channels": []}, "expected a table, got a list"),
        ({"channels": {"prod": {}}}, "promoters: expected a value, got nothing"),
        ({"channels": {"prod": {"promoters": {}}}}, "at least one promoter: expected a value, got nothing"),
        ({"channels": {"prod": {"promoters": {"ada": 1}}}}, "ada: expected text, got a number"),
        ({"channels": {"prod": {"promoters": {"ada": "x"}}}}, "'x' is no SSH public key"),
        ({"channels": {"prod": {"promoters": {"a": line()}, "more": 1}}}, "more: expected a key of this schema, got"),
        ({"channels": {"Prod": {"promoters": {"a": line()}}}}, "'Prod' is not a channel"),
    ],
)
def test_rules_that_cannot_be_read_are_no_rules_at_all(value: JSON, what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        read_rules(value, where="params.yaml")
    assert caught.value.what.startswith(what)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-dss " + line("ssh-dss").split()[1],
        line(inside="ssh-rsa"),  # says one kind and is another
        line().replace("A", "!"),
        line(tail=b""),
        line()[:-16],  # cut off, as a copied line may be
        line() + "AAAA",
        f'{line()}\nssh-ed25519 x\n* namespaces="git"',
        f'cert-authority,namespaces="git" {line()}',
    ],
)
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(InvalidError, match="is no SSH public key"):
        PublicKey.parse(text, where="here")


def test_a_file_of_trusted_keys() -> None:
    other = line(tail=bytes(31) + b"x")
    assert read_keys(f"# since 2026\n{line()} ada\n\n{other}\n", where="keys") == (
        PublicKey.parse(line(), where=""),
        PublicKey.parse(other, where=""),
    )
    with pytest.raises(InvalidError, match="0 keys, expected 1 to 64"):
        read_keys("# none\n", where="keys")
    with pytest.raises(InvalidError, match="65 keys"):
        read_keys(f"{line()}\n" * 65, where="keys")


def test_a_fingerprint_is_written_as_openssh_writes_it() -> None:
    key = PublicKey.parse(line(), where="")
    assert key.fingerprint.startswith("SHA256:")
    assert len(key.fingerprint) == 50
