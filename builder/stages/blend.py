"""Kind ``blend``: several models of one architecture made into one.

Every tensor has one recipe: the stage's method, or that of the last entry of ``methods`` that means it. It is computed
in float64, models in the order of their digests, and rounded once; what comes out as one of the models has it is copied
and not computed. With ``layers`` the result is put together from layers of the models, and with ``tokenizer`` models
whose tokens have different ids are brought into one order first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.environment import prepare
from builder.stage import Context, Outcome
from builder.stages.changes import Did, component_map
from builder.stages.pedigree import digest_of
from builder.weights.architecture import VOCABULARY_SIZE, Member
from builder.weights.dtypes import DTYPES_BY_NAME, ROUNDED, with_dtype
from builder.weights.family import has_token_rows
from builder.weights.folder import CONFIG, read_model
from builder.weights.layout import rebuild_model
from builder.weights.lineup import Guest, Lineup
from builder.weights.portions import Made, Portions
from builder.weights.slices import Part, stack_config, stack_layers
from builder.weights.token_ids import TokenIds, read_token_ids
from builder.weights.union import unite
from builder.weights.words import Words, align, check_same, is_identity, row_count
from registry.canonical import encode, pretty
from registry.components import Network, spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import Renumbered

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.stage import Input
    from builder.weight_stages import BlendStage
    from registry.canonical import JSON
    from registry.record import ComponentChange

__all__ = ["blend"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Vocabulary:
    """How the models' tokens meet.

    Attributes:
        words: The rows of each model in the result.
        rows: Rows of the base's embedding and of the result's.
        moved: The models, by number, of which a token has another row in the result.
        files: Files of the tokenizer that change.
        left_out: Files of the base that would say something else than the result.
        notes: For the record.
    """

    words: Words
    rows: tuple[int, int] = (0, 0)
    moved: frozenset[int] = frozenset()
    files: Mapping[str, bytes]
    left_out: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def blend(context: Context[BlendStage]) -> Outcome:
    """Make one model of several.

    Raises:
        InvalidError: Models of different architectures or vocabularies, layers that are not there, a method that does
            not fit the models, a quantised model, NaN or an infinity.
        NotFoundError: A model has no configuration.
        MachineError: The runner asks for a GPU and there is none.
        OSError: A file cannot be read or written.
    """
    device = prepare(context.runner, gain="none")
    settings = context.settings
    lineup = _line_up(context)
    notes = lineup.check_settings()
    vocabulary = _vocabulary(lineup, settings.tokenizer)
    slots = lineup.slots()
    shapes = {slot.name: vocabulary.words.shape(slot.name, lineup.first(slot).info.shape) for slot in slots}
    network = Network.from_shapes(shapes)
    portions = Portions.resolve(
        lineup,
        vocabulary.words,
        network,
        method=settings.method,
        settings=settings.settings,
        rules=settings.methods,
        dtype=DTYPES_BY_NAME.get(settings.dtype, ""),
    )
    made = {slot.name: portions.make(slot) for slot in slots}
    computed = [name for name, one in made.items() if one.method]
    context.say(f"blend: {len(computed)} of {len(made)} tensors are computed, the others copied")
    folder = lineup.base.member.folder
    kept = tuple(name for name in folder.others if name not in vocabulary.left_out)
    written = rebuild_model(
        context.out,
        model=replace(folder, others=kept),
        contents={name: one.content for name, one in made.items()},
        files={**vocabulary.files, **_config_file(lineup, vocabulary, settings.dtype)},
        provenance=_provenance(lineup, network, made),
        others=[guest.member.folder for guest in lineup.guests],
        threads=context.runner.threads,
    )
    exact = all(one.content.spec.dtype in ROUNDED for one in made.values() if one.change == "blended")
    return Outcome(
        type="model",
        written=written,
        components=_changes(network, made),
        depends_on=() if exact else ("device", "versions"),
        device=device.name,
        renumbered=_renumbered(lineup, vocabulary),
        notes=tuple(dict.fromkeys((*notes, *vocabulary.notes))),
    )


def _line_up(context: Context[BlendStage]) -> Lineup:
    """The models in an order that no name decides, and the one to start from."""
    guests = sorted(map(_guest, context.all("model")), key=_order)
    where = f"blend of {', '.join(one.name for one in guests)}"
    if not guests:
        raise InvalidError("there is no model", where="stage", mend="run `varietal lint`, then `varietal compile`")
    against = context.find("against")
    start: int | None = None
    count = len(guests)
    if against is not None:
        among = [index for index, one in enumerate(guests) if one.digest == against.digest]
        start = among[0] if among else count
        guests += [] if among else [_guest(against)]
    parts = [
        Part(name=one.name, layers=one.member.folder.network.layers, taken=_taken(one), blended=index < count)
        for index, one in enumerate(guests)
    ]
    stacked = any("layers" in one.settings for one in guests)
    stack = stack_layers(parts, where=where) if stacked else None
    name = "" if against is None else against.name
    return Lineup(guests=tuple(guests), count=count, start=start, against=name, stack=stack, where=where)


def _guest(one: Input) -> Guest:
    folder = read_model(one.path)
    entries = one.artifact.tensors if one.artifact is not None else ()
    return Guest(
        member=Member(name=one.name, source=one.source, folder=folder, config=folder.config()),
        digest=one.digest,
        weights_digest=digest_of(one),
        tensors={entry.name: entry.digest for entry in entries},
        settings=one.settings,
    )


def _order(guest: Guest) -> tuple[str, str, bytes]:
    return str(guest.weights_digest), str(guest.digest), encode(guest.settings)


def _taken(guest: Guest) -> tuple[tuple[int, str], ...]:
    """Which of its layers go into which entry of ``layers:``."""
    said = guest.settings.get("layers")
    pairs = said if isinstance(said, list) else []
    return tuple(
        (pair[0], pair[1])
        for pair in pairs
        if isinstance(pair, list) and isinstance(pair[0], int) and isinstance(pair[1], str)
    )


# Vocabularies


def _vocabulary_tensors(guest: Guest) -> frozenset[str]:
    """Tensors with a row, or an entry, for each token."""
    network = guest.member.folder.network
    return frozenset(name for name in network.places if has_token_rows(network, name))


def _vocabulary(lineup: Lineup, choice: str) -> _Vocabulary:
    """Check the tensors, and how their rows for tokens meet."""
    base = lineup.start or 0
    tokens = [read_token_ids(guest.member.folder, guest.name) for guest in lineup.guests]
    others = [index for index, guest in enumerate(lineup.guests) if guest.digest != lineup.base.digest]
    if choice == "same":
        pairs = [(lineup.guests[index].member, tokens[index]) for index in others]
        notes = [note for pair in pairs for note in check_same((lineup.base.member, tokens[base]), pair)]
        lineup.check_tensors(frozenset())
        return _Vocabulary(words=Words(), files={}, notes=tuple(notes))
    tensors = _vocabulary_tensors(lineup.base)
    lineup.check_tensors(tensors)
    known = [_known(lineup.guests[index], one) for index, one in enumerate(tokens)]
    rows = [row_count(guest.member) for guest in lineup.guests]
    _check_rows(lineup, tensors, rows)
    wanted: Mapping[str, int] = known[base].ids
    made = _Vocabulary(words=Words(), files={})
    if choice == "union":
        union = unite(known[base], [known[index] for index in others], rows=rows[base])
        wanted = union.ids
        said = (f"tokens that are new to {lineup.base.name}: {union.added}",) if union.added else ()
        made = replace(made, files=union.files, left_out=union.left_out, notes=said)
    count = max(rows[base], 1 + max(wanted.values(), default=-1)) if choice == "union" else rows[base]
    tables = [
        {token: number for token, number in one.ids.items() if number < size}
        for one, size in zip(known, rows, strict=True)
    ]
    spans = align(wanted, tables, rows=count, base=base, start=lineup.start)
    moved = any(not is_identity(one, index, rows[index]) or rows[index] != count for index, one in enumerate(spans))
    lacking = [
        f"tokens that {guest.name} lacks, each with a stand-in: {len(missing)}"
        for guest, table in zip(lineup.guests, tables, strict=True)
        if (missing := [token for token, row in wanted.items() if row < count and token not in table])
    ]
    words = Words(remapped=tensors, spans=spans) if moved else Words()
    others_rows = frozenset(
        index for index, table in enumerate(tables) if any(wanted.get(token) != row for token, row in table.items())
    )
    return replace(made, words=words, rows=(rows[base], count), moved=others_rows, notes=(*made.notes, *lacking))


def _known(guest: Guest, tokens: TokenIds | None) -> TokenIds:
    if tokens is None:
        raise InvalidError(
            f"{guest.name} has no tokenizer.json, so its tokens are not known",
            where=guest.member.source,
            mend="save its tokenizer with tokenizer.json, as transformers does; or write `tokenizer: same`",
        )
    return tokens


def _check_rows(lineup: Lineup, tensors: Iterable[str], rows: Sequence[int]) -> None:
    """Within a model, embedding and head must have the same rows."""
    for guest, count in zip(lineup.guests, rows, strict=True):
        for name in sorted(tensors):
            found = guest.stored(name).info.shape
            if found[:1] != (count,):
                raise InvalidError(
                    f"{name!r} of {guest.name} is {list(found)}, its embedding has {count} rows",
                    where=guest.member.source,
                    mend="blend it with `tokenizer: same`",
                )


# What is written beside the weights


def _config_file(lineup: Lineup, vocabulary: _Vocabulary, dtype: str) -> dict[str, bytes]:
    """The configuration, where the result needs another one than the base's; nothing where it does not."""
    base = lineup.base.member.config
    made: dict[str, JSON] = dict(base)
    if lineup.stack is not None:
        made = stack_config(_configs(lineup), lineup.stack, base=base, where=lineup.where)
    made = _with_rows(made, *vocabulary.rows)
    if dtype != "same":
        made = with_dtype(made, dtype)
    return {CONFIG: pretty(made)} if made != base else {}


