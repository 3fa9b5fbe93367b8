"""Whether a new adapter goes on the model that it is for, before anything heavy is loaded: by its listing. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.adapter_fit import adapted_modules, check_weightings
from builder.train_stages import PretrainStage, TrainStage
from registry.canonical import decode
from registry.components import Network
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.stage import Input

__all__ = ["check_adapter"]

_CONFIG = "config.json"
_TRANSPOSED = frozenset({"gpt2", "openai-gpt"})  # whose layers keep their weights as [in, out]


def check_adapter(settings: object, inputs: Sequence[Input], *, stage: str) -> None:
    """Refuse an adapter that cannot go on the model that its stage starts from.

    Experts that lie one by one in files are stacked in the model; what is said of those is left for when it is loaded.

    Args:
        settings: The stage's table; of one without a new adapter nothing is looked at.
        inputs: Its inputs.
        stage: Where the manifest has it, for errors.

    Raises:
        InvalidError: A selector matches nothing that the type goes on, or a setting does not go with a shape.
    """
    source = next((one for one in inputs if one.role == "from"), None)
    if not isinstance(settings, TrainStage | PretrainStage) or settings.adapter is None or source is None:
        return
    if source.artifact is None or source.artifact.type != "model":
        return
    network = Network.from_shapes({one.name: one.shape for one in source.artifact.tensors})
    if "mlp.experts" in network.components:
        return
    tied, transposed = "head" not in network.components, _is_transposed(source.path / _CONFIG)
    try:
        modules = adapted_modules(network, settings.adapter, tied=tied, transposed=transposed)
        check_weightings(network, settings.adapter, modules)
    except InvalidError as error:
        raise InvalidError(error.what, where=f"{stage}.{error.where}", mend=error.mend) from error


def _is_transposed(path: Path) -> bool:
    config = decode(path.read_bytes(), where=str(path)) if path.is_file() else {}
    return isinstance(config, dict) and config.get("model_type") in _TRANSPOSED
