"""Models whose projections are held in 8 or 4 bits by bitsandbytes, read from weights as they are stored."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from registry.errors import MachineError

if TYPE_CHECKING:
    from builder.adapter_types.table import Base
    from builder.environment import Device

__all__ = ["check_few_bits", "for_adapters", "held_in_few_bits"]

# Some processors have bitsandbytes pack the weights anew in a pass without gradients, such as that of a reference; the
# training after it would not know that packing, and weights narrower than a block cannot have it.
_REPACKS = "support_avx512bf16_for_cpu"
_HEADS = ["lm_head", "embed_out", "score"]  # the trainer multiplies by their weights itself


def check_few_bits(base: Base) -> None:
    """Refuse where the package is missing, before anything is read.

    Raises:
        MachineError: It is not installed.
    """
    if base != "stored" and find_spec("bitsandbytes") is None:
        raise MachineError(
            f"bitsandbytes, which holds weights in {base}, is not installed",
            where="adapter.base",
            mend="install it: pip install 'varietal[quantised]'; or write `base: stored`",
        )


def held_in_few_bits(base: Base, device: Device, dtype: str) -> dict[str, Any]:
    """What transformers is told, to quantise while it reads.

    Args:
        base: ``int8`` or ``nf4``.
        device: Where to put the model.
        dtype: ``float32``, or ``auto``: then the arithmetic is in bfloat16.
    """
    import torch  # noqa: PLC0415 - not needed by the check above
    from transformers import BitsAndBytesConfig  # noqa: PLC0415

    if base == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_HEADS)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32 if dtype == "float32" else torch.bfloat16,
            llm_int8_skip_modules=_HEADS,
        )
    return {"quantization_config": config, "device_map": {"": device.opens_on}}


def for_adapters(model: Any) -> Any:  # noqa: ANN401 - transformers has no types
    """The model in evaluation mode, nothing of it trainable, norms and embeddings in float32."""
    from peft import prepare_model_for_kbit_training  # noqa: PLC0415

    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False).eval()
