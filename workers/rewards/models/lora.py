"""LoRA adapters on a backbone's linear layers: put on, read, written and merged. PEFT's file names and format.

QLoRA is the same over a backbone whose linear layers hold 4-bit weights (bitsandbytes' NF4, arXiv 2305.14314).
"""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file

from ..config import Refused

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
# PEFT loads bitsandbytes wherever that is, and that advises a package which fetches compiled code from the hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
FOUR_BIT = "nf4"  # the dtype of a quantised base, in reward_config.json


def adapted(backbone: nn.Module, adapters: Any, tensors: dict[str, torch.Tensor] | None = None) -> Any:
    """PEFT's wrapper of a backbone that it has changed in place; the backbone's own weights are frozen.

    `adapters`: a LoraConfig. `tensors`: theirs, by PEFT's names; without them the adapters start as nothing. They are
    kept in fp32 beside a bf16 base. Raises ValueError where the tensors are another backbone's.
    """
    from peft import get_peft_model, set_peft_model_state_dict

    network: Any = backbone
    wrapper: Any = get_peft_model(network, adapters)
    if tensors is not None:
        found: Any = set_peft_model_state_dict(wrapper, tensors)
        missing = [name for name in found.missing_keys if "lora_" in name]
        if missing or found.unexpected_keys:
            raise ValueError(
                f"the adapters don't fit the base model: {(missing or found.unexpected_keys)[0]}"
            )
    return wrapper


def read_adapters(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """What write_adapters wrote. Raises OSError, ValueError or SafetensorError."""
    from peft import LoraConfig

    return LoraConfig.from_pretrained(str(folder)), load_file(folder / WEIGHTS_NAME)


def write_adapters(wrapper: Any, folder: Path, base: str | None, revision: str | None) -> None:
    """adapter_config.json and adapter_model.safetensors; `base` is the base model's hub id, if it has one."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(wrapper, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    config = wrapper.peft_config["default"].to_dict() | {
        "base_model_name_or_path": base,
        "revision": revision if base else None,
        "inference_mode": True,
    }
    # sets have no order, and the same training shall give the same bytes
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")


def merged(wrapper: Any) -> nn.Module:
    """The backbone in fp32 with the adapters folded into its weights.

    Added to bf16 weights an update of 1 % of their size would lose a sixth of its norm, a smaller one more.
    """
    from peft.tuners.lora import LoraLayer

    backbone = wrapper.base_model.model
    layers: list[tuple[str, Any]] = list(backbone.named_modules())
    for name, module in layers:
        if isinstance(module, LoraLayer) and is_four_bit(module.get_base_layer()):
            layer: Any = module
            update = layer.get_delta_weight("default").float()
            backbone.set_submodule(name, dequantised(layer.get_base_layer(), update))
    for name, module in list(backbone.named_modules()):
        if is_four_bit(module):  # one that no adapter lies over
            backbone.set_submodule(name, dequantised(module))
    if getattr(backbone, "hf_quantizer", None) is not None:
        backbone.hf_quantizer.remove_quantization_config(backbone)
        backbone.is_loaded_in_4bit = False
    backbone.float()
    result: nn.Module = wrapper.merge_and_unload()
    return result.requires_grad_(True)


# --- 4-bit weights ---


def quantises() -> bool:
    """Whether weights can be held in 4 bits here: bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def check_quantising() -> None:
    """Raises Refused where they can't."""
    if not quantises():
        raise Refused(
            "tuning qlora holds the base model in 4 bits by bitsandbytes, which is not installed: "
            "pip install 'caliper[quantised]' (or pip install bitsandbytes), or use lora"
        )


def quantising(device: torch.device) -> dict[str, Any]:
    """What from_pretrained is told, so that linear layers are held in 4 bits (NF4, double quantisation) on a device."""
    from transformers import BitsAndBytesConfig

    # bf16 is exact enough for a GPU's training; a CPU has no gain of it
    compute = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=FOUR_BIT,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def prepared(backbone: nn.Module) -> nn.Module:
    """A quantised backbone as training wants it: frozen, norms and embeddings in fp32."""
    from peft import prepare_model_for_kbit_training

    layers: list[Any] = [module for module in backbone.modules() if is_four_bit(module)]
    for layer in layers:
        # on a CPU scores would else be of bf16 and its weights packed in another order; nothing else reads this
        layer.support_avx512bf16_for_cpu = False
    # make_trainable says whether activations are checkpointed
    result: nn.Module = prepare_model_for_kbit_training(backbone, use_gradient_checkpointing=False)
    return result


def is_four_bit(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit" and hasattr(getattr(module, "weight", None), "quant_state")


@torch.no_grad()
def dequantised(layer: Any, update: torch.Tensor | None = None) -> nn.Module:
    """A 4-bit layer as it was before, in fp32, its weights those that it computes with plus `update`. [out, in]"""
    from bitsandbytes.functional import dequantize_4bit
    from transformers.pytorch_utils import Conv1D

    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    if update is not None:
        weight += update
    size_out, size_in = weight.shape
    plain: Any
    if issubclass(getattr(layer, "source_cls", nn.Linear), Conv1D):  # GPT-2's, which keep [in, out]
        plain, weight = Conv1D(size_out, size_in), weight.T
    else:
        plain = nn.Linear(size_in, size_out, bias=layer.bias is not None)
    plain.to(weight.device).weight.copy_(weight)
    if layer.bias is not None:
        plain.bias.copy_(layer.bias)
    result: nn.Module = plain
    return result
