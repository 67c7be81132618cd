"""A judge as a folder: what grm has learnt, or only whom a judge asks; and the same folder ready to vote again."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..artifacts.adapters import load_below
from ..artifacts.save import (
    FORMAT,
    ArtifactError,
    begin_folder,
    check_files,
    finish_folder,
    plain,
    read_config,
)
from ..config import GENERATIVE_METHODS, Refused, ResolvedConfig, RunConfig
from ..files import write_text
from ..models.base_models import below, hub_id, public_name
from ..models.calibration import Calibration
from ..models.distributed import default_device
from ..models.load import load_backbone, load_tokenizer
from ..models.lora import WEIGHTS_NAME, adapted, merged, read_adapters, write_adapters
from ..models.reward_model import RewardModel
from ..training.progress import Stop
from .endpoint import EndpointSampler
from .endpoints import endpoint_named
from .judging import Judge, sampler_of
from .meta import Meta
from .sampling import TransformersSampler
from .template import JudgeTemplate

JUDGE_NAME = "judge.json"
# What of a run's configuration a judge is asked by; reward_config.json's "generative".
ASKED = (
    "samples",
    "sampling_temperature",
    "max_new_tokens",
    "guidelines",
    "seed",
    "cost_limit",
    "token_limit",
)


def save_judge(
    folder: Path,
    config: ResolvedConfig,
    template: JudgeTemplate,
    *,
    model: RewardModel | None,
    meta: Meta | None,
    revision: str | None,
    base: dict[str, Any] | None,
    endpoint_model: str | None,
) -> dict[str, Any]:
    """Write the model folder whole or not at all; returns reward_config.json's object.

    `model`: the weights of a grm, None for a judge, which has none of its own. `base`: what adapters lie over, or whose
    weights a local judge asks (adapters.describe_base). `endpoint_model`: what an endpoint's operator calls its model.
    """
    beside = begin_folder(folder)
    asked = {key: getattr(config, key) for key in ASKED}
    if model is None:
        whom = {
            "method": config.method,
            "base_model": public_name(config.base_model),
            "model": endpoint_model,
        }
        write_text(
            beside / JUDGE_NAME, json.dumps({**whom, **asked, "template": template.describe()}, indent=1)
        )
    elif model.lora is None:
        backbone: Any = model.backbone
        backbone.save_pretrained(beside, safe_serialization=True)
    else:
        assert base is not None
        write_adapters(model.lora, beside, hub_id(base["name"]), base["revision"])
        write_text(beside / "config.json", json.dumps(plain(model.backbone.config), indent=1))
    if template.tokenizer is not None:
        template.tokenizer.save_pretrained(beside)
    if meta is not None:
        meta.save(beside)
    return finish_folder(
        folder,
        beside,
        {
            "format": FORMAT,
            "method": config.method,
            "kind": config.kind,
            "backbone": "causal",
            "partition": list(config.partition),
            "template": template.describe(),
            "max_length": template.max_length,
            "head_hidden": 0,
            "tie": None,
            "bad_threshold": None,
            "level_cuts": None,
            "strength_steps": None,
            "temperature": 1.0,
            "calibration": Calibration().to_json(),
            "base_model": public_name(config.base_model),
            "base_revision": revision,
            **({} if base is None else {"base": base}),
            "generative": {
                **asked,
                "meta": meta is not None,
                "stages": config.stages if config.method == "grm" else "",
                "model": endpoint_model,
            },
        },
    )


def is_judge(folder: Path) -> bool:
    """Whether a model folder is a grm's or a judge's. Raises ArtifactError."""
    return read_config(folder).get("method") in GENERATIVE_METHODS


def load_judge(folder: Path, stop: Stop | None = None) -> tuple[Judge, dict[str, Any]]:
    """The judge of a folder, which votes as it did in its run, and reward_config.json's object.

    Weights of its own, or those below it; or its endpoint, within the run's limits. Raises ArtifactError and Refused.
    """
    stop = stop or Stop()
    config = read_config(folder)
    check_files(folder, config)
    asked = asked_config(config)
    if asked.endpoint is not None:
        endpoint = endpoint_named(asked.base_model)
        limits: dict[str, Any] = {"cost_limit": asked.cost_limit, "token_limit": asked.token_limit}
        asks = EndpointSampler(endpoint, **limits, check=stop.check)
        return Judge(asked, template_of(config, asked), asks, stop), config
    device, meta = default_device(), None
    try:
        template = template_of(config, asked, load_tokenizer(str(folder), str(folder)))
        if config["method"] == "judge":
            source = below(folder, config["base"])
            weights = functools.partial(load_weights, folder, config)
            return Judge(asked, template, sampler_of(weights, source, template, asked, stop), stop), config
        backbone = load_weights(folder, config).to(device).eval()
        if config["generative"]["meta"]:
            model = RewardModel(backbone, architecture="causal", kind="ordinal", digit_ids=())
            meta = Meta.load(folder, model, template)
    except (Refused, OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise ArtifactError(f"{folder} can't be loaded: {' '.join(str(error).split())[:200]}") from error
    sampler = TransformersSampler(
        backbone, template.tokenizer, device, stop_ids=template.stop_ids, check=stop.check
    )
    return Judge(asked, template, sampler, stop, meta), config


def template_of(config: dict[str, Any], asked: RunConfig, tokenizer: Any = None) -> JudgeTemplate:
    """The template by which a saved judge was asked. Raises ArtifactError where this program builds another one."""
    template = JudgeTemplate(
        asked.guidelines, tokenizer, partition=asked.scale, max_length=config["max_length"]
    )
    if template.describe() != config["template"]:
        raise ArtifactError(
            f"this model was made with the template {config['template']}, which this program builds differently; "
            "retrain"
        )
    return template


def load_weights(folder: Path, config: dict[str, Any], *, exact: bool = False) -> torch.nn.Module:
    """The language model that judges; `exact`: for an export, in fp32 on the CPU with its adapters folded in."""
    record = config.get("base")
    if record is None:
        return load_backbone(str(folder), str(folder), "causal", torch.float32 if exact else None)
    backbone = load_below(folder, record, exact=exact)
    if not (folder / WEIGHTS_NAME).is_file():
        return backbone
    wrapper = adapted(backbone, *read_adapters(folder))
    return merged(wrapper) if exact else backbone


def asked_config(config: dict[str, Any]) -> RunConfig:
    """The configuration by which a saved judge is asked."""
    values = {key: config["generative"][key] for key in ASKED}
    name = str(config["base_model"])
    endpoint = name if name.startswith("endpoint:") else ""
    return RunConfig(
        method=config["method"],
        base_model=endpoint or name,
        tuning="frozen",
        partition=(config["partition"][0], config["partition"][1]),
        **values,
    )
