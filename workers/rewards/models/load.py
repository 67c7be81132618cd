"""Loading a base model: its tokenizer and weights, from safetensors only."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn as nn
from safetensors import safe_open

from ..config import Refused
from .attention import ATTENTION
from .base_models import Source, unloadable
from .distributed import default_device
from .kinds import CALIPER, HEADS, Base, load_config, local_file, look_at, read_json, writes
from .lora import WEIGHTS_NAME, adapted, merged, prepared, quantising

_MARKER = re.compile(r"<\S+>|\[\S+\]|\{\S+\}|<\|.+\|>")
# The names of a text part's weights within a model that has more, and of an encoder's within a Caliper export.
_PARTS = {
    r"^(model\.)?language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
_EXPORTED = {r"^backbone\.": ""}
# Layers that a checkpoint of the same architecture may lack, since nothing here reads them.
_UNREAD = re.compile(r"(^|\.)(pooler|position_ids)\b")


def architecture_of(name: str, path: str, revision: str | None = None) -> str:
    """ "causal" or "encoder", see kinds.py. Raises Refused."""
    return look_at(name, Source(path, revision)).architecture


def load_tokenizer(name: str, path: str, revision: str | None = None) -> Any:
    """The base model's tokenizer, in which every marker counts as special. Raises Refused.

    Special tokens are split when they stand in a text (text/sections.py). Some tokenizers list markers such as
    "<tool_call>" as ordinary added tokens, which are not: marked as special they are.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main", trust_remote_code=False)
    except Exception as error:
        raise unloadable(name, error) from None
    if "base_chat_template" in tokenizer.init_kwargs:  # a Caliper export, whose own ends where its head reads
        tokenizer.chat_template = tokenizer.init_kwargs.pop("base_chat_template")
        for key in ("auto_map", "reads_response"):
            tokenizer.init_kwargs.pop(key, None)
    markers = [
        token
        for token in getattr(tokenizer, "added_tokens_decoder", {}).values()
        if not token.special and _MARKER.fullmatch(token.content)
    ]
    for token in markers:
        token.special = True
    if markers:
        tokenizer.add_tokens(markers, special_tokens=True)
    return tokenizer


def scoring_dtype(device: torch.device) -> torch.dtype | str:
    """What weights that don't learn are loaded in: a bf16 model of 7B takes 15 GB of a GPU, not 30."""
    return torch.float32 if device.type == "cpu" else "auto"


def load_base(base: Base, dtype: torch.dtype | str = torch.float32) -> nn.Module:
    """The backbone of what look_at found, without adapters that lie over it. Raises Refused."""
    return _load(base.name, base.source, base.config, base.architecture, dtype)


def load_hollow(base: Base, dtype: torch.dtype) -> nn.Module:
    """The shape of what load_base returns, with buffers but without weights: for a process that gets its part of
    another's (sharding.py)."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model: Any = _loader(base.config, base.architecture).from_config(base.config, dtype=dtype)
    model.tie_weights()
    return _packing(model)


def load_quantised(base: Base, device: torch.device) -> nn.Module:
    """The same with its linear layers in 4 bits, on this device and frozen. Raises Refused."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    options = quantising(device)
    return prepared(_load(base.name, base.source, base.config, base.architecture, dtype, **options))


def load_merged(base: Base) -> nn.Module:
    """The same with its adapters folded in, in fp32; all of it may learn. Raises Refused."""
    backbone = load_base(base)
    if base.adapters is None:
        return backbone
    try:
        return merged(adapted(backbone, *load_adapters(base)))
    except ValueError as error:
        raise unfitting(base, error) from None


def load_adapters(base: Base) -> tuple[Any, dict[str, torch.Tensor]]:
    """LoraConfig and tensors of the adapters over a base model, without a head among them. Raises Refused."""
    from peft import LoraConfig

    assert base.adapters is not None
    assert base.lora is not None
    try:
        tensors = _tensors(base.adapters, WEIGHTS_NAME)
        settings = LoraConfig(**base.lora)
    except Exception as error:
        raise unfitting(base, error) from None
    return settings, {name: value for name, value in tensors.items() if name.split(".")[2] not in HEADS}


