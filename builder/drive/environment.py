"""The environment of a stage: what it needs to find its tools and its device, and no credentials."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.share import CORES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["BUILD_TOKEN", "stage_environment"]

BUILD_TOKEN = "VARIETAL_BUILD"  # noqa: S105 - a name; its value marks the processes of one build
"""Variable that every process of one build has: a random value, ``/``, and what the process is at."""

_KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TERM|TZ|TMPDIR|TMP|TEMP"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|VIRTUAL_ENV|CONDA_PREFIX|XDG_\w+"
    r"|CUDA_\w+|NVIDIA_\w+|NCCL_\w+|ROCR_\w+|HIP_\w+|OMP_\w+|MKL_\w+|OPENBLAS_\w+|PYTORCH_\w+|TORCH_\w+|TRITON_\w+"
    r"|CUBLAS_\w+|MALLOC_\w+|NVSHMEM_\w+|GLOO_\w+"
    r"|HF_HOME|HF_HUB_CACHE|HF_ENDPOINT|HF_HUB_OFFLINE|HF_DATASETS_CACHE|HF_HUB_DISABLE_\w+"
    r"|VARIETAL_STORE|DVC_SITE_CACHE_DIR|DVC_NO_ANALYTICS|PYTHONDONTWRITEBYTECODE|PYTHONPYCACHEPREFIX|PYTHONHASHSEED"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
_PROXY = re.compile(r"(?:https?|ftp|all|no)_proxy", re.IGNORECASE)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY(?:_|$)", re.IGNORECASE)


def stage_environment(
    own: Mapping[str, str], *, passed: Iterable[str] = (), device: str = "", cores: Sequence[int] = (), mark: str = ""
) -> dict[str, str]:
    """What a stage may see of the environment of the build.

    Names are let in, not kept out: whatever holds a credential on a machine that nobody here has seen stays outside.

    Args:
        own: Environment of the build.
        passed: Further names that the runner's settings let through.
        device: The GPU that the stage is given, by number or by id; all of the build's where empty.
        cores: Processors that it is given; all where empty.
        mark: That of the build and of the stage.

    Returns:
        Its whole environment.
    """
    wanted = set(passed)
    found = {name: value for name, value in own.items() if name in wanted or _is_harmless(name, value)}
    # DVC runs its commands by the person's own shell, whose start-up files are none of a build's business.
    found |= {"SHELL": "/bin/sh", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    if "HF_TOKEN" not in wanted:
        # Else one that `hf auth login` left in the home folder is sent.
        found["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # noqa: S105 - a switch
    if device:
        # In the order of the driver, by whose numbers it is locked; CUDA's own order begins with the fastest.
        found |= {"CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if cores:
        found |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(len(cores)))
        found[CORES] = ",".join(map(str, cores))
    if mark:
        found[BUILD_TOKEN] = mark
    return found


def _is_harmless(name: str, value: str) -> bool:
    if _PROXY.fullmatch(name):
        return "@" not in value  # else it holds a password
    return _KEPT.fullmatch(name) is not None and _SECRET.search(name) is None
