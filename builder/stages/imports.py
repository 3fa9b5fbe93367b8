"""Kind ``import``: a model or an adapter made elsewhere, made canonical.

The weights are streamed into component shards, so no model is ever in memory; every float is checked. Files of known
use are passed on byte for byte, all others are left out. What would run code, or cannot be read safely, is refused.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

from builder.manifest import FolderAdapter, FolderBase, HubAdapter, HubBase
from builder.sources import MODEL_FILES, fetch_hub, open_folder
from builder.stage import Context, Outcome
from builder.stages.changes import Did, component_map
from builder.stages.templates import probe
from builder.weights.adapters import read_adapter
from builder.weights.family import SCORE, TIE, ties_words
from builder.weights.folder import CONFIG, INDEX, read_model, weight_files
from builder.weights.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, write_adapter_contents, write_contents
from builder.weights.pickled import BIN_INDEX, PICKLES, pickle_files, read_pickled
from builder.weights.quantisation import DEQUANTISED, quantisation
from builder.weights.site import Site
from builder.weights.stream import Checked, Scratch
from registry.canonical import decode
from registry.components import Network, spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.sources import Choose, Source
    from builder.weights.stream import Content
    from registry.canonical import JSON
    from registry.record import ComponentChange

__all__ = ["import_"]

ImportSettings: TypeAlias = FolderBase | HubBase | FolderAdapter | HubAdapter

_TEMPLATE = "chat_template.jinja"
_TEMPLATE_TABLES = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
_NAMED = 5  # how many of a list of names a note gives


def import_(context: Context[ImportSettings]) -> Outcome:
    """Bring in a base or an adapter from a pinned folder or a pinned commit of the Hub.

    Raises:
        NotFoundError: The source, or a file of it, is not there.
        DigestMismatchError: Its bytes are not those of the pin.
        InvalidError: It is quantised, needs code of its own, holds only pickles, NaN or tensors that contradict each
            other; its chat template is broken, reaches out of its sandbox or passes a limit; or an adapter does not fit
            the base that it names.
        DeniedError: The Hub does not let it be read.
        TransportError: The Hub does not answer as it should.
        MachineError: The process that tries the chat template could not be started, or was killed from outside.
        OSError: A file cannot be read or written.
    """
    if isinstance(context.settings, FolderAdapter | HubAdapter):
        return _import_adapter(context, _open(context, _choose_adapter))
    return _import_model(context, _open(context, _choose_model))


def _open(context: Context[ImportSettings], choose: Choose) -> Source:
    settings = context.settings
    if isinstance(settings, FolderBase | FolderAdapter):
        return open_folder(context.root, settings.path, settings.sha256, choose)
    return fetch_hub(context.work, settings.hub, settings.revision, context.say, choose)


# Models


def _import_model(context: Context[ImportSettings], source: Source) -> Outcome:
    config = _read_table(source, CONFIG)
    tensors, files = _tensors(source)
    alias, note = _tied_alias(tensors, config, source)
    kept = {name: content for name, content in tensors.items() if name != alias}
    network = Network.from_tensors({name: content.spec.shape for name, content in kept.items()})
    carried = [name for name in source.names if _is_carried(name)]
    for name in carried:
        # A copy: the source stays its owner's to edit, and an artifact's file never changes.
        shutil.copyfile(source.folder / name, context.out / name)
    context.say(f"import: {len(kept)} tensors of {len(files)} files")
    provenance = Provenance(
        kind="import",
        method="model",
        components=tuple(sorted(network.components)),
        layers=_layers(network),
    )
    written = write_contents(context.out, contents=kept, provenance=provenance, threads=context.runner.threads)
    notes = (
        note,
        _quantised(config),
        _left_out(source, {*carried, *files, INDEX, BIN_INDEX}),
        _list("tensors of no known component", network.unknown),
    )
    return Outcome(type="model", written=written, components=_added(network), notes=tuple(filter(None, notes)))


def _tensors(source: Source) -> tuple[dict[str, Content], tuple[str, ...]]:
    """Every tensor of a model, and the names of the files that they lie in."""
    if pickles := tuple(name for name in source.names if name.endswith(PICKLES)):
        return {**read_pickled(source.folder, pickles)}, pickles
    model = read_model(source.folder)
    return {name: Checked(stored=stored) for name, stored in model.tensors.items()}, tuple(model.shards)


def _quantised(config: Mapping[str, JSON]) -> str:
    """A note on a quantised model; empty for all others."""
    method = quantisation(config)
    return f"the model is quantised ({method}): cast it to 16 bits before it is folded into" if method else ""


def _is_carried(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def _choose_model(source: Source) -> Sequence[str]:
    """Names of the weights' files, once nothing speaks against the model; only small files are read."""
    config = _read_table(source, CONFIG)
    method = quantisation(config)
    if method and method not in DEQUANTISED:
        raise InvalidError(
            f"the model is quantised ({method}); its weights cannot be folded or trained on as they are",
            where=f"{source.where}/{CONFIG}",
            mend="import the 16-bit model that it was made from",
        )
    _refuse_code(source, CONFIG, config)
    if "tokenizer_config.json" in source.names:
        _refuse_code(source, "tokenizer_config.json", _read_table(source, "tokenizer_config.json"))
    for where, template in _templates(source):
        probe(template, where=where)
    return _weights(source)


