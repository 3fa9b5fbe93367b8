"""What a stage may see: its tools and its device, no credentials."""

from __future__ import annotations

import pytest

from builder.drive.environment import BUILD_TOKEN, stage_environment
from builder.share import CORES

CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_CLIENT_SECRET", "AZURE_STORAGE_CONNECTION_STRING", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GIT_ASKPASS",
    "GIT_SSH_COMMAND", "SSH_AUTH_SOCK", "GITHUB_TOKEN", "GITHUB_ENV", "GITHUB_PATH", "ACTIONS_RUNTIME_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "WANDB_API_KEY", "OPENAI_API_KEY",
    "DVC_STUDIO_TOKEN", "KUBECONFIG", "VAULT_TOKEN", "NPM_TOKEN", "PYTHONSTARTUP", "PYTHONPATH", "BASH_ENV", "ENV",
    "XDG_SECRET_KEY", "NVIDIA_API_KEY", "NVIDIA_TOKEN", "TORCH_PASSWORD", "LC_TOKEN", "GPG_AGENT_INFO",
)  # fmt: skip


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_stay_outside(name: str) -> None:
    assert name not in stage_environment({name: "secret", "PATH": "/bin"})


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "NCCL_DEBUG", "HF_HOME", "VARIETAL_STORE"]
)
def test_what_tools_need_is_there(name: str) -> None:
    assert stage_environment({name: "x"})[name] == "x"


def test_the_settings_of_the_runner_let_names_through() -> None:
    own = {"HF_TOKEN": "a", "AWS_PROFILE": "b"}
    assert "HF_TOKEN" in stage_environment(own, passed=["HF_TOKEN", "GONE"])
    assert "AWS_PROFILE" not in stage_environment(own, passed=["HF_TOKEN", "GONE"])


def test_a_proxy_with_a_password_stays_outside() -> None:
    own = {"HTTPS_PROXY": "http://proxy:3128", "http_proxy": "http://me:secret@proxy:3128", "no_proxy": "local"}
    found = stage_environment(own)
    assert found["HTTPS_PROXY"] == "http://proxy:3128"
    assert found["no_proxy"] == "local"
    assert "http_proxy" not in found


def test_the_device_and_the_threads_that_a_stage_is_given() -> None:
    found = stage_environment(
        {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "64"}, device="1", cores=(4, 5, 6, 9), mark="t/a:b"
    )
    assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("1", "4", "4")
    assert found[BUILD_TOKEN] == "t/a:b"
    assert found[CORES] == "4,5,6,9"


def test_without_a_device_nothing_is_said_of_one() -> None:
    found = stage_environment({"PATH": "/bin", "SHELL": "/usr/bin/fish"})
    told = {"DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    assert found == {"PATH": "/bin", "SHELL": "/bin/sh", **told}


def test_a_token_in_the_home_folder_is_sent_only_where_the_runner_lets_tokens_through() -> None:
    name = "HF_HUB_DISABLE_IMPLICIT_TOKEN"
    assert stage_environment({"HOME": "home"})[name] == "1"
    assert name not in stage_environment({"HOME": "home"}, passed=["HF_TOKEN"])


def test_a_gpu_is_named_in_the_order_by_which_it_is_locked() -> None:
    found = stage_environment({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, device="1")
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")
