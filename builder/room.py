"""How large the artifact of a stage may become, by its settings and the listings of its inputs. No torch.

An upper bound where that is easy: what is linked in the end takes no room, and is counted all the same. It is none for
a `fuse` of adapters that are no LoRA or with `energy`, and for an `extract` with `energy`: how many ranks those have,
only their numbers tell. Checkpoints of a training are not counted.
"""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Final, TypeAlias

from builder.manifest import (
    BlendStage,
    CastStage,
    EvaluateStage,
    ExtractStage,
    FolderAdapter,
    FolderBase,
    FuseStage,
    GraftStage,
    PretrainStage,
)
from builder.train_stages import TrainStage
from registry.components import Network, layer_of
from registry.errors import MachineError
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.graph import ImportSource
    from builder.manifest import Stage
    from builder.settings import NetworkSettings
    from builder.stage import Input
    from registry.artifact import Artifact, TensorEntry

__all__ = ["artifact_bytes", "check_room"]

_Given: TypeAlias = "tuple[str, Artifact]"  # role and listing of an input

_DTYPES: Final = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_FLOATS: Final = frozenset({"F16", "BF16", "F32", "F64"})
_PACKED: Final = {"U8": 2, "I8": 1}  # numbers in a byte of a 4- and of an 8-bit weight
_FACTOR_BYTES: Final = 4  # adapters are written in float32
_TOKEN_BYTES: Final = 128  # of a token in all files of a tokenizer
_VOCABULARY: Final = ("embedding.token", "head")
_SPARE_BYTES: Final = 64 << 20


def artifact_bytes(settings: Stage | ImportSource, inputs: Sequence[Input], root: Path) -> int:
    """Bytes that the artifact of a stage may take.

    Args:
        settings: The stage's table, or the source of an import.
        inputs: Its inputs; data has no listing and counts for nothing.
        root: Root of the repository.

    Raises:
        OSError: The folder of an import cannot be read.
    """
    given = [(one.role, one.artifact) for one in inputs if one.artifact is not None]
    match settings:
        case FolderBase() | FolderAdapter():
            return sum(path.stat().st_size for path in (root / settings.path).glob("*") if path.is_file())
        case PretrainStage(network=network) if network is not None:
            return _network(network, settings.tokenizer.vocabulary)
        case _ if isinstance(settings, TrainStage | PretrainStage):
            return _trained(settings, given)
        case EvaluateStage():
            return 0
        case _:
            return _computed(settings, given)


def check_room(root: Path, settings: Stage | ImportSource, inputs: Sequence[Input]) -> None:
    """Refuse before anything heavy is loaded where the disk is too small for what may come out.

    Args:
        root: Root of the repository.
        settings: The stage's table, or the source of an import.
        inputs: Its inputs.

    Raises:
        MachineError: There is less room than that.
    """
    needed = artifact_bytes(settings, inputs, root) + _SPARE_BYTES
    free = shutil.disk_usage(root).free
    if free < needed:
        raise MachineError(
            f"{free} bytes are free, the stage may need {needed}",
            where=str(root / ".varietal"),
            mend="make room (`dvc gc --workspace` removes what no pipeline names), then run again",
        )


def _trained(settings: TrainStage | PretrainStage, given: Sequence[_Given]) -> int:
    if settings.adapter is not None:
        numbers = [settings.adapter.saved(_shapes(artifact)) for _, artifact in given]
        return _FACTOR_BYTES * max(numbers, default=0)
    return max((_widened(artifact) for role, artifact in given if role == "from"), default=0)


def _computed(settings: Stage | ImportSource, given: Sequence[_Given]) -> int:
    """What is made of weights alone, or brought in; where nothing else is known, at most the largest input."""
    artifacts = [artifact for _, artifact in given]
    match settings:
        case FuseStage():
            return _fused(settings, given)
        case BlendStage():
            return _blended(artifacts, settings)
        case ExtractStage() if settings.energy is None:
            sizes = [_factors(artifact, settings.rank) + _vectors(artifact) for artifact in artifacts]
        case CastStage():
            sizes = [_cast(artifact, _DTYPES[settings.dtype]) for artifact in artifacts]
        case GraftStage():
            sizes = [_grafted(artifact, settings) for artifact in artifacts]
        case _:
            sizes = [artifact.size_bytes for artifact in artifacts]
    return max(sizes, default=0)


def _network(network: NetworkSettings, vocabulary: int) -> int:
    """A new network and its tokenizer."""
    width = network.hidden_size
    inner = network.intermediate_size or 4 * width
    layer = 4 * width * width + 3 * width * inner + 16 * width + inner  # the last two: biases and norms
    tables = vocabulary * (1 if network.tie_embeddings else 2) + network.context + 2
    size = DTYPE_BYTES[_DTYPES[network.dtype]]
    return (network.layers * layer + tables * width) * size + vocabulary * _TOKEN_BYTES


def _widened(artifact: Artifact) -> int:
    """What goes on training: a model in the dtypes that it has, an adapter in float32 at least."""
    if artifact.type != "adapter":
        return artifact.size_bytes
    return _beside(artifact) + sum(math.prod(one.shape) * max(_FACTOR_BYTES, _size(one)) for one in artifact.tensors)