def _weights(source: Source) -> Sequence[str]:
    """Names of the files to read the weights from: safetensors where there are any, else pickles."""
    if any(name.endswith(".safetensors") for name in source.names):
        return weight_files(source.folder, source.names)
    if pickles := pickle_files(source.folder, (*source.names, *source.left_out)):
        return pickles
    if foreign := [path for path in source.left_out if path.endswith((".gguf", ".msgpack", ".h5", ".onnx", ".npz"))]:
        raise InvalidError(
            f"the weights are in another format ({_list('', foreign)})",
            where=source.where,
            mend="import the model in safetensors, or as torch's .bin files",
        )
    _refuse_pickles(source, "safetensors, and pytorch_model.bin with its shards,")
    return weight_files(source.folder, source.names)


def _refuse_pickles(source: Source, read: str) -> None:
    """Where there are no weights that are read, there may be pickles of other names."""
    if pickles := [path for path in source.left_out if path.endswith(PICKLES)]:
        raise InvalidError(
            f"the weights are pickles ({_list('', pickles)}); only {read} are read",
            where=source.where,
            mend="load it where you trust it, save it with `save_pretrained` as safetensors, and import that folder",
        )


def _refuse_code(source: Source, name: str, config: Mapping[str, JSON]) -> None:
    if "auto_map" in config:
        raise InvalidError(
            "auto_map asks for code of the model's own, which is never run",
            where=f"{source.where}/{name}",
            mend="use a model that transformers knows by itself",
        )


def _templates(source: Source) -> Iterable[tuple[str, str]]:
    """Each chat template that comes along, with the place it stands in."""
    if _TEMPLATE in source.names:
        where = f"{source.where}/{_TEMPLATE}"
        try:
            yield where, (source.folder / _TEMPLATE).read_bytes().decode()
        except UnicodeDecodeError as error:
            raise InvalidError(
                f"the chat template is not UTF-8: {error.reason}",
                where=where,
                mend="save it as UTF-8, or leave it out",
            ) from error
    for name in _TEMPLATE_TABLES:
        if name not in source.names:
            continue
        value = _read_table(source, name).get("chat_template")
        # One text, or a list of tables with a name and a text each.
        for entry in value if isinstance(value, list) else [value]:
            template = entry.get("template") if isinstance(entry, dict) else entry
            if isinstance(template, str):
                yield f"{source.where}/{name}", template


def _read_table(source: Source, name: str) -> Mapping[str, JSON]:
    where = f"{source.where}/{name}"
    if name not in source.names:
        raise InvalidError(f"there is no {name}", where=where, mend="import a Hugging Face model folder")
    value = decode((source.folder / name).read_bytes(), where=where)
    if not isinstance(value, dict):
        raise InvalidError("not a table", where=where, mend="import a Hugging Face model folder")
    return value


def _tied_alias(tensors: Mapping[str, Content], config: Mapping[str, JSON], source: Source) -> tuple[str, str]:
    """Name of a head that is stored although it is tied to the embedding, and a note on it; empty without one."""
    network = Network.from_tensors(tuple(tensors))
    by_component = {network.component_of(name): name for name in tensors if name.endswith(".weight")}
    head, embedding = by_component.get("head", ""), by_component.get("embedding.token", "")
    if not head or not embedding or head == SCORE or not ties_words(config):
        return "", ""
    if not _are_equal(tensors[head], tensors[embedding]):
        said = "says" if TIE in config else f"is left out, which for {config.get('model_type')} says"
        raise InvalidError(
            f"{head!r} and {embedding!r} differ, but {TIE} {said} that they are one",
            where=f"{source.where}/{CONFIG}",
            mend="set tie_word_embeddings to false if the head has weights of its own, else remove the head",
        )
    return head, f"{head} is tied to {embedding} and stored once"


def _are_equal(one: Content, other: Content) -> bool:
    if (one.spec.dtype, one.spec.shape) != (other.spec.dtype, other.spec.shape):
        return False
    ours, theirs = one.blocks(Scratch()), other.blocks(Scratch())
    return all(a == b for a, b in zip(ours, theirs, strict=True))


# Adapters


def _import_adapter(context: Context[ImportSettings], source: Source) -> Outcome:
    base = context.one("base")
    if base.weights_digest is None:
        raise InvalidError("the base holds no tensors", where=base.source, mend="name a model")
    adapter = read_adapter(source.folder)
    network = Network.from_tensors(tuple(Site.of(adapter, read_model(base.path)).effects()))
    provenance = Provenance(
        kind="import",
        method="adapter",
        components=tuple(sorted(network.components)),
        layers=_layers(network),
        inputs=(ProvenanceInput(role="base", weights_digest=base.weights_digest),),
    )
    contents = [Checked(stored=stored) for stored in adapter.tensors]
    written = write_adapter_contents(
        context.out, contents=contents, config=adapter.config.values, provenance=provenance
    )
    note = _left_out(source, {ADAPTER_CONFIG, ADAPTER_WEIGHTS})
    return Outcome(type="adapter", written=written, components=_added(network), notes=(note,) if note else ())


def _choose_adapter(source: Source) -> Sequence[str]:
    if ADAPTER_WEIGHTS not in source.names:
        _refuse_pickles(source, "safetensors")
    _read_table(source, ADAPTER_CONFIG)
    return (ADAPTER_WEIGHTS,)


# Both


def _added(network: Network) -> tuple[ComponentChange, ...]:
    return component_map(network, dict.fromkeys(network.names, Did("added", "import")))


def _left_out(source: Source, taken: set[str]) -> str:
    return _list("left out", sorted({*source.names, *source.left_out} - taken))


def _layers(network: Network) -> str:
    return spell_layers(place.layer for place in network.places.values() if place.layer is not None)


def _list(word: str, names: Sequence[str]) -> str:
    """``word: a, b and 3 more``; empty without names."""
    if not names:
        return ""
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{word}: {', '.join(names[:_NAMED])}{rest}".removeprefix(": ")
