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
from builder.stages.templates import probe
from builder.weights.adapters import read_adapter
from builder.weights.folder import CONFIG, INDEX, read_model, weight_files
from builder.weights.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, write_adapter_contents, write_contents
from builder.weights.site import Site
from builder.weights.stream import Checked, Scratch
from registry.canonical import decode
from registry.components import Network, spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import ComponentChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.sources import Choose, Source
    from builder.weights.folder import ModelFolder
    from builder.weights.stream import Stored
    from registry.canonical import JSON

__all__ = ["import_"]

ImportSettings: TypeAlias = FolderBase | HubBase | FolderAdapter | HubAdapter

_SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
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
    model = read_model(source.folder)
    alias, note = _tied_alias(model, source)
    kept = {name: Checked(stored=stored) for name, stored in model.tensors.items() if name != alias}
    network = Network.from_tensors({name: content.spec.shape for name, content in kept.items()})
    carried = [name for name in source.names if _is_carried(name)]
    for name in carried:
        # A copy: the source stays its owner's to edit, and an artifact's file never changes.
        shutil.copyfile(source.folder / name, context.out / name)
    context.say(f"import: {len(kept)} tensors of {len(model.shards)} files")
    provenance = Provenance(
        kind="import",
        method="model",
        components=tuple(sorted(network.components)),
        layers=_layers(network),
    )
    written = write_contents(context.out, contents=kept, provenance=provenance, threads=context.runner.threads)
    notes = (
        note,
        _left_out(source, {*carried, *model.shards, INDEX}),
        _list("tensors of no known component", network.unknown),
    )
    return Outcome(type="model", written=written, components=_added(network), notes=tuple(filter(None, notes)))


def _is_carried(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def _choose_model(source: Source) -> Sequence[str]:
    """Names of the weights' files, once nothing speaks against the model; only small files are read."""
    _refuse_pickles(source, (_SINGLE, INDEX))
    config = _read_table(source, CONFIG)
    if "quantization_config" in config:
        method = config["quantization_config"]
        name = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
        raise InvalidError(
            f"the model is quantised ({name}); its weights cannot be folded or trained on as they are",
            where=f"{source.where}/{CONFIG}",
            mend="import the 16-bit model that it was made from",
        )
    _refuse_code(source, CONFIG, config)
    if "tokenizer_config.json" in source.names:
        _refuse_code(source, "tokenizer_config.json", _read_table(source, "tokenizer_config.json"))
    for where, template in _templates(source):
        probe(template, where=where)
    return weight_files(source.folder, source.names)


def _refuse_pickles(source: Source, wanted: Sequence[str]) -> None:
    """Without safetensors there may be pickles; a pickle runs what it likes, so none is loaded."""
    pickles = [path for path in source.left_out if path.endswith(_PICKLES)]
    if pickles and not set(wanted) & set(source.names):
        raise InvalidError(
            f"the weights are pickles ({_list('', pickles)}); only safetensors are read",
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


def _tied_alias(model: ModelFolder, source: Source) -> tuple[str, str]:
    """Name of a head that is stored although it is tied to the embedding, and a note on it; empty without one."""
    by_component = {model.network.component_of(name): name for name in model.tensors if name.endswith(".weight")}
    head, embedding = by_component.get("head", ""), by_component.get("embedding.token", "")
    if not head or not embedding or model.config().get("tie_word_embeddings") is not True:
        return "", ""
    if not _are_equal(model.tensors[head], model.tensors[embedding]):
        raise InvalidError(
            f"{head!r} and {embedding!r} differ, but tie_word_embeddings says that they are one",
            where=f"{source.where}/{CONFIG}",
            mend="set tie_word_embeddings to false if the head has weights of its own, else remove the head",
        )
    return head, f"{head} is tied to {embedding} and stored once"


def _are_equal(one: Stored, other: Stored) -> bool:
    if (one.info.dtype, one.info.shape) != (other.info.dtype, other.info.shape):
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
    _refuse_pickles(source, (ADAPTER_WEIGHTS,))
    _read_table(source, ADAPTER_CONFIG)
    return (ADAPTER_WEIGHTS,)


# Both


def _added(network: Network) -> tuple[ComponentChange, ...]:
    return tuple(
        ComponentChange(
            component=count.component, change="added", layers=count.layers, tensors=count.tensors, by="import"
        )
        for count in network.count(network.names)
    )


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
