"""The files of a new repository and their texts. Pure, but for what the package carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.kinds import KINDS
from builder.pipeline import BASES_PIPELINE, ROOT_PIPELINE
from builder.start.packaged import constraints, own_pin, requirements, template
from builder.start.schemas import PARAMS_SCHEMA, schema_line, schema_texts
from builder.start.workflows import Host, workflow_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from registry.digest import Digest

__all__ = ["Layout", "layout"]

_GITIGNORE = """\
# Bytes are kept by DVC; git keeps manifests, pipelines, locks and records.
/models/*/artifacts/
# `?*`, since DVC takes `/bases/*` for the folder itself, and then sees no pipeline in it.
/bases/?*
!/bases/dvc.yaml
!/bases/dvc.lock
!/bases/records/
/.varietal/
"""

_DVCIGNORE = """\
# Work folders hold nothing of DVC's, and it would walk them at every command.
/.varietal/
"""

_MODELS_README = """\
One folder a variant, with its manifest `model.yaml`. After an edit: `varietal lint`, `varietal compile`, `dvc repro`.
"""

_DATA_README = """\
Data sets as JSON lines; large ones by `dvc add`.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What a new repository is made of; texts by path from its root.

    Attributes:
        needed: Files that must be as they are here.
        offered: Files that a team may have of its own already; then its own stays.
        ignored: Lines that these files must hold, beside what they hold already.
    """

    needed: Mapping[str, str]
    offered: Mapping[str, str]
    ignored: Mapping[str, str]


def layout(bases: Mapping[str, tuple[str, Digest]], hosts: Iterable[Host], *, name: str, tool: str) -> Layout:
    """The files of a new repository.

    Args:
        bases: Path from the root, and digest, of each base by name.
        hosts: Whose workflows to write.
        name: What the repository is called in its README.
        tool: Where the tool is installed from, in pip's form; empty where nobody has said so.

    Raises:
        InvalidError: That is not pinned by sha256.
    """
    return Layout(
        needed={
            "params.yaml": _params(bases),
            "dvc.yaml": ROOT_PIPELINE,
            "bases/dvc.yaml": BASES_PIPELINE,
            "models/README.md": _MODELS_README,
            "data/README.md": _DATA_README,
            **schema_texts(),
        },
        offered={
            "README.md": template("README.md").replace("@NAME@", name),
            "requirements.txt": requirements(tool),
            "constraints.txt": f"{constraints()}{own_pin()}",
            **workflow_texts(hosts),
        },
        ignored={".gitignore": _GITIGNORE, ".dvcignore": _DVCIGNORE},
    )


def _params(bases: Mapping[str, tuple[str, Digest]]) -> str:
    recipes = "".join(f"  {name}: {kind.recipe}\n" for name, kind in KINDS.items())
    entries = "".join(f'\n  {name}:\n    path: {path}\n    sha256: "{pin.hex}"' for name, (path, pin) in bases.items())
    return (
        f"{schema_line(PARAMS_SCHEMA, depth=0)}"
        "# Base models, pinned: {path, sha256} or {hub, revision}; `varietal pin` prints an entry.\n"
        f"bases:{entries or ' {}'}\n"
        "# Revision of each kind's meaning; `varietal upgrade` raises them, which rebuilds the stages of that kind.\n"
        f"recipes:\n{recipes}"
        "# Settings for every stage of a kind, such as `sft: {train: {batch: 16}}`; a manifest may override them.\n"
        "defaults: {}\n"
    )
