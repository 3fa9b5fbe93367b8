"""What makes a training on a GPU faster and leaves its loss as it is: layers compiled, inputs not widened."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.engines.job import Job

__all__ = ["levers"]


@contextmanager
def levers(model: Any, job: Job) -> Iterator[None]:  # noqa: ANN401 - transformers has no types
    """Train faster for as long as the context lasts.

    Args:
        model: A transformers model, or PEFT's wrapper of one, on its device.
        job: Settings and place.

    Raises:
        MachineError: The layers cannot be compiled here.
    """
    with ExitStack() as stack:
        if job.training.precision == "mixed-bfloat16" and hasattr(model, "peft_config"):
            from peft.helpers import disable_input_dtype_casting  # noqa: PLC0415 - adapters only

            # Autocast rounds them to 16 bits in the next step anyway; in between they would be kept in 32.
            stack.enter_context(disable_input_dtype_casting(model, active=True))
        if not job.split.compiled:
            yield
            return
        _compile_layers(model)
        # The compiler looks at `.grad` of what flows between layers; torch warns whoever does.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
        try:
            yield
        except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001 - it has no other name
            raise MachineError(
                f"the layers could not be compiled: {(str(error).splitlines() or ['?'])[0]}",
                where=job.device.name,
                mend="write `compile: never` into .varietal/runner.yaml",
            ) from error


def _compile_layers(model: Any) -> None:  # noqa: ANN401 - transformers has no types
    """Compile each layer in place, one after another, so that alike ones share what was compiled; names stay."""
    import torch._dynamo.config as dynamo  # noqa: PLC0415 - seconds
    import torch._inductor.config as inductor  # noqa: PLC0415

    # Kernels are chosen by rule and never by a stop-watch, so that two runs choose the same.
    inductor.deterministic = True
    # Several lengths, with and without gradients, of a layer or two that are unlike the rest.
    dynamo.recompile_limit = 64
    dynamo.accumulated_recompile_limit = 4096
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in kinds:
            module.compile(dynamic=False)
