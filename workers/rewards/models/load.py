"""Loading a base model: its configuration, tokenizer and weights, from safetensors only."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn as nn

from .attention import ATTENTION
from .base_models import unloadable
from .distributed import default_device

_MARKER = re.compile(r"<\S+>|\[\S+\]|\{\S+\}|<\|.+\|>")


def architecture_of(name: str, path: str, revision: str | None = None) -> str:
    """ "causal" if the base model's configuration names a causal language model, else "encoder". Raises Refused."""
    try:
        config = load_config(path, revision)
    except Exception as error:
        raise unloadable(name, error) from None
    names = getattr(config, "architectures", None) or []
    return "causal" if any(n.endswith(("ForCausalLM", "LMHeadModel")) for n in names) else "encoder"


def load_config(path: str, revision: str | None) -> Any:
    """The base model's configuration, which has no say in how attention is computed: transformers' default for the
    architecture holds. "_attn_implementation": "org/kernel" would fetch compiled code from the hub."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(path, revision=revision or "main", trust_remote_code=False)
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            part._attn_implementation = None
    return config


def load_tokenizer(name: str, path: str, revision: str | None = None) -> Any:
    """The base model's tokenizer, in which every marker counts as special. Raises Refused.

    Special tokens are split when they stand in a text (templates.py). Some tokenizers list markers such as
    "<tool_call>" as ordinary added tokens, which are not: marked as special they are.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main", trust_remote_code=False)
    except Exception as error:
        raise unloadable(name, error) from None
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


def load_backbone(
    name: str, path: str, architecture: str, dtype: torch.dtype | None = None, revision: str | None = None
) -> nn.Module:
    """The base model, from safetensors only; `dtype` None: as it was saved on a GPU, fp32 on a CPU. Raises Refused."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    loader = AutoModelForCausalLM if architecture == "causal" else AutoModel
    try:
        model: Any = loader.from_pretrained(
            path,
            config=load_config(path, revision),
            use_safetensors=True,
            dtype=dtype or scoring_dtype(default_device()),
            revision=revision or "main",
            trust_remote_code=False,
        )
    except Exception as error:
        raise unloadable(name, error) from None
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)  # SDPA too, and packed rows besides
    loaded: nn.Module = model
    return loaded