def _fused(settings: FuseStage, given: Sequence[_Given]) -> int:
    """The factors side by side; what was thinned out has any rank, up to the one asked for."""
    together = sum(_widened(artifact) for role, artifact in given if role == "adapter")
    if settings.method in {"concat", "linear"}:
        return together
    return max(together, *(_factors(artifact, settings.rank) for role, artifact in given if role != "adapter"), 0)


def _factors(artifact: Artifact, rank: int) -> int:
    """Two factors for every matrix of a model, of this rank or the most that it can have, in float32."""
    return sum(min(rank, *sides) * sum(sides) * _FACTOR_BYTES for sides in _matrices(artifact))


def _matrices(artifact: Artifact) -> list[tuple[int, int]]:
    """Rows and columns; stacked matrices are one tall matrix."""
    return [(math.prod(one.shape[:-1]), one.shape[-1]) for one in artifact.tensors if len(one.shape) > 1]


def _shapes(artifact: Artifact) -> list[tuple[int, ...]]:
    """Of matrices as above, and of vectors."""
    vectors = [(math.prod(one.shape),) for one in artifact.tensors if len(one.shape) <= 1]
    return [*_matrices(artifact), *vectors]


def _vectors(artifact: Artifact) -> int:
    """What no factors can hold, saved whole."""
    return sum(_bytes(one) for one in artifact.tensors if len(one.shape) <= 1)


def _cast(artifact: Artifact, dtype: str) -> int:
    """Every float in the wider of both dtypes, and every packed number as a float."""
    wider = DTYPE_BYTES[dtype]

    def size(one: TensorEntry) -> int:
        if one.dtype in _PACKED:
            return math.prod(one.shape) * _PACKED[one.dtype] * wider
        return math.prod(one.shape) * max(wider, _size(one)) if one.dtype in _FLOATS else _bytes(one)

    return _beside(artifact) + sum(map(size, artifact.tensors))


def _grafted(artifact: Artifact, settings: GraftStage) -> int:
    """Layers as often as they are named, and tables with the rows that may come."""
    every = max((layer for one in artifact.tensors if (layer := layer_of(one.name)) is not None), default=-1) + 1
    chosen = [layer for text in settings.layers for layer in _span(text)] or list(range(every))
    uses = {layer: chosen.count(layer) for layer in set(chosen)}
    kept = sum(
        _bytes(one) * uses.get(layer, 0) for one in artifact.tensors if (layer := layer_of(one.name)) is not None
    )
    outside = sum(_bytes(one) for one in artifact.tensors if layer_of(one.name) is None)
    words, rows = settings.vocabulary, 0
    if words is not None:
        rows = len(words.tokens) + len(words.special) + words.multiple
    tables, positions = _within(artifact, *_VOCABULARY), _within(artifact, "embedding.position")
    new = sum(rows * _row(one) for one in tables) + sum(settings.context * _row(one) for one in positions)
    if settings.untie:
        new += sum(_bytes(one) + rows * _row(one) for one in tables)
    if settings.head is not None:
        new += max(1, len(settings.head.labels)) * max((_row(one) for one in tables), default=0)
    return _beside(artifact) + outside + kept + new + rows * _TOKEN_BYTES


def _blended(artifacts: Sequence[Artifact], settings: BlendStage) -> int:
    """The largest model, in the wider dtype, with as many layers as are named and every model's own tokens."""
    dtype = _DTYPES.get(settings.dtype, "")

    def size(one: TensorEntry) -> int:
        return math.prod(one.shape) * DTYPE_BYTES[dtype] if dtype and one.dtype in _FLOATS else _bytes(one)

    total = max((_beside(artifact) + sum(map(size, artifact.tensors)) for artifact in artifacts), default=0)
    if settings.layers:
        layers: dict[tuple[int, int], int] = {}
        for number, artifact in enumerate(artifacts):
            for one in artifact.tensors:
                if (layer := layer_of(one.name)) is not None:
                    layers[number, layer] = layers.get((number, layer), 0) + size(one)
        outside = max(
            (
                _beside(one) + sum(size(each) for each in one.tensors if layer_of(each.name) is None)
                for one in artifacts
            ),
            default=0,
        )
        count = sum(max(len(_span(text)) for text in entry.values()) for entry in settings.layers)
        total = outside + count * max(layers.values(), default=0)
    if settings.tokenizer == "union":
        total += sum(size(one) for artifact in artifacts for one in _within(artifact, *_VOCABULARY))
        total += sum(map(_beside, artifacts))
    return total


def _span(text: str) -> range:
    """The layers of a range such as ``0-15``; none where it runs backwards."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _within(artifact: Artifact, *components: str) -> list[TensorEntry]:
    network = Network.from_shapes({one.name: one.shape for one in artifact.tensors})
    return [one for one in artifact.tensors if network.component_of(one.name) in components]


def _row(one: TensorEntry) -> int:
    return math.prod(one.shape[1:]) * _size(one)


def _bytes(one: TensorEntry) -> int:
    return math.prod(one.shape) * _size(one)


def _size(one: TensorEntry) -> int:
    return DTYPE_BYTES[one.dtype]


def _beside(artifact: Artifact) -> int:
    """All that is no tensor: configuration, tokenizer, headers."""
    return max(0, artifact.size_bytes - sum(map(_bytes, artifact.tensors)))
