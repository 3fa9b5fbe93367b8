"""Whole parameters, and rows of embeddings, that an adapter holds: which tensors on disk they take the place of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.weights.effect import Applied
from builder.weights.experts import module_of
from builder.weights.places import within
from builder.weights.saved import Replaced, Rows
from builder.weights.stream import first_difference

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from builder.weights.effect import Effect
    from builder.weights.site import Site
    from builder.weights.stream import Stored

__all__ = ["check_complete", "copied", "replaced", "token_rows", "tokens_of"]

_AGAIN = "save the adapter again"


def token_rows(site: Site, name: str, stored: Stored, module: str) -> Effect:
    """New rows of chosen tokens.

    Args:
        site: The adapter and the model.
        name: The embedding on disk.
        stored: The rows, shape ``[tokens, width]``.
        module: The embedding, as PEFT has it.

    Raises:
        InvalidError: The configuration does not say which tokens, or they do not fit the embedding.
    """
    shape = site.model.tensors[name].info.shape
    site.check_float(name, stored)
    tokens = tokens_of(site, module, stored)
    if not shape or stored.info.shape != (len(tokens), *shape[1:]):
        problem = f"is {list(stored.info.shape)} for {len(tokens)} tokens; {name} is {list(shape)}"
        raise site.bad(stored, problem, "fold it into the model that it was trained on")
    if (words := max(tokens) + 1 - shape[0]) > 0:
        problem = f"is for token {max(tokens)}, too; {name} is {list(shape)}"
        raise site.bad(stored, problem, f"graft {words} words into the model first")
    return Rows(stored=stored, tokens=tokens)


def tokens_of(site: Site, module: str, stored: Stored) -> tuple[int, ...]:
    """The tokens that a configuration names for a module.

    Args:
        site: The adapter and the model.
        module: The embedding, as PEFT has it.
        stored: Their rows, for errors.

    Raises:
        InvalidError: It names none, or one of them twice.
    """
    said = site.adapter.config.values
    value = said.get("trainable_token_indices", said.get("token_indices"))
    if isinstance(value, dict):  # PEFT compares the ends of names, whole words or not
        fitting = [tokens for key, tokens in value.items() if module.endswith(key)]
        value = fitting[0] if fitting and all(tokens == fitting[0] for tokens in fitting) else None
    if not isinstance(value, list) or not value or not all(type(token) is int and token >= 0 for token in value):
        raise site.bad(stored, f"is on {module}, whose tokens the configuration does not name", _AGAIN)
    tokens = tuple(int(token) for token in value if isinstance(token, int))
    if len(set(tokens)) < len(tokens):
        problem = f"is on {module}, of which the configuration names a token twice"
        raise site.bad(stored, problem, "train the adapter again, with each token once")
    return tokens


def replaced(site: Site, parameter: str, stored: Stored) -> Iterator[tuple[str, Applied]]:
    """A whole parameter: name and effect of each tensor on disk that it lies in.

    Args:
        site: The adapter and the model.
        parameter: Its name, as PEFT has it.
        stored: What takes its place.

    Raises:
        InvalidError: The model has no such parameter, or one of another shape or dtype.
    """
    tensors = site.model.tensors
    if not site.whole(parameter) and (slices := site.one_by_one(parameter)):
        outs = slices[-1].rows.stop
        site.check_shape(parameter, stored, (slices[-1].expert + 1, outs, tensors[slices[0].name].info.shape[1]))
        for one in slices:
            site.check_float(one.name, stored)
            yield one.name, Applied(effect=Replaced(stored=stored.part(one.in_tall(outs))))
    elif not site.whole(parameter) and (at := site.stacked(parameter)):
        site.check_float(at.name, stored)
        site.check_shape(parameter, stored, (at.rows.stop - at.rows.start, tensors[at.name].info.shape[2]))
        yield at.name, within(site, at, Replaced(stored=stored))
    else:
        name = site.name_of(parameter, stored)
        site.check_float(name, stored)
        site.check_shape(name, stored, tensors[name].info.shape)
        yield name, Applied(effect=Replaced(stored=stored))


def copied(site: Site, parameter: str, stored: Stored) -> Iterator[tuple[str, Applied]]:
    """What PEFT saves of the base with an adapter: nothing is done where the model has the same.

    PEFT takes an embedding that is saved so for the model's. Here that is done only where it has other rows at its end,
    for new words, and is this model's else; one that is all other belongs to another model.

    Args:
        site: The adapter and the model.
        parameter: Its name, as PEFT has it.
        stored: The copy.

    Raises:
        InvalidError: The model has another one.
        OSError: A file cannot be read.
    """
    name = site.name_of(parameter, stored)
    there = site.model.tensors[name]
    site.check_float(name, stored)
    site.check_shape(name, stored, there.info.shape)
    first = first_difference(stored, there)
    if first is None:
        return
    if not there.info.shape or not site.is_vocabulary(name) or 2 * first < there.info.shape[0]:
        problem = f"is another {name} than the model's, and modules_to_save does not name it"
        raise site.bad(stored, problem, "save the adapter without base weights, or name it in modules_to_save")
    yield name, Applied(effect=Replaced(stored=stored))


def check_complete(site: Site, found: Collection[str]) -> None:
    """What the configuration says is saved must be there, or PEFT would not load the adapter either.

    Args:
        site: The adapter and the model.
        found: Names on disk of all that the adapter changes.

    Raises:
        InvalidError: Something is not.
    """
    config = site.adapter.config
    for name in site.model.tensors if config.values.get("modules_to_save") else ():
        if name not in found and config.saves(module_of(name)):
            raise config.refused(f"modules_to_save means {name}, which the adapter has not", _AGAIN)
    named = config.values.get("trainable_token_indices", config.values.get("token_indices"))
    if named and not site.adapter.tokens:
        raise config.refused("the adapter has no rows for the tokens that the configuration names", _AGAIN)
