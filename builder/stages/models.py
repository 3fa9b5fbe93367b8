"""Models and adapters of artifact folders, opened for reading: local files alone, no code of theirs, no pickles."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from builder.stages.few_bits import for_adapters, held_in_few_bits
from builder.weights.dtypes import dtype_name
from builder.weights.folder import read_model
from registry.errors import InvalidError, NotFoundError
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.adapter_types.table import Base
    from builder.environment import Device
    from builder.stage import Input

__all__ = ["Opened", "is_scorer", "open_adapter", "open_input", "open_model", "open_scorer", "open_tokenizer"]

_CLASSIFIER: Final = "ForSequenceClassification"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A model ready to be read from.

    Attributes:
        model: A transformers model, or PEFT's wrapper of it, in evaluation mode.
        tokenizer: The tokenizer of the model, or of the base under the adapter.
        where: What it is, for errors.
    """

    model: Any
    tokenizer: Any
    where: str

    @property
    def config(self) -> Any:  # noqa: ANN401 - transformers has no types
        """The configuration of the part that reads and writes text."""
        return self.model.config.get_text_config()


def open_input(
    source: Input, base: Input | None, device: Device, *, dtype: str = "float32", scores: bool = False
) -> Opened:
    """Open what an input gives: a model, or an adapter over its base; with ``scores``, one that gives a score.

    Raises:
        InvalidError: It is an adapter and there is no base, or weights are missing or do not fit.
        NotFoundError: The folder has no weights in safetensors.
    """
    where, opened = f"{source.role}: {source.name}", open_scorer if scores else open_model
    if source.artifact is None or source.artifact.type != "adapter":
        model = opened(source.path, device, dtype=dtype)
        return Opened(model=model, tokenizer=open_tokenizer(source.path), where=where)
    if base is None:
        raise InvalidError(
            f"{source.name} is an adapter and the model under it is not given",
            where=where,
            mend="run `varietal compile`; it adds the base of an adapter to the stage",
        )
    model = open_adapter(opened(base.path, device, dtype=dtype), source.path)
    return Opened(model=model, tokenizer=open_tokenizer(base.path), where=where)


def open_model(folder: Path, device: Device, *, dtype: str = "float32", base: Base = "stored") -> Any:  # noqa: ANN401 - no types to be had
    """A causal model in evaluation mode, every weight of it read from the folder.

    Args:
        folder: A model folder in Hugging Face's layout.
        device: Where to put it.
        dtype: ``float32``, or ``auto`` for the dtype that is stored.
        base: How its projections are held; in few bits they can be read, and not trained.

    Raises:
        InvalidError: transformers cannot read it; a weight is missing, or has another shape than config.json says.
        NotFoundError: There are no weights in safetensors.
    """
    return _opened(AutoModelForCausalLM, folder, device, dtype, base)


def open_scorer(folder: Path, device: Device, *, dtype: str = "float32", base: Base = "stored") -> Any:  # noqa: ANN401 - no types to be had
    """A model that gives one number, the score of a text, in evaluation mode; arguments as of :func:`open_model`.

    Raises:
        InvalidError: It is none, or names no padding token; transformers cannot read it; a weight is missing, or has
            another shape than config.json says.
        NotFoundError: There are no weights in safetensors.
    """
    if not is_scorer(folder):
        raise InvalidError(
            "the model has no head that gives one number",
            where=str(folder),
            mend="start from a stage of kind reward, or of kind graft with `head: {type: reward}`",
        )
    model = _opened(AutoModelForSequenceClassification, folder, device, dtype, base)
    if model.config.get_text_config().pad_token_id is None:
        raise InvalidError(
            "config.json names no padding token, so where a text ends cannot be told",
            where=str(folder),
            mend="name one as `pad` of the head, in the stage of kind graft that makes it",
        )
    return model


def is_scorer(folder: Path) -> bool:
    """Whether the model of a folder gives one number: a classifier with one label.

    Raises:
        InvalidError: Its configuration is no JSON table.
        NotFoundError: It has none.
    """
    config = read_model(folder).config()
    classes, labels = config.get("architectures"), config.get("id2label")
    named = isinstance(classes, list) and any(str(one).endswith(_CLASSIFIER) for one in classes)
    return named and isinstance(labels, dict) and len(labels) == 1


def _opened(kind: Any, folder: Path, device: Device, dtype: str, base: Base) -> Any:  # noqa: ANN401
    """A model of one of transformers' automatic classes."""
    if not any(folder.glob("*.safetensors")):
        raise NotFoundError(
            "there are no weights in safetensors", where=str(folder), mend="import the model; that makes it canonical"
        )
    with _narrowed("model", folder):
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are reported to us, and refused below
            output_loading_info=True,
            **({} if base == "stored" else held_in_few_bits(base, device, dtype)),
        )
    missing = sorted([*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])])
    if missing:
        raise InvalidError(
            f"{len(missing)} weights are missing or of another shape than config.json says: {', '.join(missing[:3])}",
            where=str(folder),
            mend="build or import the model again; its files do not belong together",
        )
    return for_adapters(model) if base != "stored" else model.to(device.opens_on).eval()


def open_adapter(model: Any, folder: Path, *, trainable: bool = False) -> Any:  # noqa: ANN401 - no types to be had
    """Put the adapter of a folder on a model, to be read or to go on training; the model itself is changed.

    Raises:
        InvalidError: The adapter does not fit the model, or means something else over a model of this dtype.
        NotFoundError: There are no adapter weights in safetensors.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise NotFoundError(
            "there is no adapter_model.safetensors",
            where=str(folder),
            mend="import the adapter; that makes it canonical",
        )
    if trainable:
        _check_basis(model, folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, local_files_only=True)
    except (RuntimeError, ValueError, UserWarning) as error:
        raise InvalidError(
            f"the adapter does not fit the model: {str(error).splitlines()[0]}",
            where=str(folder),
            mend="use the model that it was trained on, or a descendant with equal shapes",
        ) from error
    return adapted.eval()


def _check_basis(model: Any, folder: Path) -> None:  # noqa: ANN401 - transformers has no types
    """A FRoD adapter goes on training over weights of the dtype that its basis has, or becomes another adapter.

    PEFT takes the directions of each weight from a basis that it makes anew, in the dtype of the weights, and saves
    neither those directions nor that dtype: only the dtype of the saved basis tells.
    """
    tensors = read_header(folder / "adapter_model.safetensors").tensors
    bases = {info.dtype for name, info in tensors.items() if ".frod_V." in f".{name}"}
    loaded = dtype_name(next(model.parameters()))
    if others := bases - {loaded}:
        raise InvalidError(
            f"the FROD adapter is one over weights in {min(others)}, and the model is loaded in {loaded}: "
            "what such an adapter means depends on that dtype, so it would become another one",
            where=str(folder),
            mend="fold it, and train the model that it gives; `precision: mixed-bfloat16` loads weights as they are",
        )


def open_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - no types to be had
    """The tokenizer of a model folder, from its files alone.

    Raises:
        InvalidError: There is none, or transformers cannot read it.
    """
    with _narrowed("tokenizer", folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def _narrowed(part: str, folder: Path) -> Iterator[None]:
    """Turn what transformers raises on files that it cannot use into an error of ours."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidError(
            f"transformers cannot read the {part}: {(str(error).splitlines() or ['?'])[0]}",
            where=str(folder),
            mend=f"import a model whose {part} this version of transformers knows, with all of its files",
        ) from error
