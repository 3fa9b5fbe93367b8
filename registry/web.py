"""A plain web server as a source of objects, read with Python alone: no DVC, no git.

The server is believed in nothing. Bodies are asked for uncompressed and read as far as they may be long, a changed file
is noticed between two ranges, a redirect may not leave the server, and a connection that brings nothing is given up.
"""

from __future__ import annotations

import base64
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from registry.descriptor import object_key
from registry.errors import DeniedError, Error, InvalidError, NotFoundError, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from http.client import HTTPMessage

    from registry.store import Readable

__all__ = ["WebSource"]

_STALL_S = 60.0  # without a byte
_SMALL_S = 60.0  # for the whole of a small file, and so much longer as it may be long:
_SLOWEST_BYTES_A_SECOND = 100 << 10
_BLOCK_BYTES = 1 << 20
_OK, _PARTIAL = 200, 206
_REDIRECT = 3  # hundred
_DENIED = frozenset({401, 402, 403, 407})
_MISSING = frozenset({404, 410})
_SCHEMES = frozenset({"http", "https"})


class WebSource:
    """A folder on a web server, laid out as a DVC remote.

    Attributes:
        name: The address, without user name and password.
    """

    def __init__(self, url: str) -> None:
        """Name the folder; nothing is asked yet.

        Raises:
            InvalidError: It is no address of the web, or has a query.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            parts, port = urllib.parse.urlsplit(""), ""
        sound = parts.scheme in _SCHEMES and parts.hostname and not parts.query and not parts.fragment
        if not sound or not url.isascii() or not url.isprintable() or " " in url:
            raise InvalidError(
                f"{_safe(url)!r} is no address of a folder", where="--from", mend="write https://host/folder"
            )
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self.name = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "varietal"}
        if parts.username is not None:
            login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        self._opener = urllib.request.build_opener(_SameServer())
        self._tags: dict[str, str] = {}

    def read(self, path: str, limit_bytes: int) -> bytes:
        """A small file, whole.

        Raises:
            NotFoundError: The server has none.
            DeniedError: It does not let us read, or sends us elsewhere.
            InvalidError: It is longer than it may be.
            TransportError: The server does not answer as it should, or not in time.
        """
        where = f"{self.name}/{path}"
        allowed_s = _SMALL_S + limit_bytes / _SLOWEST_BYTES_A_SECOND
        end = time.monotonic() + allowed_s
        data = b""
        with self._stream(path, 0) as stream:
            while room := limit_bytes + 1 - len(data):
                block = stream.read(min(_BLOCK_BYTES, room))
                if not block:
                    return data
                data += block
                if time.monotonic() > end:
                    raise TransportError(
                        f"{len(data)} bytes in {allowed_s:.0f} s", where=where, mend="check the network and the server"
                    )
        raise InvalidError(
            f"more than {limit_bytes} bytes", where=where, mend="do not use this server: no such file is so long"
        )

    @contextmanager
    def open(self, oid: str, offset: int) -> Iterator[Readable]:
        """Stream an object from an offset in bytes to its end.

        Raises:
            NotFoundError: The server has no such object.
            DeniedError: It does not let us read, or sends us elsewhere.
            TransportError: It does not answer as it should, now or during a ``read``.
        """
        with self._stream(object_key(oid), offset) as stream:
            yield stream

    def exists(self, oids: Iterable[str]) -> frozenset[str]:
        """Those of the objects that the server has; each is asked for.

        Raises:
            DeniedError: It does not let us look.
            TransportError: It does not answer as it should.
        """
        return frozenset(oid for oid in oids if self._has(oid))

    def _has(self, oid: str) -> bool:
        try:
            with self._stream(object_key(oid), 0):
                return True
        except NotFoundError:
            return False

    @contextmanager
    def _stream(self, path: str, offset: int) -> Iterator[Readable]:
        where = f"{self.name}/{path}"
        headers = dict(self._headers)
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if path in self._tags:
                headers["If-Range"] = self._tags[path]
        request = urllib.request.Request(where, headers=headers)  # noqa: S310 - http or https, checked above
        with _narrowed(where):
            response = self._opener.open(request, timeout=_STALL_S)
        try:
            self._check(response, path, offset, where)
            stream = _Body(response, where)
            if response.status == _OK:
                _skip(stream, offset)
            yield stream
        finally:
            response.close()

    def _check(self, response: http.client.HTTPResponse, path: str, offset: int, where: str) -> None:
        """Refuse a compressed body, whose size says nothing, and another range than the one asked for."""
        encoding = response.headers.get("Content-Encoding", "identity")
        sent = response.headers.get("Content-Range", "an unnamed range")
        problem = ""
        if encoding != "identity":
            problem = f"the server sent {encoding[:60]} where plain bytes were asked for"
        elif response.status == _PARTIAL and not sent.startswith(f"bytes {offset}-"):
            problem = f"the server sent {sent[:60]} where bytes from {offset} were asked for"
        elif response.status not in {_OK, _PARTIAL}:
            problem = f"the server answered {response.status}"
        if problem:
            raise TransportError(problem, where=where, mend="check the server")
        tag = response.headers.get("ETag", "")
        if tag.startswith('"') and tag.isascii() and tag.isprintable():  # a weak one is good for no range
            self._tags[path] = tag


class _Body:
    """The body of a response, its errors ours."""

    __slots__ = ("_response", "_where")

    def __init__(self, response: http.client.HTTPResponse, where: str) -> None:
        self._response = response
        self._where = where

    def read(self, size: int, /) -> bytes:
        with _narrowed(self._where):
            block = self._response.read1(size)
            if not block and size and self._response.length:
                message = f"the server hung up {self._response.length} bytes before the end"
                raise OSError(message)
            return block


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where it stays on the server: nobody else is to see what we ask, and with which login."""

    max_redirections = 3

    def redirect_request(  # noqa: PLR0917 - as in the class above
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            fp.close()
            raise DeniedError(
                f"the server sends us to {_safe(newurl)[:200]}",
                where=req.full_url,
                mend="if that is right, name that server in --from",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _narrowed(where: str) -> Iterator[None]:
    """Turn every error of the library into one of ours.

    Raises:
        NotFoundError: 404 and its like.
        DeniedError: 401, 403 and their like, and a redirect to nowhere.
        TransportError: Anything else.
    """
    try:
        yield
    except Error:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _MISSING:
            raise NotFoundError(
                "the server has no such file", where=where, mend="check the address; have it published again"
            ) from error
        if error.code in _DENIED:
            raise DeniedError(
                f"reading is not allowed: {error.code}", where=where, mend="check the login in the address"
            ) from error
        if error.code // 100 == _REDIRECT:
            raise DeniedError(
                "the server sends us to an address that is not followed",
                where=where,
                mend="name the right one in --from",
            ) from error
        raise TransportError(f"the server answered {error.code}", where=where, mend="pull again later") from error
    except (TimeoutError, OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = " ".join(str(reason).split())[:200] or type(error).__name__
        raise TransportError(
            f"reading failed: {text}", where=where, mend="check the network and the server, then pull again"
        ) from error


def _skip(stream: _Body, count: int) -> None:
    while count:
        block = stream.read(min(_BLOCK_BYTES, count))
        if not block:
            return
        count -= len(block)


def _safe(url: str) -> str:
    """An address without user name and password, fit to be shown."""
    text = "".join(one for one in url if one.isprintable())
    head, mark, rest = text.partition("://")
    return head + mark + rest.rpartition("@")[2]
