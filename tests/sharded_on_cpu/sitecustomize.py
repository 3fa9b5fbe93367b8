"""Lets processes without a GPU take part in FSDP2, which torch does not mind and accelerate does.

Python imports it at the start of each process that has this folder on its PYTHONPATH; so the ranks of a test run the
very code that they run on GPUs.
"""

from __future__ import annotations

import os

if "RANK" in os.environ:
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import DistributedType, PartialState

    _prepared = PartialState._prepare_backend

    def _prepare_backend(self: PartialState, *arguments: object, **named: object) -> tuple[str, DistributedType]:
        backend, kind = _prepared(self, *arguments, **named)
        return backend, DistributedType.MULTI_GPU if kind is DistributedType.MULTI_CPU else kind

    PartialState._prepare_backend = _prepare_backend
