"""Starts a variant: a manifest to go on from, another's copy, or one that a mergekit file was translated into."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from builder.kinds import KINDS
from builder.load import load
from builder.manifest import HubBase, parse_project, type_of
from builder.manifest_text import manifest_text
from builder.mergekit.translation import translate
from builder.names import VARIANT_NAME
from builder.pin import pin
from builder.shapes import Reading
from builder.start.schemas import MODEL_SCHEMA, schema_line
from builder.start.text_edit import put_entry, remove_entry
from builder.start.variant import find_variant
from registry import yaml12
from registry.errors import ConflictError, InvalidError, MachineError, NotFoundError, TransportError
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.load import Workspace
    from builder.manifest import Project
    from builder.mergekit.translation import Reference
    from registry.canonical import JSON

__all__ = ["Started", "copy", "new", "new_from_mergekit"]

_COMMIT: Final = re.compile("[0-9a-f]{40}")
_HUB: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

_STARTER: Final = """\
schema: 1
description: Say what it is for.
base: {base}
# Adapters made elsewhere, each with the base that it was trained on; `varietal pin` prints an entry.
# adapters:
#   concise: {{hub: acme/concise-lora, revision: "<40 hexadecimal digits>", base: tiny}}
# data:
#   talks: {{path: data/talks.jsonl, format: messages}}
#   heldout: {{path: data/heldout.jsonl, format: text}}
stages:
  # tone: {{kind: sft, from: base, data: talks, adapter: {{rank: 16, targets: [attention, mlp]}}, train: {{epochs: 1}}}}
  # toned: {{kind: fold, from: base, adapters: {{tone: 1.0}}}}
  # score: {{kind: evaluate, from: toned, against: base, metrics: {{bits_per_byte: heldout}}}}
  final: {{kind: cast, from: base, dtype: bfloat16}}
release: final
# Without checks the gate lets nothing out; `checks: []` says that there are none on purpose.
# checks:
# - {{stage: score, metric: bits_per_byte, max_increase: 0.02}}
"""
_TRANSLATED: Final = """\
# Without checks the gate lets nothing out; `checks: []` says that there are none on purpose.
# checks:
# - {stage: score, metric: bits_per_byte, max_increase: 0.02}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A manifest that was written.

    Attributes:
        path: Its path from the root.
        params: What params.yaml lacks still: key -> entries to add under it.
        unpinned: References whose commit is not known, each with what prints it.
        notes: Where the result differs from what mergekit makes.
    """

    path: str
    params: Mapping[str, Mapping[str, JSON]]
    unpinned: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Plain values."""
        params: dict[str, JSON] = {key: dict(entries) for key, entries in self.params.items()}
        return {"path": self.path, "params": params, "unpinned": [*self.unpinned], "notes": [*self.notes]}

    def lines(self) -> list[str]:
        """What was written, and what to add to params.yaml."""
        params: dict[str, JSON] = {key: dict(entries) for key, entries in self.params.items()}
        added = ["", "# add to params.yaml:", *manifest_text(params).splitlines()] if params else []
        return [f"wrote {self.path}", *added]

    def advice(self) -> list[str]:
        """What its reader should know."""
        return [
            *self.notes,
            *(f"not pinned: run `{one}`, and write the revision that it prints" for one in self.unpinned),
        ]


def new(root: Path, variant: str, *, base: str = "") -> Started:
    """Write a manifest to go on from.

    Args:
        root: Root of the repository.
        variant: Name of the variant.
        base: What it starts from: a name under ``bases:``, or a stage of another variant as ``variant:stage``; empty
            for the first that there is.

    Raises:
        InvalidError: A name that cannot be one, or a manifest that does not pass; nothing was written then.
        NotFoundError: There is nothing to start from.
        ConflictError: The variant exists.
    """
    _check_free(root, variant)
    _write_checked(root, variant, _schema_line(root) + _STARTER.format(base=_base(load(root), base)))
    return Started(path=str(manifest_file(variant)), params={})


def copy(root: Path, variant: str, source: str) -> Started:
    """Write a manifest that is another's, comments and order included, but for what it says of itself.

    Its stages are the same, so a build links what the other's gave, and computes what is changed from here on.

    Args:
        root: Root of the repository.
        variant: Name of the new variant.
        source: The variant to copy.

    Raises:
        InvalidError: A name that cannot be one, or a manifest that does not pass; nothing was written then.
        NotFoundError: There is no such variant.
        ConflictError: The new variant exists.
    """
    _check_free(root, variant)
    manifest = find_variant(root, source).manifests[source]
    where = str(manifest_file(source))
    text = (root / where).read_bytes().decode()
    for key, is_there in (("deprecated", manifest.deprecated), ("formerly", manifest.formerly)):
        if is_there:
            text = remove_entry(text, key, where=where)
    text = put_entry(text, "description", f"Copied from {source}. Say what it is for.", after=("schema",), where=where)
    _write_checked(root, variant, text)
    return Started(path=str(manifest_file(variant)), params={})


