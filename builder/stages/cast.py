"""Kind ``cast``: a model in another dtype, each number rounded once; a 4- or 8-bit model as what it stands for.

Of what each component lost by it the record has two figures, as metrics that a check may bound: ``relative_rms`` (the
root mean square of the differences, divided by that of the numbers before) and ``largest_error``, for all floats that
were cast and, with the component's name behind, for each component (``relative_rms_attention-query``).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from builder.environment import prepare
from builder.stage import Context, Outcome
from builder.stages.changes import KEPT, Did, component_map
from builder.stages.pedigree import digest_of
from builder.weights.dtypes import DTYPES_BY_NAME, FLOATS, with_dtype
from builder.weights.folder import CONFIG, read_model
from builder.weights.layout import rebuild_model
from builder.weights.quantisation import quantisation
from builder.weights.quantised import read_quantised
from builder.weights.recast import Loss, Recast
from builder.weights.values import StoredValues
from registry.canonical import pretty
from registry.components import Network, layer_of, spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.stage import Input
    from builder.weight_stages import CastStage
    from builder.weights.folder import ModelFolder
    from builder.weights.stream import Content, Stored
    from registry.canonical import JSON
    from registry.record import ComponentChange
    from registry.selector import Selector

__all__ = ["cast"]

_QUANTISATION: Final = "quantization_config"
_DIGITS: Final = 6  # of a metric: more would tell the machine's order of summing, not the model


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What is to be cast.

    Attributes:
        kept: Name -> tensor that stays as it is.
        recast: Name -> tensor that does not.
        dequantised: Names of those that were quantised.
        kind: What they were quantised to; empty where none was.
    """

    kept: Mapping[str, Stored]
    recast: Mapping[str, Recast]
    dequantised: frozenset[str] = frozenset()
    kind: str = ""


def cast(context: Context[CastStage]) -> Outcome:
    """Store a model's floats, or those of some components, in another dtype.

    Raises:
        InvalidError: A number that the dtype cannot hold, NaN or an infinity, targets of a quantised model or without a
            float, or a model quantised by another method than bitsandbytes.
        MachineError: The runner asks for a GPU and there is none.
        OSError: A file cannot be read or written.
    """
    device = prepare(context.runner, gain="none")
    settings, base = context.settings, context.one("from")
    model = read_model(base.path)
    dtype = DTYPES_BY_NAME[settings.dtype]
    if quantisation(model.config()):
        plan = _dequantise(model, dtype, settings.targets, base.source)
    else:
        plan = _plan(model, dtype, settings.targets, base.source)
    contents: dict[str, Content] = {**plan.kept, **plan.recast}
    context.say(f"cast: {len(plan.recast)} of {len(contents)} tensors to {settings.dtype}")
    whole = all(content.spec.dtype == dtype for content in contents.values() if content.spec.dtype in FLOATS)
    config = _config(model.config(), settings.dtype if whole else "", dequantised=bool(plan.kind))
    network = Network.from_tensors(contents)
    written = rebuild_model(
        context.out,
        model=model,
        contents=contents,
        files={} if config == model.config() else {CONFIG: pretty(config)},
        provenance=_provenance(base, plan, network, settings.dtype),
        threads=context.runner.threads,
    )
    return Outcome(
        type="model",
        written=written,
        components=_changes(network, plan),
        metrics=_metrics(network, plan.recast),
        device=device.name,
        notes=_notes(plan, settings.dtype, whole=whole),
    )


