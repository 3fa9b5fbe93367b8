from __future__ import annotations

import socket

import pytest


def test_a_unit_test_cannot_connect() -> None:
    with socket.socket() as probe, pytest.raises(RuntimeError) as caught:
        probe.connect(("127.0.0.1", 9))
    assert str(caught.value) == (
        "a unit test reached for the network: socket.connect(('127.0.0.1', 9),); it belongs in tests/integration"
    )


def test_a_unit_test_cannot_look_up_a_host() -> None:
    with pytest.raises(RuntimeError, match=r"reached for the network: socket\.getaddrinfo"):
        socket.getaddrinfo("host.invalid", 443)
