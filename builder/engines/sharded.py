"""Training with every weight in parts, one a rank (FSDP2): how the trainer is told, and how the weights come out again.

No rank ever holds the whole model on its device: weights are opened in the host's memory, and each rank takes its part
of one layer after the other. After the training each rank writes its parts, and the first reads them back tensor by
tensor, while it writes the artifact.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import MixedPrecisionPolicy

from builder.engines.ranks import is_first, wait_for_all
from builder.ranks import RANKS_FOLDER
from builder.weights.dtypes import FLOATS, dtype_name
from builder.weights.stream import Held
from registry.errors import MachineError
from registry.safetensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch.distributed.checkpoint.metadata import Metadata

    from builder.engines.job import Job
    from builder.weights.folder import ModelFolder
    from builder.weights.stream import Scratch, Stored

__all__ = ["Part", "as_stored", "keep", "prepare_sharding", "sharding_arguments"]

_WEIGHTS: Final = "weights"


def sharding_arguments(job: Job) -> dict[str, Any]:
    """What a transformers trainer is told of sharding; nothing where each rank has the whole model."""
    if job.split.sharding == "none":
        return {}
    return {
        "fsdp": True,
        "fsdp_config": {"version": 2, "reshard_after_forward": True, "state_dict_type": "SHARDED_STATE_DICT"},
        # Else the gradients of all micro-batches are kept whole on every rank until the last.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def prepare_sharding(trainer: Any, job: Job) -> None:  # noqa: ANN401 - transformers has no types
    """See that the trainer will share the weights, and sum gradients over the ranks in float32, as without sharding.

    Raises:
        MachineError: The device does not do.
    """
    if job.split.sharding == "none":
        return
    if not trainer.accelerator.is_fsdp2:
        raise MachineError(
            f"weights cannot be had in parts on {job.device.name}",
            where=".varietal/runner.yaml: sharding",
            mend="write `sharding: none`; with a checkpoint there already, remove the stage's folder in .varietal/work",
        )
    if job.training.precision == "float32":
        return
    # Accelerate would sum them in 16 bits.
    trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32
    )


class _Reader(FileSystemReader):
    """Reads the listing of the parts once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._listing: Metadata | None = None

    def read_metadata(self, *arguments: Any, **named: Any) -> Metadata:  # noqa: ANN401 - as its parent
        if self._listing is None:
            self._listing = super().read_metadata(*arguments, **named)
        return self._listing


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A tensor whose parts the ranks wrote, given as a content to be written, in the dtype of ``spec``.

    Attributes:
        spec: Name, dtype and shape that it is written with.
        dtype: What its parts are of.
        reader: Reads them.
        lock: One tensor is read at a time.
    """

    spec: TensorSpec
    dtype: torch.dtype
    reader: _Reader
    lock: threading.Lock

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return self.spec.shape

    def load(self) -> torch.Tensor:
        """The whole tensor, on the processor.

        Raises:
            OSError: A part cannot be read.
        """
        found = {self.spec.name: torch.empty(self.spec.shape, dtype=self.dtype)}
        with self.lock:
            load(found, storage_reader=self.reader, no_dist=True)
        return found[self.spec.name]

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes, rounded block by block.

        Raises:
            InvalidError: The tensor holds NaN or an infinity, or its values do not fit the dtype.
            OSError: A part cannot be read.
        """
        return Held(spec=self.spec, tensor=self.load()).blocks(scratch)


def keep(model: Any, folder: Path) -> dict[str, Part]:  # noqa: ANN401 - transformers has no types
    """Write each rank's parts of what was trained; called by all ranks.

    Args:
        model: The module tree, sharded.
        folder: Folder of the checkpoints.

    Returns:
        Name -> where its parts are, in the dtypes that they have.

    Raises:
        OSError: A part cannot be written.
    """
    place = folder / RANKS_FOLDER / _WEIGHTS
    if is_first():
        shutil.rmtree(place, ignore_errors=True)
    wait_for_all()
    trained = {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}
    save(trained, storage_writer=FileSystemWriter(str(place)))
    reader, lock = _Reader(place), threading.Lock()
    listed = reader.read_metadata().state_dict_metadata
    found: dict[str, Part] = {}
    for name in trained:
        entry = listed[name]
        assert isinstance(entry, TensorStorageMetadata)  # noqa: S101 - each is a tensor's
        dtype, shape = entry.properties.dtype, tuple(entry.size)
        spec = TensorSpec(name=name, dtype=dtype_name(torch.empty(0, dtype=dtype)), shape=shape)
        found[name] = Part(spec=spec, dtype=dtype, reader=reader, lock=lock)
    return found


def as_stored(kept: Mapping[str, Part], model: ModelFolder) -> dict[str, Part]:
    """The same, to be written in the dtypes of a model's folder."""
    return {name: _in_dtype_of(one, model.tensors.get(name)) for name, one in kept.items()}


def _in_dtype_of(kept: Part, stored: Stored | None) -> Part:
    if stored is None or not {stored.info.dtype, kept.spec.dtype} <= FLOATS:
        return kept
    return replace(kept, spec=replace(kept.spec, dtype=stored.info.dtype))
