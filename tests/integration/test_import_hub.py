"""Import from a Hub on loopback that speaks the read protocol and, on demand, lies."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import close_session, constants

from builder.manifest import HubAdapter, HubBase
from builder.stages.imports import import_
from registry.artifact import Artifact
from registry.errors import DeniedError, DigestMismatchError, InvalidError, MachineError, NotFoundError, TransportError
from tests.workshop import Workshop, llama, lora, weights_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.stage import Context

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "model.safetensors"
LARGE_BYTES = 1000  # from this size on the Hub lists a sha256, as for LFS


@dataclass
class Hub:
    """What the server has and does.

    Attributes:
        files: Path -> bytes, what the listing describes.
        served: Path -> other bytes to send.
        cut: Path -> how many bytes to send before the connection breaks, once.
        status: Answer of the listing; 200 for a good one.
        requests: Method, path and range of every request for a file.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    status: int = 200
    code: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def listing(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "original"}]
        for path, data in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            row: dict[str, object] = {"type": "file", "oid": blob, "size": len(data), "path": path}
            if len(data) >= LARGE_BYTES:
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            rows.append(row)
        return rows


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            tree, resolve = f"/api/models/acme/tiny/tree/{COMMIT}", f"/acme/tiny/resolve/{COMMIT}/"
            path = self.path.partition("?")[0]
            if path == tree and hub.status == 200:
                self.answer(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})
            elif path == tree:
                self.answer(hub.status, b"{}", {"X-Error-Code": hub.code} if hub.code else {})
            elif path.startswith(resolve):
                self.file(path.removeprefix(resolve))
            else:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        def file(self, name: str) -> None:
            wanted = self.headers.get("Range", "")
            hub.requests.append((name, wanted))
            assert self.headers.get("Accept-Encoding") == "identity"
            data = hub.served.get(name, hub.files[name])
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            headers = {"X-Repo-Commit": COMMIT, "ETag": '"../../escape"'}
            if name in hub.cut:
                half = data[start : start + hub.cut.pop(name)]
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                self.wfile.write(half)
                self.close_connection = True
                return
            self.answer(206 if wanted else 200, data[start:], headers)

        def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(hub)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        close_session()
        yield hub
        close_session()
        server.shutdown()


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def fill(hub: Hub, folder: Path, **more: bytes) -> None:
    hub.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "artifact.json"}
    hub.files |= {name.replace("__", "."): data for name, data in more.items()}


def single(shop: Workshop, hub: Hub) -> Path:
    """Fill the Hub with a model in one file; returns the artifact that it must become."""
    from safetensors.torch import save  # noqa: PLC0415

    model = shop.model()
    hub.files = {
        "config.json": (model / "config.json").read_bytes(),
        WEIGHTS: save(llama(), {"format": "pt"}),
        "README.md": b"# tiny",
        "tokenizer.json": b"{}" * LARGE_BYTES,
        "pytorch_model.bin": b"pickle",
        "original/params.json": b"{}",
    }
    return model


def context(shop: Workshop) -> Context[object]:
    return shop.context(HubBase(hub="acme/tiny", revision=COMMIT))


def test_a_model_comes_in_and_only_what_is_taken_is_fetched(shop: Workshop, hub: Hub) -> None:
    model = single(shop, hub)
    ours = context(shop)
    outcome = import_(ours)
    artifact = Artifact.from_folder(ours.out, "model", outcome.written)
    artifact.verify_folder(ours.out)
    assert artifact.weights_digest == weights_digest(model)
    assert [name for name, _ in hub.requests] == ["config.json", "tokenizer.json", WEIGHTS]
    assert outcome.notes == ("left out: README.md, original/params.json, pytorch_model.bin",)


def test_a_sharded_model_comes_in(shop: Workshop, hub: Hub) -> None:
    model = shop.model()
    fill(hub, model, consolidated__safetensors=b"x" * 2000)
    ours = context(shop)
    import_(ours)
    assert Artifact.from_folder(ours.out, "model").weights_digest == weights_digest(model)
    assert "consolidated.safetensors" not in [name for name, _ in hub.requests]