def new_from_mergekit(root: Path, variant: str, file: Path) -> Started:
    """Write the manifest that makes what a mergekit file makes.

    Models in folders of the repository, and those on the Hub whose commit can be had, are pinned; params.yaml is not
    touched: what it needs is given back.

    Args:
        root: Root of the repository.
        variant: Name of the variant.
        file: The mergekit file.

    Raises:
        InvalidError: Every fault of the file, or a name that cannot be one; nothing was written then.
        NotFoundError: The file, or a model that it names, is not there.
        ConflictError: The variant exists.
        OSError: The file cannot be read.
    """
    _check_free(root, variant)
    if not file.is_file():
        raise NotFoundError("there is no such file", where=str(file), mend="name a file of mergekit")
    translation = translate(file.read_bytes().decode("utf-8", "replace"), file.name)
    project = _project(root)
    unpinned: list[str] = []
    entries = {name: _entry(root, one, unpinned) for name, one in translation.bases.items()}
    known = {name: _key(project, name, entry) for name, entry in entries.items()}
    manifest: dict[str, JSON] = {}
    for key, value in translation.manifest.items():
        if key == "stages" and translation.adapters:
            manifest["adapters"] = {
                name: {**_entry(root, one.reference, unpinned), "base": known[one.base]}
                for name, one in translation.adapters.items()
            }
        manifest[key] = {**known} if key == "models" else value
    _write(root / manifest_file(variant), f"{_schema_line(root)}{manifest_text(manifest)}{_TRANSLATED}")
    params: dict[str, dict[str, JSON]] = {
        "bases": {known[name]: entry for name, entry in entries.items() if known[name] not in project.bases},
        "recipes": {kind: KINDS[kind].recipe for kind in _kinds(manifest) if kind not in project.recipes},
    }
    return Started(
        path=str(manifest_file(variant)),
        params={key: added for key, added in params.items() if added},
        unpinned=tuple(unpinned),
        notes=translation.notes,
    )


def _check_free(root: Path, variant: str) -> None:
    """The name must be one, and not taken."""
    reading = Reading(file=str(manifest_file(variant)))
    VARIANT_NAME.read(variant, (), reading)
    if reading.faults:
        raise InvalidError.from_faults(reading.faults)
    folder = (root / manifest_file(variant)).parent
    if folder.exists() or folder.is_symlink():
        raise ConflictError(
            f"models/{variant} exists", where=str(manifest_file(variant)), mend="take another name, or remove it"
        )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode())  # with the line ends that it has


def _write_checked(root: Path, variant: str, text: str) -> None:
    """Write a manifest; one that does not pass is taken away again."""
    path = root / manifest_file(variant)
    _write(path, text)
    try:
        load(root, only=variant)
    except InvalidError:
        path.unlink()
        path.parent.rmdir()
        raise


def _schema_line(root: Path) -> str:
    """What tells an editor of the schema, where the repository has one."""
    return schema_line(MODEL_SCHEMA, depth=2) if (root / MODEL_SCHEMA).is_file() else ""


def _project(root: Path) -> Project:
    path = root / manifest_file(BASES)
    if not path.is_file():
        raise NotFoundError("there is no params.yaml", where=str(root), mend="run `varietal init`")
    return parse_project(yaml12.load(path.read_bytes(), path.name).value)


def _base(workspace: Workspace, wanted: str) -> str:
    """The text of ``base:``."""
    variant, colon, stage = wanted.partition(":")
    if colon:
        return f"{{variant: {variant}, stage: {stage}}}"
    if wanted:
        return wanted
    if workspace.project.bases:
        return next(iter(workspace.project.bases))
    for name, manifest in workspace.manifests.items():
        if type_of(manifest, manifest.release) == "model":
            return f"{{variant: {name}, stage: {manifest.release}}}"
    raise NotFoundError(
        "there is no base to start from",
        where=str(manifest_file(BASES)),
        mend="declare one under `bases:`; `varietal pin` prints its entry",
    )


def _entry(root: Path, reference: Reference, unpinned: list[str]) -> dict[str, JSON]:
    """The entry that pins a model or an adapter; a commit that cannot be had is left to the reader."""
    if (root / reference.path).is_dir():
        return dict(pin(root, reference.path))
    if not _HUB.fullmatch(reference.path):
        raise NotFoundError(
            f"{reference.path} is neither a folder of this repository nor organisation/name",
            where=str(reference),
            mend="write its path from the root of the repository, or copy it there",
        )
    if _COMMIT.fullmatch(reference.revision):
        return {"hub": reference.path, "revision": reference.revision}
    source = f"hub:{reference}"
    try:
        return dict(pin(root, source))
    except (MachineError, TransportError):
        unpinned.append(f"varietal pin {source}")
        return {"hub": reference.path, "revision": f"the commit that `varietal pin {source}` prints"}


def _key(project: Project, wish: str, entry: Mapping[str, JSON]) -> str:
    """The name under ``bases:``: that of the same source where it is there already, else one that is not taken."""
    for name, source in project.bases.items():
        same = (
            {"hub": source.hub, "revision": source.revision}
            if isinstance(source, HubBase)
            else {"path": source.path, "sha256": source.sha256.hex}
        )
        if same == entry:
            return name
    name, number = wish, 2
    while name in project.bases:
        name, number = f"{wish}-{number}", number + 1
    return name


def _kinds(manifest: Mapping[str, JSON]) -> list[str]:
    """Kinds of its stages, and of the imports that it needs."""
    stages = manifest["stages"]
    found = (
        {str(one["kind"]) for one in stages.values() if isinstance(one, dict)} if isinstance(stages, dict) else set()
    )
    return sorted({"import", *found})
