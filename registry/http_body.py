"""The body of a file on a web server, from any byte on, streamed as plain bytes.

DVC's own reader asks for compressed bodies and whole blocks; this one uses DVC's session, with its credentials,
certificates, proxies and deadlines, and nothing else of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Mapping

__all__ = ["HttpBody", "HttpFileSystem", "open_body"]

_BLOCK_BYTES = 1 << 20
_OK, _PARTIAL = 200, 206


class _Content(Protocol):
    async def read(self, size: int, /) -> bytes: ...


class _Response(Protocol):
    status: int
    headers: Mapping[str, str]
    content: _Content

    def raise_for_status(self) -> None: ...

    def close(self) -> None: ...


class _Session(Protocol):
    def get(self, url: object, /, *, headers: Mapping[str, str]) -> Awaitable[_Response]: ...


class HttpFileSystem(Protocol):
    """What is used of fsspec's file system for the web."""

    loop: AbstractEventLoop

    def encode_url(self, url: str, /) -> object:
        """The address in the form that the session takes."""
        ...

    async def set_session(self) -> _Session:
        """The session, made at the first call."""
        ...


class HttpBody:
    """The body of a response, read by the event loop that it belongs to."""

    __slots__ = ("_loop", "_response")

    def __init__(self, loop: AbstractEventLoop, response: _Response) -> None:
        """Take over an open response."""
        self._loop = loop
        self._response = response

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        from fsspec.asyn import sync  # noqa: PLC0415 - comes with DVC

        return bytes(sync(self._loop, self._response.content.read, size))

    def close(self) -> None:
        """Hang up."""
        self._loop.call_soon_threadsafe(self._response.close)


def open_body(filesystem: HttpFileSystem, url: str, offset: int) -> HttpBody:
    """Ask for the bytes of a file from ``offset`` on; a server without ranges is read and skipped.

    Raises:
        OSError: The server compressed the body, or sent another range.
        Exception: Whatever the session raises; the caller narrows it.
    """
    from fsspec.asyn import sync  # noqa: PLC0415 - comes with DVC

    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"

    async def get() -> _Response:
        session = await filesystem.set_session()
        return await session.get(filesystem.encode_url(url), headers=headers)

    response: _Response = sync(filesystem.loop, get)
    body = HttpBody(filesystem.loop, response)
    try:
        _check(response, offset)
        if response.status == _OK:
            _skip(body, offset)
    except BaseException:
        body.close()
        raise
    return body


def _check(response: _Response, offset: int) -> None:
    """Refuse an error, a compressed body (its size says nothing) and another range than the one asked for."""
    response.raise_for_status()
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        message = f"the server sent {encoding} where plain bytes were asked for"
        raise OSError(message)
    sent = response.headers.get("Content-Range", "an unnamed range")
    if response.status == _PARTIAL and not sent.startswith(f"bytes {offset}-"):
        message = f"the server sent {sent} where bytes from {offset} were asked for"
        raise OSError(message)


def _skip(body: HttpBody, count: int) -> None:
    while count:
        block = body.read(min(_BLOCK_BYTES, count))
        if not block:
            return
        count -= len(block)