def _plan(model: ModelFolder, dtype: str, targets: Selector | None, where: str) -> _Plan:
    chosen = set(model.tensors) if targets is None else set(model.network.select(targets))
    floats = {name: stored for name, stored in model.tensors.items() if name in chosen and stored.info.dtype in FLOATS}
    eight = [name for name in sorted(chosen) if model.tensors[name].info.dtype.startswith("F8")]
    if eight:
        raise InvalidError(
            f"{eight[0]!r} is {model.tensors[eight[0]].info.dtype}: without its scale it says nothing",
            where=where,
            mend="start from the 16-bit model that it was made from",
        )
    if not floats:
        raise InvalidError(
            f"none of the {len(chosen)} tensors chosen holds floats", where=where, mend="choose other `targets`"
        )
    recast = {
        name: Recast(values=StoredValues(stored=stored), dtype=dtype)
        for name, stored in floats.items()
        if stored.info.dtype != dtype
    }
    kept = {name: stored for name, stored in model.tensors.items() if name not in recast}
    return _Plan(kept=kept, recast=recast)


def _dequantise(model: ModelFolder, dtype: str, targets: Selector | None, where: str) -> _Plan:
    if targets is not None:
        raise InvalidError(
            "the model is quantised, and only all of it can be dequantised",
            where=where,
            mend="leave `targets` out; a second stage of kind cast may have them",
        )
    quantised = read_quantised(model, where=where)
    values = dict(quantised.values)
    kept: dict[str, Stored] = {}
    for name, stored in quantised.plain.items():
        if stored.info.dtype in FLOATS and stored.info.dtype != dtype:
            values[name] = StoredValues(stored=stored)
        else:
            kept[name] = stored
    return _Plan(
        kept=kept,
        recast={name: Recast(values=one, dtype=dtype) for name, one in values.items()},
        dequantised=frozenset(quantised.values),
        kind=quantised.kind,
    )


def _config(config: Mapping[str, JSON], dtype: str, *, dequantised: bool) -> dict[str, JSON]:
    """The configuration, without its quantisation where that was undone.

    Args:
        config: As it was.
        dtype: What all floats are now, to be said wherever a dtype is, also for the parts of a model; empty where they
            are not all the same.
        dequantised: Whether they were quantised before.
    """
    said = {key: value for key, value in config.items() if not (dequantised and key == _QUANTISATION)}
    return with_dtype(said, dtype) if dtype else said


def _provenance(base: Input, plan: _Plan, network: Network, dtype: str) -> Provenance:
    return Provenance(
        kind="cast",
        method=f"{plan.kind}+{dtype}" if plan.kind else dtype,
        components=tuple(sorted({network.component_of(name) for name in plan.recast})),
        layers=spell_layers(layer for name in plan.recast if (layer := layer_of(name)) is not None),
        inputs=(ProvenanceInput(role="from", weights_digest=digest_of(base)),),
    )


def _changes(network: Network, plan: _Plan) -> tuple[ComponentChange, ...]:
    done = dict.fromkeys(network.names, KEPT) | dict.fromkeys(plan.recast, Did("cast", "cast"))
    return component_map(network, done | dict.fromkeys(plan.dequantised, Did("dequantised", "cast")))


def _metrics(network: Network, recast: Mapping[str, Recast]) -> dict[str, dict[str, float]]:
    """The loss of all, and of each component."""
    losses: dict[str, list[Loss]] = defaultdict(list, {"": []})  # where nothing was cast, nothing was lost
    for name, content in recast.items():
        losses[""].append(content.tally.loss)
        losses[f"_{network.component_of(name).replace('.', '-')}"].append(content.tally.loss)
    metrics: dict[str, dict[str, float]] = {}
    for suffix, some in sorted(losses.items()):
        loss = Loss.sum(some)
        metrics[f"largest_error{suffix}"] = {"value": _rounded(loss.greatest)}
        metrics[f"relative_rms{suffix}"] = {"value": _rounded(loss.relative_rms)}
    return metrics


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _notes(plan: _Plan, dtype: str, *, whole: bool) -> tuple[str, ...]:
    if not plan.recast:
        return (f"every float chosen is {dtype} already",)
    notes: list[str] = []
    if plan.dequantised:
        count = len(plan.dequantised)
        notes.append(f"weights dequantised from {plan.kind}: {count}; the errors are those of the cast alone")
    if not whole:
        notes.append("the model has floats of several dtypes; transformers loads all in the one of its configuration")
    return tuple(notes)