def _configs(lineup: Lineup) -> list[Mapping[str, JSON]]:
    return [guest.member.config for guest in lineup.guests]


def _with_rows(config: Mapping[str, JSON], before: int, rows: int) -> dict[str, JSON]:
    """The same with so many rows in the embedding, wherever it says that there were as many as before."""
    return {
        key: _with_rows(value, before, rows)
        if isinstance(value, dict)
        else rows
        if key == VOCABULARY_SIZE and value == before
        else value
        for key, value in config.items()
    }


# What the record says


def _provenance(lineup: Lineup, network: Network, made: Mapping[str, Made]) -> Provenance:
    changed = [name for name, one in made.items() if one.change != "kept"]
    counts = network.count(changed)
    layers = {place.layer for name in changed if (place := network.places.get(name)) is not None}
    inputs = {ProvenanceInput(role="model", weights_digest=one.weights_digest) for one in lineup.guests[: lineup.count]}
    if lineup.start is not None:
        inputs.add(ProvenanceInput(role="against", weights_digest=lineup.guests[lineup.start].weights_digest))
    return Provenance(
        kind="blend",
        method="+".join(sorted({one.method for one in made.values() if one.method})) or "passthrough",
        components=tuple(sorted(count.component for count in counts)),
        layers=spell_layers(layer for layer in layers if layer is not None),
        inputs=tuple(sorted(inputs)),
    )


def _changes(network: Network, made: Mapping[str, Made]) -> tuple[ComponentChange, ...]:
    """What each component is made of, by which models."""
    return component_map(network, {name: Did(one.change, ", ".join(one.by)) for name, one in made.items()})


def _renumbered(lineup: Lineup, vocabulary: _Vocabulary) -> tuple[Renumbered, ...]:
    """The models of which layers or tokens have other numbers in the result."""
    layers = {guest.digest for guest in lineup.guests} if lineup.stack is not None else set()
    rows = {lineup.guests[index].digest for index in vocabulary.moved}
    return (
        *(Renumbered(digest=digest, what="layers") for digest in sorted(layers)),
        *(Renumbered(digest=digest, what="tokens") for digest in sorted(rows)),
    )
