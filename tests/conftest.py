"""What every test shares: the markers' skips, the closed network of the unit tier, tiny models made once a session."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# A waiting thread sleeps: with spinning ones, tests beside each other take several times as long. Set before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_TESTS: Final = Path(__file__).parent
_UNIT: Final = _TESTS / "unit"
_MERGEKIT: Final = "VARIETAL_MERGEKIT_PYTHON"
_ENVIRONMENT: Final = dict(os.environ)
_PYTEST: Final = frozenset({"PYTEST_CURRENT_TEST"})  # comes and goes with each test
_NETWORK_EVENTS: Final = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or this command line cannot run, each with its reason."""
    slow = config.getoption("--slow")
    for item in items:
        if item.get_closest_marker("slow") is not None and not slow:
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow (make test-slow)"))
        if item.get_closest_marker("mergekit") is not None and not os.environ.get(_MERGEKIT):
            item.add_marker(pytest.mark.skip(reason=f"mergekit: runs where {_MERGEKIT} names a Python that has it"))
        gpu = item.get_closest_marker("gpu")
        if gpu is not None:
            needed, found = int(gpu.kwargs.get("count", 1)), _gpu_count()
            if found < needed:
                reason = f"needs {needed} GPU{'s' if needed != 1 else ''}, this machine has {found}"
                item.add_marker(pytest.mark.skip(reason=reason))


def _gpu_count() -> int:
    import torch  # noqa: PLC0415 - only a collected gpu test pays for it

    return int(torch.cuda.device_count())


class _ClosedNetwork:
    """Sees every connection of this process, also one made in C; a hook cannot be removed, so it has a switch."""

    def __init__(self) -> None:
        self.closed = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.closed and event in _NETWORK_EVENTS and not _is_local_socket(arguments):
            message = f"a unit test reached for the network: {event}{arguments[-1:]}; it belongs in tests/integration"
            raise RuntimeError(message)


def _is_local_socket(arguments: tuple[object, ...]) -> bool:
    """Whether the address is a path: a Unix socket, which leaves no machine."""
    return isinstance(arguments[-1], str | bytes) and len(arguments) == 2 and not isinstance(arguments[0], str)


_NETWORK: Final = _ClosedNetwork()


@pytest.fixture(autouse=True)
def _closed_network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Close the network while a test under tests/unit runs."""
    _NETWORK.closed = _UNIT in request.path.parents
    yield
    _NETWORK.closed = False


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Put back what a stage that ran here did to this process: it goes offline, and so would each command after it."""
    yield
    for name in os.environ.keys() - _ENVIRONMENT.keys() - _PYTEST:
        del os.environ[name]
    os.environ.update(_ENVIRONMENT)


_TEXT: Final = """\
the baker sells bread and the miller grinds corn while the river turns the wheel
please tell me the colour of the sky and the name of the town by the sea
yes of course : the sky is blue , the town is called Arden and the sea is cold
user assistant system question answer one two three four five six seven eight nine ten
"""
_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_SPECIAL: Final = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


class MakeModel(Protocol):
    """Makes a tiny model folder, once for each combination; do not write into it, copy it."""

    def __call__(
        self, family: str = "llama", *, dtype: str = "float32", layers: int = 2, tied: bool = False, seed: int = 0
    ) -> Path: ...


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Tiny Llama and GPT-2 folders with random weights, tokenizer and chat template; no network.

    Hidden size 32, 4 heads (Llama: 2 key/value heads), context 128, a byte-level vocabulary of 300.
    """
    made: dict[tuple[str, str, int, bool, int], Path] = {}

    def make(
        family: str = "llama", *, dtype: str = "float32", layers: int = 2, tied: bool = False, seed: int = 0
    ) -> Path:
        key = (family, dtype, layers, tied, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{dtype}-{layers}")
            vocabulary = _write_tokenizer(folder)
            _write_model(folder, family, dtype=dtype, layers=layers, tied=tied, seed=seed, vocabulary=vocabulary)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_llama(make_model: MakeModel) -> Path:
    """A Llama folder in float32, two layers, untied; read only."""
    return make_model("llama")


@pytest.fixture(scope="session")
def tiny_gpt2(make_model: MakeModel) -> Path:
    """A GPT-2 folder in float32, two layers, tied as GPT-2 is; read only."""
    return make_model("gpt2", tied=True)


def _write_tokenizer(folder: Path) -> int:
    """Train a byte-level BPE on a few lines and save it; returns the vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT.splitlines(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")  # noqa: S106
    fast.chat_template = _CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def _write_model(folder: Path, family: str, *, dtype: str, layers: int, tied: bool, seed: int, vocabulary: int) -> None:
    """Save random weights drawn from ``seed``; config and weights as ``save_pretrained`` lays them out."""
    import torch  # noqa: PLC0415
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    shared = {"vocab_size": vocabulary, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    shared["tie_word_embeddings"] = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "llama":
            sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
            rest = {"num_key_value_heads": 2, "max_position_embeddings": 128}
            model = LlamaForCausalLM(LlamaConfig(**shared, **sizes, **rest))
        elif family == "gpt2":
            sizes = {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": 128}
            model = GPT2LMHeadModel(GPT2Config(**shared, **sizes))
        else:
            message = f"no tiny {family}: llama or gpt2"
            raise ValueError(message)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == vocabulary
