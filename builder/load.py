"""The files of a repository -> a workspace of manifests; every fault of every file at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.manifest import GraftStage, GrpoStage, RlooStage, StageRef, read_manifest, read_project, type_of
from builder.names import VARIANT_NAME
from builder.reward_code import Functions, read_functions
from builder.reward_settings import RewardFunction
from builder.rules import Draft, check
from builder.shapes import Reading
from registry import yaml12
from registry.errors import InvalidError
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from builder.manifest import Manifest, Project
    from registry.artifact import ArtifactType
    from registry.canonical import JSON

__all__ = ["Workspace", "artifact_type", "load"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """What a repository declares.

    Attributes:
        project: params.yaml.
        manifests: Every variant's manifest by name, sorted.
        documents: The plain value of each file that was read, by its path from the root.
    """

    project: Project
    manifests: Mapping[str, Manifest]
    documents: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    """What lies in the repository beside the documents, each file looked at once."""

    missing: Callable[[str], str]
    functions: Callable[[str], Functions]


def load(root: Path, *, only: str | Collection[str] = "") -> Workspace:
    """Read and check params.yaml and every ``models/*/model.yaml``.

    Data files are looked for, but not read: their rows are checked by :func:`builder.rows.check_rows`.

    Args:
        root: Root of the repository.
        only: A variant (or ``bases``), or several: nothing is read but these and the variants that they are made from,
            so that one stage among thousands of variants starts at once.

    Raises:
        InvalidError: Every fault found, in every file that was read.
    """
    params = Reading(file=str(manifest_file(BASES)))
    value = _document(root, params)
    bases = None if params.faults else Draft(value=value, manifest=None, reading=params).names("bases")
    project = None if params.faults else read_project(value, params)
    home = root.resolve()
    # Many variants share their data, and what rates answers.
    files = _Files(missing=cache(partial(_missing, root, home)), functions=cache(partial(read_functions, root)))
    names = [only] if isinstance(only, str) else [*only]
    drafts = _drafts(root, [one for one in names if one != BASES] if only else _variants(root), files)
    check(None if params.faults else project, bases, drafts)
    faults = [fault for reading in (params, *(one.reading for one in drafts.values())) for fault in reading.faults]
    if faults or project is None:
        raise InvalidError.from_faults(faults)
    manifests = {name: one.manifest for name, one in drafts.items() if one.manifest is not None}
    documents = {params.file: value} | {one.reading.file: one.value for one in drafts.values()}
    return Workspace(project=project, manifests=manifests, documents=documents)


def artifact_type(workspace: Workspace, variant: str, name: str) -> ArtifactType:
    """What an artifact is, told from the manifests alone.

    Args:
        workspace: What the repository declares.
        variant: The variant whose word ``name`` is.
        name: A stage, an adapter or ``base``.

    Raises:
        KeyError: There is no such variant or name.
    """
    found = type_of(workspace.manifests[variant], name)
    if found is None:
        raise KeyError(name)
    return found


def _variants(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("models/*/model.yaml"))


def _drafts(root: Path, names: list[str], files: _Files) -> dict[str, Draft]:
    """Drafts of these variants, and of those that they name, as far as they exist; sorted."""
    drafts: dict[str, Draft] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in drafts and os.path.lexists(root / f"models/{name}/model.yaml"):
            drafts[name] = _draft(root, name, files)
            waiting += _named(drafts[name].manifest)
    return dict(sorted(drafts.items()))


def _named(manifest: Manifest | None) -> list[str]:
    """Variants whose stages a manifest starts from."""
    if manifest is None:
        return []
    sources = (manifest.base, *manifest.adapters.values(), *manifest.models.values())
    return [one.variant for one in sources if isinstance(one, StageRef)]


def _draft(root: Path, variant: str, files: _Files) -> Draft:
    reading = Reading(file=f"models/{variant}/model.yaml")
    VARIANT_NAME.read(variant, (), reading)
    if (root / reading.file).parent.is_symlink():
        reading.fault((), "a linked folder", "make it a folder of its own: a link can lead out of the repository")
    before = len(reading.faults)
    value = _document(root, reading)
    manifest = read_manifest(variant, value, reading) if len(reading.faults) == before else None
    if manifest is not None:
        _look_for_data(manifest, files.missing, reading)
        _look_for_rewards(manifest, files.functions, reading)
        _look_for_templates(manifest, files.missing, reading)
    return Draft(value=value, manifest=manifest, reading=reading)


def _document(root: Path, reading: Reading) -> JSON:
    """The document of a file; nothing, with the faults in ``reading``, where it is none."""
    path = root / reading.file
    if path.is_symlink():
        reading.fault((), "a link", "make it a file of its own: a link can lead out of the repository")
        return None
    try:
        size = path.stat().st_size
        if size > yaml12.MAX_BYTES:
            reading.fault((), f"a file of {size} bytes, at most {yaml12.MAX_BYTES} are read", "split or shorten it")
            return None
        document = yaml12.load(path.read_bytes(), reading.file)
    except OSError as error:
        mend = "make it a file that you can read"
        if isinstance(error, FileNotFoundError) and reading.file == str(manifest_file(BASES)):
            mend = "write it; `varietal init` does in a new repository"
        reading.fault((), f"cannot be read: {error.strerror}", mend)
        return None
    except InvalidError as error:
        reading.faults += error.faults
        return None
    reading.lines = document.lines
    return document.value


def _look_for_data(manifest: Manifest, missing: Callable[[str], str], reading: Reading) -> None:
    for name, data in manifest.data.items():
        if data.path and (problem := missing(data.path)):
            mend = "write the path of a file of rows, or of a folder of such files, within the repository"
            reading.fault(("data", name, "path"), problem, mend)


def _look_for_templates(manifest: Manifest, missing: Callable[[str], str], reading: Reading) -> None:
    for name, stage in manifest.stages.items():
        if isinstance(stage, GraftStage) and stage.template and (problem := missing(stage.template)):
            mend = "write the path of a file with a chat template within the repository"
            reading.fault(("stages", name, "template"), problem, mend)


def _look_for_rewards(manifest: Manifest, functions: Callable[[str], Functions], reading: Reading) -> None:
    """Files of reward functions are parsed here, and run by nobody but their stage."""
    for name, stage in manifest.stages.items():
        rewards = stage.rewards if isinstance(stage, GrpoStage | RlooStage) else {}
        for label, one in rewards.items():
            if not isinstance(one, RewardFunction) or not one.file or not one.function:
                continue
            problem, mend = functions(one.file).fault(one.function)
            if problem:
                key = "file" if functions(one.file).problem else "function"
                reading.fault(("stages", name, "rewards", label, key), problem, mend)


def _missing(root: Path, home: Path, path: str) -> str:
    """Why a data file cannot be used; empty where it is there, or DVC knows where to get it."""
    file = root / path
    try:
        if not file.resolve().is_relative_to(home):
            return f"{path} is a link that leads out of the repository"
        tracked = any((root / f"{part}.dvc").is_file() for part in (path, *PurePosixPath(path).parents[:-1]))
        return "" if file.is_file() or file.is_dir() or tracked else f"{path} does not exist"
    except (OSError, RuntimeError):  # a name that is too long; links in a circle
        return f"{path} leads nowhere"
