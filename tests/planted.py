"""Plants what stages would give, without their work: small artifacts and records, the lock and the cache of DVC.

What is planted is a function of the action, as with real stages, but for settings that are named as having no effect:
so an edit of one of these gives an equal artifact again.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import yaml

from builder.edges import DataFile
from builder.pipeline import RECORDS
from builder.plan.digests import listing_md5
from builder.plan.judge import in_order
from builder.plan.reusable import action_of
from registry.artifact import Artifact
from registry.canonical import encode
from registry.digest import digest_file
from registry.lock import content_md5
from registry.record import (
    BASES,
    ArtifactSummary,
    Record,
    RecordInput,
    artifact_folder,
    artifact_record,
    git_record,
    lock_file,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.edges import Address, Edge
    from builder.graph import Node
    from builder.load import Workspace
    from registry.digest import Digest

__all__ = ["WITHOUT_EFFECT", "plant_all", "plant_stage"]

WITHOUT_EFFECT = frozenset({"weight_decay"})
"""Settings of a training that planted artifacts do not depend on."""


def plant_stage(root: Path, node: Node, *, duration_s: float = 1.0) -> Record:
    """Give a stage its artifact and its record, as `varietal run` would; its inputs are there."""
    action = action_of(node, lambda edge: _digest(root, edge))
    assert action is not None
    visible = action.to_dict()
    train = action.settings.get("train")
    if isinstance(train, dict):
        shown = {name: value for name, value in train.items() if name not in WITHOUT_EFFECT}
        visible["settings"] = {**action.settings, "train": shown}
    folder = root / artifact_folder(node.address.variant, node.address.stage)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "weights.bin").write_bytes(encode(visible))
    artifact = Artifact.from_folder(folder, "report")
    artifact.write(folder)
    record = Record(
        variant=node.address.variant,
        stage=node.address.stage,
        action=action,
        artifact=ArtifactSummary.of(artifact),
        inputs=tuple(_recorded(root, edge) for edge in node.edges),
        components=(),
        metrics={},
        environment={"python": "3.11"},
        device="cpu",
        micro_batch=0,
        duration_s=duration_s,
        peak_memory_mib=10.0,
        depends_on=(),
        notes=(),
        reused_from="",
    )
    beside = root / artifact_record(node.address.variant, node.address.stage)
    beside.write_bytes(record.to_bytes())
    return record


def plant_all(root: Path, workspace: Workspace, graph: Mapping[Address, Node]) -> None:
    """Give every stage its artifact, with records, locks and DVC's cache, as after a build of everything."""
    locks: dict[str, dict[str, object]] = {variant: {} for variant in (BASES, *workspace.manifests)}
    outputs: dict[str, dict[str, object]] = {}
    for address in in_order(graph):
        node = graph[address]
        record = plant_stage(root, node)
        copy = root / git_record(address.variant, address.stage)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(record.to_bytes())
        folder, beside = (
            artifact_folder(address.variant, address.stage),
            artifact_record(address.variant, address.stage),
        )
        outputs[str(folder)] = _cache_folder(root, root / folder) | {"path": str(folder)}
        outputs[str(beside)] = _cache_file(root, root / beside) | {"path": str(beside)}
        name = f"base@{address.stage}" if address.variant == BASES else address.stage
        locks[address.variant][name] = _locked(root, workspace, node, outputs)
        if address.variant == BASES:
            locks[BASES][f"{RECORDS}@{address.stage}"] = {
                "cmd": f"varietal run {BASES} {RECORDS} {address.stage}",
                "deps": [outputs[str(beside)]],
            }
    for variant, stages in locks.items():
        if variant != BASES:
            records = [str(artifact_record(variant, one.stage)) for one in graph if one.variant == variant]
            stages[RECORDS] = {
                "cmd": f"varietal run {variant} {RECORDS}",
                "deps": [outputs[path] for path in sorted(records)],
            }
        if stages:
            text = yaml.dump({"schema": "2.0", "stages": stages}, Dumper=_Dumper, sort_keys=False)
            (root / lock_file(variant)).write_text(text)


class _Dumper(yaml.CSafeDumper):
    """Without aliases, as DVC writes."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def _locked(
    root: Path, workspace: Workspace, node: Node, outputs: Mapping[str, dict[str, object]]
) -> dict[str, object]:
    address = node.address
    deps: dict[str, dict[str, object]] = {}
    for edge in node.edges:
        if isinstance(edge.source, DataFile):
            data = (root / edge.source.path).read_bytes()
            deps[edge.source.path] = _entry(content_md5(data), len(data)) | {"path": edge.source.path}
        else:
            path = str(artifact_folder(edge.source.variant, edge.source.stage))
            deps[path] = outputs[path]
    params: dict[str, dict[str, object]] = {}
    for file, key in sorted(node.params, key=lambda one: (one[0] != "params.yaml", one)):
        value: object = workspace.documents[file]
        for part in key.split("."):
            value = value[part]  # type: ignore[index]
        params.setdefault(file, {})[key] = value
    locked: dict[str, object] = {"cmd": f"varietal run {address.variant} {address.stage}"}
    if deps:
        locked["deps"] = [_in_order(deps[path]) for path in sorted(deps)]
    own = (artifact_folder(address.variant, address.stage), artifact_record(address.variant, address.stage))
    return locked | {"params": params, "outs": [_in_order(outputs[str(path)]) for path in own]}


def _in_order(entry: dict[str, object]) -> dict[str, object]:
    return {name: entry[name] for name in ("path", "hash", "md5", "size", "nfiles") if name in entry}


def _entry(md5: str, size: int) -> dict[str, object]:
    return {"hash": "md5", "md5": md5, "size": size}


def _cache_folder(root: Path, folder: Path) -> dict[str, object]:
    files = {path.name: (_cache_file(root, path)["md5"], path.stat().st_size) for path in sorted(folder.iterdir())}
    rows = [{"md5": md5, "relpath": name} for name, (md5, _) in sorted(files.items())]
    oid = listing_md5((name, str(md5)) for name, (md5, _) in files.items())
    _cache(root, oid, json.dumps(rows, sort_keys=True).encode())
    return _entry(oid, sum(size for _, size in files.values())) | {"nfiles": len(files)}


def _cache_file(root: Path, path: Path) -> dict[str, object]:
    data = path.read_bytes()
    oid = content_md5(data)
    _cache(root, oid, data)
    return _entry(oid, len(data))


def _cache(root: Path, oid: str, data: bytes) -> None:
    path = root / ".dvc/cache/files/md5" / oid[:2] / oid[2:]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.chmod(path, 0o444)  # noqa: PTH101 - tens of thousands of them


def _digest(root: Path, edge: Edge) -> Digest:
    if isinstance(edge.source, DataFile):
        return digest_file(root / edge.source.path)
    path = root / artifact_record(edge.source.variant, edge.source.stage)
    return Record.from_bytes(path.read_bytes(), where=str(path)).artifact.digest


def _recorded(root: Path, edge: Edge) -> RecordInput:
    source = f"data:{edge.source.path}" if isinstance(edge.source, DataFile) else str(edge.source)
    return RecordInput(role=edge.role, name=edge.name, digest=_digest(root, edge), weights_digest=None, source=source)
