"""``pretrain``: a small causal model and its tokenizer, made from texts alone; or a model that goes on with more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from builder.engines.curve import curve_lines
from builder.environment import DEPENDS_ON
from builder.stage import Outcome
from builder.stages.data_rows import training_rows
from builder.stages.go_on import go_on, held_texts
from builder.stages.packing import join_texts
from builder.stages.training import figures, make_job, remarks, start
from registry.components import Network, spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance
from registry.record import ComponentChange

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.engines.job import Job, Trained
    from builder.manifest import PretrainStage
    from builder.settings import NetworkSettings
    from builder.stage import Context

__all__ = ["CHAT_TEMPLATE", "pretrain"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Each turn after a token of its role; what the assistant says ends with the end token, and is marked as its own."""

_END, _PAD = "<|end|>", "<|pad|>"
_SPECIAL = (_END, _PAD, "<|system|>", "<|user|>", "<|assistant|>")
_MULTIPLE = 64


def pretrain(context: Context[PretrainStage]) -> Outcome:
    """Train a tokenizer, then a network from random weights, on texts laid end to end; or go on with ``from``.

    Raises:
        InvalidError: The texts are too few; or there is neither a network nor what to go on from.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, network = context.settings, context.settings.network
    if stage.from_:
        return go_on(context)
    if network is None:
        raise InvalidError(
            "neither `from` nor `network` is given",
            where="stage",
            mend="describe a new `network`, or name what to go on from",
        )
    data = training_rows(context)
    device = start(context)
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set
    from builder.engines.sft import train_sft  # noqa: PLC0415

    with quiet():
        texts = [str(row["text"]) for row in data.rows]
        tokenizer = _train_tokenizer(texts, stage.tokenizer.vocabulary, where=data.source)
        encoded = join_texts(tokenizer, texts, max_length=stage.train.max_length, where=data.source)
        model = _new_network(network, tokenizer, stage.train.seed).to(device.kind)
        _save_files(context.out, model, tokenizer, network.dtype)
        rows, row_tokens = len(encoded.examples), stage.train.max_length
        job = make_job(context, device, stage.train, rows=rows, row_tokens=row_tokens, model=model)
        held = held_texts(context, tokenizer)
        trained = train_sft(job, model, tokenizer, encoded.examples, evaluation=held)
        return _finish(context, network, trained, job, notes=(*data.notes, *encoded.notes()))


def _train_tokenizer(texts: Sequence[str], vocabulary: int, *, where: str) -> Any:  # noqa: ANN401 - no types to be had
    """Byte-level BPE: every byte is a token, so every text can be said."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415 - after start()
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(_SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bare.get_vocab_size() < vocabulary:
        raise InvalidError(
            f"the texts give only {bare.get_vocab_size()} tokens, {vocabulary} are asked for",
            where=where,
            mend=f"write `tokenizer: {{vocabulary: {bare.get_vocab_size()}}}`, or give more text",
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=_END, pad_token=_PAD)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _new_network(network: NetworkSettings, tokenizer: Any, seed: int) -> Any:  # noqa: ANN401
    """A network with random weights, float32, drawn from the seed."""
    import torch  # noqa: PLC0415 - after start()
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(_configuration(network, tokenizer), dtype=torch.float32)


def _configuration(network: NetworkSettings, tokenizer: Any) -> Any:  # noqa: ANN401 - transformers has no types
    shared = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": network.tie_embeddings,
    }
    if network.architecture == "gpt2":
        from transformers import GPT2Config  # noqa: PLC0415

        return GPT2Config(
            **shared,
            n_embd=network.hidden_size,
            n_layer=network.layers,
            n_head=network.heads,
            n_inner=network.intermediate_size or 4 * network.hidden_size,
            n_positions=network.context,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
        )
    from transformers import LlamaConfig  # noqa: PLC0415

    return LlamaConfig(
        **shared,
        hidden_size=network.hidden_size,
        intermediate_size=network.intermediate_size or _MULTIPLE * math.ceil(8 * network.hidden_size / (3 * _MULTIPLE)),
        num_hidden_layers=network.layers,
        num_attention_heads=network.heads,
        num_key_value_heads=network.kv_heads or network.heads,
        max_position_embeddings=network.context,
        rms_norm_eps=1e-6,
    )


def _save_files(out: Path, model: Any, tokenizer: Any, dtype: str) -> None:  # noqa: ANN401 - transformers has no types
    """Configuration and tokenizer, before the trainer touches either."""
    model.config.architectures = [type(model).__name__]
    model.config.dtype = dtype
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _finish(
    context: Context[PretrainStage], settings: NetworkSettings, trained: Trained, job: Job, *, notes: tuple[str, ...]
) -> Outcome:
    """Write the weights beside the files and say what was done."""
    import torch  # noqa: PLC0415 - after start()

    from builder.weights.layout import write_new_model  # noqa: PLC0415 - needs torch

    dtype = getattr(torch, settings.dtype)
    tensors = {name: parameter.detach().cpu().to(dtype) for name, parameter in trained.model.named_parameters()}
    network = Network.from_tensors({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    counts = network.count(tensors)
    provenance = Provenance(
        kind="pretrain",
        method=settings.architecture,
        components=tuple(sorted({place.component for place in network.places.values()})),
        layers=spell_layers(range(network.layers)),
        data=tuple(one.digest for one in context.all("data")),
    )
    return Outcome(
        type="model",
        written=write_new_model(context.out, tensors=tensors, files={}, provenance=provenance),
        components=tuple(
            ComponentChange(
                component=count.component, change="added", layers=count.layers, tensors=count.tensors, by="pretrain"
            )
            for count in counts
        ),
        metrics=figures(trained),
        depends_on=DEPENDS_ON,
        device=job.device.name,
        micro_batch=job.split.micro_batch,
        notes=(*notes, *remarks(trained, job)),
        device_memory_mib=trained.memory_mib,
        curve=curve_lines(trained.history, trained.measured),
    )
