"""Save and load a trained reward model: a folder of safetensors, tokenizer and reward_config.json.

Format 1: the first. The folder is written beside its place and renamed after fsync, so a reader sees a whole one
or none; every file's sha256 stands in reward_config.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..config import GENERATIVE_METHODS, Refused, RunConfig
from ..files import fsync, sha256_of, write_text
from ..models.base_models import hub_id, public_name
from ..models.calibration import Calibration
from ..models.kinds import PACK
from ..models.load import load_backbone, load_tokenizer
from ..models.lora import read_adapters, write_adapters
from ..models.reward_model import RewardModel
from ..scale import Partition
from ..text.chat import described_template
from ..text.sections import Template
from .adapters import ArtifactError as ArtifactError
from .adapters import load_below

FORMAT = 1
CONFIG_NAME = PACK
HEAD_NAME = "reward_head.safetensors"


def save_model(
    folder: Path,
    model: RewardModel,
    template: Template,
    *,
    method: str,
    partition: tuple[int, int],
    base_model: str,
    base_revision: str | None = None,
    base: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the model folder whole or not at all; returns reward_config.json's object.

    "tie" and "temperature" are those that P(a preferred) is served with, after calibration. `base`: what adapters lie
    over, from adapters.describe_base.
    """
    if (model.lora is None) != (base is None):
        raise ValueError("a model with adapters is saved with its base's record, any other without")
    tie = None if model.tie is None else model.tie.item()
    beside = begin_folder(folder)
    backbone: Any = model.backbone
    if base is None:
        backbone.save_pretrained(beside, safe_serialization=True)
    else:
        write_adapters(model.lora, beside, hub_id(base["name"]), base["revision"])
        write_text(beside / "config.json", json.dumps(plain(backbone.config), indent=1))
    template.tokenizer.save_pretrained(beside)
    if model.head is not None:
        head = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
        save_file(head, beside / HEAD_NAME)
    config = {
        "format": FORMAT,
        "method": method,
        "kind": model.kind,
        "backbone": model.architecture,
        "partition": list(partition),
        "template": template.describe(),
        "max_length": template.max_length,
        "head_hidden": model.head_hidden,
        "tie": model.calibration.tie(tie),
        "bad_threshold": None if model.bad_threshold is None else model.bad_threshold.item(),
        "level_cuts": None if model.cuts is None else model.cuts.tolist(),
        "strength_steps": None if model.strength_steps is None else model.strength_steps.tolist(),
        "temperature": model.calibration.temperature,
        "calibration": model.calibration.to_json(),
        "base_model": public_name(base_model),
        "base_revision": base_revision,
        **({} if base is None else {"base": base}),
    }
    return finish_folder(folder, beside, config)


def begin_folder(folder: Path) -> Path:
    """An empty folder beside the one that finish_folder will make of it."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    return beside


def finish_folder(folder: Path, beside: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Give the files in `beside` their reward_config.json and their place; returns it with "files" and "digest"."""
    files = {path.name: sha256_of(path) for path in sorted(beside.iterdir())}
    config |= {
        "digest": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        "files": files,
    }
    write_text(beside / CONFIG_NAME, json.dumps(config, indent=1))
    for path in beside.iterdir():
        fsync(path)
    fsync(beside)
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)
    fsync(folder.parent)
    return config


def check_files(folder: Path, config: dict[str, Any]) -> None:
    """Every file that reward_config.json names is there and as it was saved. Raises ArtifactError."""
    for name, expected in config["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; copy the model folder again or retrain")
        if sha256_of(path) != expected:
            raise ArtifactError(
                f"{path} is damaged (its sha256 differs from {CONFIG_NAME}); copy it again or retrain"
            )


def plain(config: Any) -> dict[str, Any]:
    """A backbone's configuration, for its tokenizer and for people; how it was loaded is no part of it."""
    said: dict[str, Any] = config.to_dict()
    return {key: value for key, value in said.items() if key not in ("quantization_config", "_name_or_path")}


def load_model(folder: Path, *, merged: bool = False) -> tuple[RewardModel, Template, dict[str, Any]]:
    """The model in eval mode, its template and reward_config.json's object. Raises ArtifactError.

    Adapters lie over their base model, as they were measured; `merged` (for an export) folds them in, in fp32.
    """
    config = read_config(folder)
    record = config.get("base")
    if config.get("method") in GENERATIVE_METHODS:
        raise ArtifactError(
            f"{folder} is a generative model (method {config['method']}): it writes critiques and votes, so no text "
            "has a score at once; use workers.rewards.score, evaluate, measure or benchmark"
        )
    check_files(folder, config)
    try:
        tokenizer = load_tokenizer(str(folder), str(folder))
        if record is None:
            dtype = torch.float32 if merged else None
            backbone = load_backbone(str(folder), str(folder), config["backbone"], dtype)
        else:
            backbone = load_below(folder, record, exact=merged)
        ordinal = config["kind"] == "ordinal"
        template = described_template(
            tokenizer,
            config["template"],
            architecture=config["backbone"],
            ordinal=ordinal,
            max_length=config["max_length"],
        )
        described = {
            key: value for key, value in config["template"].items() if key != "claims"
        }  # up to 0.3.0
        if template.describe() != described:
            raise ArtifactError(
                f"{folder} was made with the template {config['template']['name']}, which this program builds "
                "differently; retrain"
            )
        model = RewardModel(
            backbone,
            architecture=config["backbone"],
            kind=config["kind"],
            head_hidden=config["head_hidden"],
            digit_ids=template.digit_ids,
        )
        if record is not None:
            model.add_lora(RunConfig(), read_adapters(folder))
            if merged:
                model.merge_lora()
        if model.head is not None:
            tensors = load_file(folder / HEAD_NAME)
            if isinstance(model.head, torch.nn.Linear) and model.head.bias is None and "bias" in tensors:
                model.head.bias = torch.nn.Parameter(
                    tensors["bias"]
                )  # made before such heads lost their bias
            model.head.load_state_dict(tensors)
    except (Refused, OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise ArtifactError(f"{folder} can't be loaded: {' '.join(str(error).split())[:200]}") from error
    model.calibration = Calibration.from_json(config.get("calibration"))  # read_config has checked it
    model.eval()
    return model, template, config


def read_config(folder: Path) -> dict[str, Any]:
    """reward_config.json, checked for format and keys. Raises ArtifactError."""
    path = folder / CONFIG_NAME
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; {folder} is not a trained model") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; copy the model folder again or retrain") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ArtifactError(f"{path} has format {found!r}, this program reads {FORMAT}; retrain or update")
    needed = (
        "kind",
        "backbone",
        "partition",
        "template",
        "max_length",
        "head_hidden",
        "files",
        "temperature",
    )
    for key in needed:
        if key not in config:
            raise ArtifactError(f"{path} lacks {key!r}; copy the model folder again or retrain")
    try:
        Partition(*config["partition"])
        Calibration.from_json(config.get("calibration"))
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}") from None
    return config
