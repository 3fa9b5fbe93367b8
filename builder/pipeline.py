"""The graph -> the text of each variant's ``dvc.yaml``, byte-stable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.address import DataFile
from builder.pipeline_text import pipeline_text
from builder.places import beside_of, copy_of, folder_of
from builder.train_data import held_out
from registry.errors import InvalidError
from registry.record import BASES, curve_file, lock_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import PurePosixPath

    from builder.address import Address
    from builder.graph import Edge, Node
    from registry.canonical import JSON

__all__ = ["BASES_PIPELINE", "HEAD", "RECORDS", "ROOT_PIPELINE", "compile_variant", "pipeline_file", "pipelines"]

RECORDS = "records"
"""The last stage of every pipeline: it copies the records into git."""

ROOT_PIPELINE = """\
# Without stages here, a plain `dvc repro` at the root builds every pipeline in the tree.
stages: {}
"""

BASES_PIPELINE = """\
# One import for each entry of `bases:` in params.yaml.
vars:
- ../params.yaml:bases
stages:
  base:
    foreach: ${bases}
    do:
      wdir: ..
      cmd: varietal run bases ${key}
      params:
      - "bases.${key}"
      - recipes.import
      outs:
      - "bases/${key}"
      - "bases/${key}.json"
  records:
    foreach: ${bases}
    do:
      wdir: ..
      cmd: varietal run bases records ${key}
      deps:
      - "bases/${key}.json"
"""

HEAD = "# Made by `varietal compile` from model.yaml; edit that.\n"
"""First line of every pipeline file that was made from a manifest."""


def pipeline_file(variant: str) -> PurePosixPath:
    """Path of a variant's ``dvc.yaml``."""
    return lock_file(variant).with_name("dvc.yaml")


def pipelines(graph: Mapping[Address, Node]) -> dict[str, str]:
    """Every pipeline file of a repository, by path."""
    variants: dict[str, dict[Address, Node]] = {}
    for address, node in graph.items():
        variants.setdefault(address.variant, {})[address] = node
    names = sorted(variants.keys() - {BASES})
    texts = {str(pipeline_file(name)): compile_variant(name, variants[name]) for name in names}
    return {"dvc.yaml": ROOT_PIPELINE, str(pipeline_file(BASES)): BASES_PIPELINE} | texts


def compile_variant(variant: str, graph: Mapping[Address, Node]) -> str:
    """The text of one variant's ``dvc.yaml``.

    Raises:
        InvalidError: A path holds ``${``, which DVC would take for a variable.
    """
    nodes = [node for node in graph.values() if node.address.variant == variant]
    stages: dict[str, JSON] = {node.address.stage: _stage(node) for node in nodes}
    stages[RECORDS] = {
        "wdir": "../..",
        "cmd": f"varietal run {variant} {RECORDS}",
        "deps": [beside_of(node.address) for node in nodes],
    }
    home = f"{pipeline_file(variant).parent}/"
    metrics: JSON = [copy_of(node.address).removeprefix(home) for node in nodes]
    plots = [plot for node in nodes for plot in _plots(node, home)]
    document: dict[str, JSON] = {"stages": stages, "metrics": metrics}
    return HEAD + _dump(document | ({"plots": [*plots]} if plots else {}), variant)


def _plots(node: Node, home: str) -> list[JSON]:
    """The curves of a training, from its table in git: so `dvc plots diff` compares branches without any bytes."""
    if not hasattr(node.settings, "train"):
        return []
    address = node.address
    table = str(curve_file(address.variant, address.stage)).removeprefix(home)
    losses: JSON = "loss" if held_out(node.settings) is None else ["loss", "eval_loss"]
    curves = {"loss": losses, "learning rate": "learning_rate", "gradient norm": "gradient_norm"}
    return [
        {f"{address.stage} {name}": {"x": {table: "step"}, "y": {table: fields}}} for name, fields in curves.items()
    ]


def _stage(node: Node) -> dict[str, JSON]:
    address = node.address
    stage: dict[str, JSON] = {"wdir": "../..", "cmd": f"varietal run {address.variant} {address.stage}"}
    if deps := _unique(_dependency(edge) for edge in node.edges):
        stage["deps"] = [*deps]
    files = _unique(file for file, _ in node.params)
    stage["params"] = [{file: [key for other, key in node.params if other == file]} for file in files]
    stage["outs"] = [folder_of(address), beside_of(address)]
    return stage


def _dependency(edge: Edge) -> str:
    """A data file, or an artifact's folder; never its record, whose times differ from build to build."""
    if isinstance(edge.source, DataFile):
        return edge.source.path
    return folder_of(edge.source)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _dump(document: Mapping[str, JSON], variant: str) -> str:
    text = pipeline_text(document)
    if "${" in text:
        raise InvalidError(
            "a path holds '${', which DVC takes for a variable",
            where=str(pipeline_file(variant)),
            mend="rename the file",
        )
    return text
