"""What torch sees of this machine's GPUs. Run as a process of its own, since it loads torch.

``python -m builder.doctor.gpu_probe`` prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["probe"]


def probe() -> dict[str, Any]:
    """Torch's version, what it was built for, and the devices that it can use."""
    import torch  # this process alone loads it

    names: list[str] = []
    problem = ""
    usable = torch.cuda.is_available()
    try:
        for place in range(torch.cuda.device_count() if usable else 0):
            torch.ones(8, device=f"cuda:{place}").sum().item()  # a build without this card's code fails here
            names.append(torch.cuda.get_device_name(place))
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
    return {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or "",
        "usable": usable,
        "names": names,
        "problem": problem,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()))
