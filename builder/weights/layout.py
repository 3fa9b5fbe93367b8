"""Writes model and adapter folders: sharded by component, canonical, with every unchanged file linked.

Shards are ordered as the network is: embeddings; of every layer the attention with its norm, then the MLP with its
norm; the final norm; the head; last, in one shard, tensors of no known component. A stage that changes attention only
leaves most files as they were, and DVC, pull and the store move only those that differ.

Every float that is written is looked at, a copied one too: NaN and infinities are refused by the tensor's name. A file
that is linked is taken as it is, and nothing in it is read.
"""

from __future__ import annotations

import os
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import torch

from builder.weights.dtypes import FLOATS, dtype_name
from builder.weights.folder import INDEX, ModelFolder, plain_file, read_model
from builder.weights.renamed import Renamed
from builder.weights.stream import CPU, Checked, Content, Held, Scratch, Stored, one_torch_thread
from registry.artifact import LISTING, Artifact
from registry.canonical import pretty
from registry.components import Network, Place
from registry.digest import digest_bytes
from registry.errors import InvalidError
from registry.safetensors import TensorSpec, Writer, WrittenFile, read_header
from registry.store import link

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from registry.canonical import JSON
    from registry.provenance import Provenance

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "rebuild_model",
    "rewrite_model",
    "shard_tensors",
    "write_adapter",
    "write_adapter_contents",
    "write_contents",
    "write_model",
    "write_new_model",
]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_MLP_SHARE = ("mlp", "router", "norm.mlp")
_UNORDERED = frozenset({"target_modules", "exclude_modules", "modules_to_save", "target_parameters", "layers_pattern"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    name: str
    contents: tuple[Content, ...]

    @property
    def size_bytes(self) -> int:
        return sum(content.spec.size_bytes for content in self.contents)


def write_model(
    out: Path, *, source: Path, replaced: Mapping[str, torch.Tensor], provenance: Provenance, threads: int = 0
) -> tuple[WrittenFile, ...]:
    """Write a model that differs from ``source`` in some tensors, given in memory.

    Shards without a replaced tensor are linked, the others rewritten in the dtypes of ``source``, rounded once. All
    other files are linked byte for byte.

    Args:
        out: Empty folder.
        source: Folder of an artifact.
        replaced: Name -> new values, of the same shape; of several names for one memory, those unknown to ``source``
            (a tied head) are left out.
        provenance: Goes into the metadata of rewritten shards.
        threads: How many files at once; 0 for one per core.

    Returns:
        The files whose digests are known: rewritten ones, and linked ones that the listing of ``source`` names.

    Raises:
        InvalidError: An unknown name, another shape, NaN or an infinity.
        OSError: A file cannot be read or written.
    """
    model = read_model(source)
    kept = _without_aliases(replaced, known=model.tensors)
    contents = {name: Held(spec=_spec_of(model, name, tensor), tensor=tensor) for name, tensor in kept.items()}
    return rewrite_model(out, model=model, changed=contents, provenance=provenance, threads=threads)


def rewrite_model(
    out: Path,
    *,
    model: ModelFolder,
    changed: Mapping[str, Content],
    provenance: Provenance,
    threads: int = 0,
    device: torch.device = CPU,
) -> tuple[WrittenFile, ...]:
    """Write a model that differs from ``model`` in the tensors of ``changed``, which are streamed.

    Args:
        out: Empty folder.
        model: The model to start from.
        changed: Name -> content; name, dtype and shape are those of the tensor that it takes the place of.
        provenance: Goes into the metadata of rewritten shards.
        threads: How many files at once; 0 for one per core.
        device: Where sums are made.

    Returns:
        The files whose digests are known, as :func:`write_model` does.

    Raises:
        InvalidError: A name, dtype or shape that ``model`` has not; NaN or an infinity in a file that is written.
        OSError: A file cannot be read or written.
    """
    for name, content in changed.items():
        _check_same(model, name, content.spec)
    jobs: list[_Shard] = []
    linked: list[str] = []
    for file, header in model.shards.items():
        if changed.keys().isdisjoint(header.tensors):
            linked.append(file)
        else:
            jobs.append(
                _Shard(name=file, contents=tuple(changed.get(name, model.tensors[name]) for name in header.tensors))
            )
    linked += [INDEX] if (model.path / INDEX).exists() else []
    linked += model.others
    for name in linked:
        link(plain_file(model.path, name), out / name)
    written = _write_shards(out, jobs, provenance.to_metadata(), threads, device)
    _prove(model, out, written)
    return (*written, *_known({name: model.path / name for name in linked}))


def rebuild_model(
    out: Path,
    *,
    model: ModelFolder,
    contents: Mapping[str, Content],
    files: Mapping[str, bytes],
    provenance: Provenance,
    others: Sequence[ModelFolder] = (),
    threads: int = 0,
) -> tuple[WrittenFile, ...]:
    """Write a model with other tensors than ``model`` has: some added, removed, renamed, reshaped or of another dtype.

    Shards and index are those of a new model. Where a shard holds just the tensors of one file of ``model``, or of one
    of ``others``, each as it lies there, that file is linked, maybe under another number.

    Args:
        out: Empty folder.
        model: The model to start from.
        contents: Name -> content, of every tensor; what stays is the very ``Stored`` of ``model``.
        files: Name -> bytes of the other files that change or are new; all else of ``model`` is linked byte for byte.
        provenance: Goes into the metadata of the shards that are written.
        others: More artifacts that contents come from.
        threads: How many files at once; 0 for one per core.

    Returns:
        The files whose digests are known, as :func:`write_model` does.

    Raises:
        InvalidError: A content cannot be had, or holds NaN or an infinity; of files that are linked nothing is read.
        OSError: A file cannot be read or written.
    """
    shards = _shards_of(contents)
    linked = {shard.name: file for shard in shards if (file := _file_of((model, *others), shard)) is not None}
    linked |= {name: model.path / name for name in model.others if name not in files}
    for name, source in linked.items():
        link(plain_file(source.parent, source.name), out / name)
    jobs = [shard for shard in shards if shard.name not in linked]
    written = _write_shards(out, jobs, provenance.to_metadata(), threads)
    plain = [_write_plain(out, name, data) for name, data in sorted(files.items())]
    return (*written, *plain, _write_index(out, shards), *_known(linked))


def write_new_model(
    out: Path,
    *,
    tensors: Mapping[str, torch.Tensor],
    files: Mapping[str, Path],
    provenance: Provenance,
    threads: int = 0,
) -> tuple[WrittenFile, ...]:
    """Write a new model from tensors in memory, in their own dtypes.

    Args:
        out: Empty folder.
        tensors: Name -> values; of several names for one memory the first in the network's order is written.
        files: Name in the folder -> file to link there: config, tokenizer and the like.
        provenance: Goes into the metadata of every shard.
        threads: How many files at once; 0 for one per core.

    Returns:
        The weights' files and their index.

    Raises:
        InvalidError: NaN or an infinity, or a dtype that cannot be stored.
        OSError: A file cannot be read or written.
    """
    kept = _without_aliases(tensors, known={})
    contents = {name: _held(name, tensor) for name, tensor in kept.items()}
    for name, path in files.items():
        link(path, out / name)
    return write_contents(out, contents=contents, provenance=provenance, threads=threads)


def write_contents(
    out: Path, *, contents: Mapping[str, Content], provenance: Provenance, threads: int = 0
) -> tuple[WrittenFile, ...]:
    """Write all weights of a new model, streamed, as component shards with their index.

    Returns:
        The weights' files and their index.

    Raises:
        InvalidError: A content cannot be had, or holds NaN or an infinity.
        OSError: A file cannot be read or written.
    """
    shards = _shards_of(contents)
    written = _write_shards(out, shards, provenance.to_metadata(), threads)
    return (*written, _write_index(out, shards))


def write_adapter(
    out: Path, *, tensors: Mapping[str, torch.Tensor], config: Mapping[str, object], provenance: Provenance
) -> tuple[WrittenFile, ...]:
    """Write an adapter as PEFT's two files.

    Args:
        out: Folder without these files.
        tensors: PEFT's names -> values, written in their own dtypes.
        config: PEFT's configuration; sets become sorted lists, and what names a place on this machine is left out.
        provenance: Goes into the metadata.

    Returns:
        Both files.

    Raises:
        InvalidError: NaN or an infinity, a dtype that cannot be stored, or a configuration that JSON cannot say.
        OSError: A file cannot be written.
    """
    contents = [_held(name, tensor) for name, tensor in tensors.items()]
    return write_adapter_contents(out, contents=contents, config=config, provenance=provenance)


def write_adapter_contents(
    out: Path, *, contents: Sequence[Content], config: Mapping[str, object], provenance: Provenance
) -> tuple[WrittenFile, ...]:
    """Write an adapter whose tensors are streamed, as :func:`write_adapter` does."""
    job = _Shard(name=ADAPTER_WEIGHTS, contents=tuple(contents))
    written = _write_shards(out, [job], provenance.to_metadata(), threads=1)
    return (*written, _write_plain(out, ADAPTER_CONFIG, pretty(_canonical_config(config))))


def shard_tensors(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Tensor names in groups, one for each shard, in the network's order; names sorted within a group."""
    ordered = sorted(names)
    network = Network.from_tensors(ordered)
    groups: dict[tuple[int, int, int], list[str]] = {}
    for name in ordered:
        groups.setdefault(_shard_key(network.places.get(name)), []).append(name)
    return tuple(tuple(groups[key]) for key in sorted(groups))


def _shards_of(contents: Mapping[str, Content]) -> list[_Shard]:
    """The shards of a new model, numbered in the network's order."""
    groups = shard_tensors(contents)
    return [
        _Shard(
            name=f"model-{number:05d}-of-{len(groups):05d}.safetensors",
            contents=tuple(contents[name] for name in group),
        )
        for number, group in enumerate(groups, start=1)
    ]


def _file_of(models: Iterable[ModelFolder], shard: _Shard) -> Path | None:
    """The file of a model that holds just what a shard does, each tensor as it is; ``None`` without one."""
    names = [content.spec.name for content in shard.contents]
    kept = [content for content in shard.contents if isinstance(content, Stored)]
    files = {content.path for content in kept}
    for model in models:
        if len(kept) == len(names) and all(model.tensors.get(content.info.name) == content for content in kept):
            file = files.pop()
            return None if files or model.shards[file.name].tensors.keys() != set(names) else file
    return None


def _held(name: str, tensor: torch.Tensor) -> Held:
    """A tensor in its own dtype."""
    return Held(spec=TensorSpec(name=name, dtype=dtype_name(tensor), shape=tuple(tensor.shape)), tensor=tensor)


def _shard_key(place: Place | None) -> tuple[int, int, int]:
    """Where a shard comes among the others: part of the network, layer, part of the layer."""
    if place is None:
        return (4, 0, 0)
    if place.layer is not None:
        in_mlp = any(place.is_in(component) for component in _MLP_SHARE)
        return (1, place.layer, int(in_mlp))
    if place.is_in("embedding"):
        return (0, 0, 0)
    return (3, 0, 0) if place.is_in("head") else (2, 0, 0)


def _spec_of(model: ModelFolder, name: str, tensor: torch.Tensor) -> TensorSpec:
    """What a tensor in memory is written as: the dtype of the model's tensor of that name, its own shape."""
    stored = model.tensors.get(name)
    own = dtype_name(tensor)
    dtype = stored.info.dtype if stored is not None and {stored.info.dtype, own} <= FLOATS else own
    return TensorSpec(name=name, dtype=dtype, shape=tuple(tensor.shape))


def _check_same(model: ModelFolder, name: str, spec: TensorSpec) -> None:
    stored = model.tensors.get(name)
    if stored is None:
        raise InvalidError(
            f"tensor {name!r} is not in the model", where=str(model.path), mend="give tensors by their names on disk"
        )
    if stored.spec != spec:
        raise InvalidError(
            f"tensor {name!r} is {spec.dtype} {list(spec.shape)}, "
            f"the model has {stored.info.dtype} {list(stored.info.shape)}",
            where=str(model.path),
            mend="give a tensor of the model's shape and kind of number",
        )


def _without_aliases(tensors: Mapping[str, torch.Tensor], *, known: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Of several names for the same memory only one: the one that is known, or the first in the network's order."""
    order = [name for group in shard_tensors(tensors) for name in group]
    order.sort(key=lambda name: name not in known)  # a stable sort: the network's order within both
    chosen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    unaliased: dict[str, torch.Tensor] = {}
    for name in order:
        tensor = tensors[name]
        memory = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() == 0 or chosen.setdefault(memory, name) == name:
            unaliased[name] = tensor
    return unaliased


def _write_shards(
    out: Path, jobs: Sequence[_Shard], metadata: Mapping[str, str], threads: int, device: torch.device = CPU
) -> tuple[WrittenFile, ...]:
    """Write files side by side, the largest first; each thread has buffers of its own."""
    if device.type == "cuda":
        # Its linear algebra is loaded by the first call, and that must not come from two threads (pytorch #90613).
        torch.linalg.inv(torch.eye(1, dtype=torch.float64, device=device))
    count = min(threads or _cores(), max(1, len(jobs)))
    scratches: queue.SimpleQueue[Scratch] = queue.SimpleQueue()
    for _ in range(count):
        scratches.put(Scratch(device=device))

    def write(job: _Shard) -> WrittenFile:
        scratch = scratches.get()
        try:
            return _write_shard(out / job.name, job, metadata, scratch)
        finally:
            scratches.put(scratch)

    with one_torch_thread(), ThreadPoolExecutor(count) as pool:
        written = list(pool.map(write, sorted(jobs, key=lambda job: (-job.size_bytes, job.name))))
    return tuple(sorted(written, key=lambda file: file.path))


def _write_shard(path: Path, job: _Shard, metadata: Mapping[str, str], scratch: Scratch) -> WrittenFile:
    contents = {content.spec.name: content for content in job.contents}
    with Writer(path, [content.spec for content in job.contents], metadata) as writer:
        for spec in writer.order:
            for block in _checked(contents[spec.name]).blocks(scratch):
                writer.write(block)
        return writer.finish()


def _checked(content: Content) -> Content:
    """What is only copied into a new file is looked at as what is computed is: it may hold no NaN and no infinity."""
    match content:
        case Stored():
            return Checked(stored=content)
        case Renamed():
            return replace(content, content=_checked(content.content))
        case _:
            return content


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _write_index(out: Path, shards: Iterable[_Shard]) -> WrittenFile:
    weight_map: dict[str, JSON] = {content.spec.name: shard.name for shard in shards for content in shard.contents}
    total: JSON = sum(shard.size_bytes for shard in shards)
    return _write_plain(out, INDEX, pretty({"metadata": {"total_size": total}, "weight_map": weight_map}))


def _write_plain(out: Path, name: str, data: bytes) -> WrittenFile:
    with (out / name).open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return WrittenFile(path=name, size_bytes=len(data), digest=digest_bytes(data))


def _prove(model: ModelFolder, out: Path, written: Iterable[WrittenFile]) -> None:
    """Read the headers back: each rewritten file has the names, dtypes and shapes that it had before."""
    for file in written:
        before, after = model.shards[file.path].tensors, read_header(out / file.path).tensors
        kinds = {name: (info.dtype, info.shape) for name, info in before.items()}
        if kinds != {name: (info.dtype, info.shape) for name, info in after.items()}:
            raise InvalidError(
                f"{file.path} was written with other tensors than it had",
                where=str(out),
                mend="report this: it is a fault of the program, and nothing was kept",
            )


def _known(linked: Mapping[str, Path]) -> tuple[WrittenFile, ...]:
    """What listings say on linked files, new name -> old file; those without one are hashed later."""
    folders = {file.parent for file in linked.values()}
    listings = {folder: Artifact.read(folder) for folder in folders if (folder / LISTING).exists()}
    listed = {(folder, file.path) for folder, artifact in listings.items() for file in artifact.files}
    return tuple(
        replace(listings[file.parent].written(file.name), path=name)
        for name, file in linked.items()
        if (file.parent, file.name) in listed
    )


def _canonical_config(config: Mapping[str, object]) -> dict[str, JSON]:
    """A PEFT configuration without anything random or local in it."""
    plain = {key: _plain_value(key, value) for key, value in config.items()}
    return plain | {"base_model_name_or_path": "", "revision": None, "auto_mapping": None, "inference_mode": True}


def _plain_value(key: str, value: object) -> JSON:
    if isinstance(value, Enum):
        return _plain_value(key, value.value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(name): _plain_value(f"{key}.{name}", one) for name, one in value.items()}
    if isinstance(value, set | frozenset | list | tuple):
        items = [_plain_value(key, one) for one in value]
        return sorted(items, key=str) if key in _UNORDERED or isinstance(value, set | frozenset) else items
    raise InvalidError(
        f"{key} is a {type(value).__name__}, which JSON cannot say", where=ADAPTER_CONFIG, mend="leave it out"
    )