def test_an_adapter_comes_in(shop: Workshop, hub: Hub) -> None:
    base = shop.model()
    fill(hub, shop.adapter(None, lora({"model.layers.0.self_attn.q_proj": (8, 8)})))
    settings = HubAdapter(hub="acme/tiny", revision=COMMIT, base="tiny")
    ours = shop.context(settings, shop.input("base", base))
    assert import_(ours).type == "adapter"
    assert sorted(path.name for path in ours.out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_flipped_byte_is_found_in_files_large_and_small(shop: Workshop, hub: Hub, name: str) -> None:
    single(shop, hub)
    data = bytearray(hub.files[name])
    data[-1] ^= 1
    hub.served[name] = bytes(data)
    ours = context(shop)
    with pytest.raises(DigestMismatchError) as caught:
        import_(ours)
    size, digest = len(data), hashlib.sha256(data).hexdigest()
    assert caught.value.what.startswith(f"{name} has {size} bytes, sha256:{digest}; the Hub lists {size} bytes, ")
    assert caught.value.where == f"hub:acme/tiny@{COMMIT}"
    assert list(ours.out.iterdir()) == []
    assert not (ours.work / "hub" / name).exists()
    hub.served.clear()
    import_(ours)  # nothing false was kept


@pytest.mark.parametrize("grown", [-7, 7, 3_000_000])
def test_more_or_fewer_bytes_than_listed_are_refused(shop: Workshop, hub: Hub, grown: int) -> None:
    single(shop, hub)
    data = hub.files[WEIGHTS]
    hub.served[WEIGHTS] = data + b"x" * grown if grown > 0 else data[:grown]
    ours = context(shop)
    with pytest.raises(DigestMismatchError) as caught:
        import_(ours)
    assert caught.value.what.startswith(f"{WEIGHTS} has {min(len(data) + 1, len(data) + grown)} bytes, ")


def test_a_broken_connection_is_continued_where_it_broke(shop: Workshop, hub: Hub) -> None:
    single(shop, hub)
    hub.cut[WEIGHTS] = 1000
    import_(context(shop))
    assert [wanted for name, wanted in hub.requests if name == WEIGHTS] == ["", "bytes=1000-"]


def test_what_an_earlier_run_fetched_is_checked_and_kept(shop: Workshop, hub: Hub) -> None:
    single(shop, hub)
    ours = context(shop)
    import_(ours)
    hub.requests.clear()
    (ours.work / "hub" / "config.json").write_bytes(b"{}")
    again = shop.context(ours.settings)
    (ours.work / "hub").rename(again.work / "hub")
    import_(again)
    assert [name for name, _ in hub.requests] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("config.json", b'{"auto_map": {}}', "auto_map asks for code of the model's own, which is never run"),
        (
            "config.json",
            b'{"quantization_config": {"quant_method": "awq"}}',
            "the model is quantised (awq); its weights cannot be folded or trained on as they are",
        ),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"w": "../../x.safetensors"}}',
            "the weight map points to '../../x.safetensors'; it must name safetensors files of its own folder",
        ),
    ],
)
def test_what_is_refused_is_refused_before_weights_are_fetched(
    shop: Workshop, hub: Hub, name: str, data: bytes, what: str
) -> None:
    single(shop, hub)
    hub.files[name] = data
    with pytest.raises(InvalidError) as caught:
        import_(context(shop))
    assert caught.value.what == what
    assert WEIGHTS not in [fetched for fetched, _ in hub.requests]


def test_pickles_alone_are_refused_before_anything_large_is_fetched(shop: Workshop, hub: Hub) -> None:
    single(shop, hub)
    del hub.files[WEIGHTS]
    hub.files["consolidated.00.pth"] = hub.files.pop("pytorch_model.bin")
    with pytest.raises(InvalidError) as caught:
        import_(context(shop))
    assert caught.value.what.startswith("the weights are pickles (consolidated.00.pth); only safetensors, ")


def test_a_full_disk_is_seen_before_weights_are_fetched(
    shop: Workshop, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    single(shop, hub)
    needed = 2 * sum(len(hub.files[name]) for name in ("config.json", "tokenizer.json", WEIGHTS))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, needed - 1))
    with pytest.raises(MachineError) as caught:
        import_(context(shop))
    assert str(caught.value) == (
        f"{needed - 1} bytes are free, the import needs {needed}: as fetched, and as an artifact\n"
        f"  where: hub:acme/tiny@{COMMIT}\n"
        "  mend: make room, then run again; what was fetched is kept"
    )
    assert WEIGHTS not in [fetched for fetched, _ in hub.requests]


def test_a_path_that_climbs_is_refused(shop: Workshop, hub: Hub) -> None:
    single(shop, hub)
    hub.files["../../escape.json"] = b"{}"
    with pytest.raises(InvalidError) as caught:
        import_(context(shop))
    assert caught.value.what == "'../../escape.json' is no plain path inside a folder"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "code", "error", "what"),
    [
        (404, "RepoNotFound", NotFoundError, "the Hub has no such repository, commit or file, or you may not see it"),
        (
            404,
            "RevisionNotFound",
            NotFoundError,
            "the Hub has no such repository, commit or file, or you may not see it",
        ),
        (403, "GatedRepo", DeniedError, "the repository is gated"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(
    shop: Workshop, hub: Hub, *, status: int, code: str, error: type[Exception], what: str
) -> None:
    single(shop, hub)
    hub.status, hub.code = status, code
    with pytest.raises(error) as caught:
        import_(context(shop))
    assert str(caught.value).startswith(f"{what}\n  where: hub:acme/tiny@{COMMIT}\n")


def test_a_hub_that_fails_is_a_transport_error(shop: Workshop, hub: Hub) -> None:
    single(shop, hub)
    hub.status = 418
    with pytest.raises(TransportError) as caught:
        import_(context(shop))
    assert caught.value.what.startswith("the Hub does not answer as it should: ")
    assert caught.value.mend == "try again later"