def unfitting(base: Base, error: Exception) -> Refused:
    """The refusal of adapters that don't fit what they are said to lie over."""
    return Refused(
        f"base model {base.name!r} is adapters that don't fit {base.source.path!r} "
        f"({' '.join(str(error).split())[:200]}); give the model that they were trained on as base_model_name_or_path "
        "in adapter_config.json"
    )


def load_backbone(
    name: str, path: str, architecture: str, dtype: torch.dtype | None = None, revision: str | None = None
) -> nn.Module:
    """The backbone of a folder or hub id whose architecture is known; `dtype` None: as it was saved on a GPU, fp32 on a
    CPU. Raises Refused."""
    source = Source(path, revision)
    try:
        config = load_config(source)
    except Exception as error:
        raise unloadable(name, error) from None
    return _load(name, source, config, architecture, dtype or scoring_dtype(default_device()))


def _load(
    name: str, source: Source, config: Any, architecture: str, dtype: torch.dtype | str, **options: Any
) -> nn.Module:
    """A causal model with its LM head where the checkpoint has one. Raises Refused, also where weights are missing:
    they would be random. `options` go to from_pretrained."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it would tell of the head that is left out; missing weights are refused below
    try:
        kind = str((read_json(source, "config.json") or {}).get("model_type"))
        renamed = _EXPORTED if kind == CALIPER else _PARTS if kind != config.model_type else None
        model, found = _loader(config, architecture).from_pretrained(
            source.path,
            config=config,
            use_safetensors=True,
            dtype=dtype,
            revision=source.revision or "main",
            trust_remote_code=False,
            key_mapping=renamed,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise unloadable(name, error) from None
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(key for key in found["missing_keys"] if not _UNREAD.search(key))
    if missing:
        raise unloadable(
            name, ValueError(f"its files lack {len(missing)} of the weights, such as {missing[0]}")
        )
    if renamed is not None:
        model._weight_conversions = None  # saving would give the names of the whole back
    return _packing(model)


def _loader(config: Any, architecture: str) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM

    return AutoModelForCausalLM if architecture == "causal" and writes(config) else AutoModel


def _packing(model: Any) -> nn.Module:
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)  # SDPA too, and packed rows besides
    loaded: nn.Module = model
    return loaded


def load_head(base: Base) -> dict[str, torch.Tensor] | None:
    """A reward model's head by the names that RewardModel.head gives it, in fp32: a causal one's "score", which reads
    one state as RewardModel does, or that of an encoder which Caliper exported.

    None where there is none, or one that reads otherwise. Raises Refused.
    """
    if not base.classifier or (base.architecture == "encoder" and base.caliper is None):
        return None
    prefix = "head." if base.architecture == "encoder" else "score."
    try:
        found = _tensors(base.source, "model.safetensors", prefix)
        if base.adapters is not None:
            found = _tensors(base.adapters, WEIGHTS_NAME, f"base_model.model.{prefix}") or found
    except Exception as error:
        raise unloadable(base.name, error) from None
    return {name.partition(prefix)[2]: tensor.float() for name, tensor in found.items()} or None


def _tensors(source: Source, file: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, or of the shards of its index, whose names begin so."""
    index = read_json(source, f"{file}.index.json")
    shards = (
        {file}
        if index is None
        else {shard for name, shard in index["weight_map"].items() if name.startswith(prefix)}
    )
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(shards):
        if (path := local_file(source, shard)) is not None:
            with safe_open(path, "pt") as weights:
                names = [key for key in weights.keys() if key.startswith(prefix)]  # noqa: SIM118
                tensors |= {name: weights.get_tensor(name) for name in names}
    return tensors
