"""Over which base model a version's adapters lie, and where that is found: a LoRA version holds no copy of it.

reward_config.json's "base" has:
    name      as people know it (hub id, folder:NAME, starter, version:NAME)
    revision  the hub's commit that was loaded; None for a folder
    digest    sha256 over config.json and the files of its weights
    dtype     which the adapters were trained beside: float32, bfloat16 or nf4
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from ..config import Refused
from ..files import link_or_copy, sha256_of, write_text
from ..models.base_models import LINK, Source, below, public_name
from ..models.distributed import default_device
from ..models.kinds import Base, local_file, look_at, read_json
from ..models.load import load_base, load_quantised
from ..models.lora import FOUR_BIT, quantises

INDEX = "model.safetensors.index.json"
# What a config.json may say without a difference to what the weights compute.
_INCIDENTAL = ("_name_or_path", "transformers_version")


class ArtifactError(Exception):
    """A model folder or its base model is missing, damaged or of another format; the message is one readable line."""


def describe_base(name: str, source: Source, dtype: str) -> dict[str, Any]:
    """reward_config.json's "base" of adapters over what lies at a source that look_at gave. Raises Refused."""
    return {
        "name": public_name(name),
        "revision": source.revision,
        "digest": base_digest(source),
        "dtype": dtype,
    }


def base_files(source: Source) -> dict[str, Path]:
    """config.json and the weights' files, by name, as transformers load them. Raises Refused where one is missing."""
    index = read_json(source, INDEX)
    weights = ["model.safetensors"] if index is None else [INDEX, *sorted(set(index["weight_map"].values()))]
    found = {name: local_file(source, name) for name in ("config.json", *weights)}
    for name, path in found.items():
        if path is None:
            raise Refused(f"the base model lacks {name}")
    return {name: path for name, path in found.items() if path is not None}


def base_digest(source: Source) -> str:
    """sha256 over names and contents of base_files. Raises Refused."""
    found = {}
    for name, path in base_files(source).items():
        if name == "config.json":
            found[name] = hashlib.sha256(plain_config(path).encode()).hexdigest()
        else:
            found[name] = sha256_of(path)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def plain_config(path: Path) -> str:
    """A base model's config.json without what says nothing of it: a path, the version that wrote it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _INCIDENTAL}
    return json.dumps(kept, indent=1, sort_keys=True)


def base_below(folder: Path, record: dict[str, Any]) -> Base:
    """The base model below the adapters in a folder, its digest compared. Raises ArtifactError and Refused."""
    try:
        source = below(folder, record)
    except Refused as error:
        raise ArtifactError(str(error)) from None
    base = look_at(str(record.get("name")), source, may_be_adapters=False)
    check_base(str(folder), record, base.source)
    return base


def check_base(over: str, record: dict[str, Any], source: Source) -> None:
    """Raises ArtifactError where a base model is not the one that the adapters of `over` were trained over."""
    if base_digest(source) != record.get("digest"):
        raise ArtifactError(
            f"{over} is adapters over the base model {record.get('name')!r}, and what is there now is not the one that "
            "they were trained over: put that back, or train again"
        )


def load_below(folder: Path, record: dict[str, Any], *, exact: bool = False) -> nn.Module:
    """The base model of a folder's adapters, its weights those that they were trained beside: rounded to bf16 where
    that was so, and on a CPU computing in fp32.

    4-bit weights are 4-bit weights everywhere; without bitsandbytes the base model's own take their place, with a
    warning, as scores then differ. `exact`: for a merge, in fp32 on the CPU. Raises ArtifactError and Refused.
    """
    base, dtype = base_below(folder, record), record.get("dtype")
    device = torch.device("cpu") if exact else default_device()
    if dtype == FOUR_BIT:
        if quantises():
            return load_quantised(base, device)
        warnings.warn(
            f"{folder} was trained over {base.name} in 4 bits, and bitsandbytes is not installed here: the base "
            "model's own weights are used, and scores differ somewhat (pip install bitsandbytes)",
            stacklevel=2,
        )
        dtype = "bfloat16"
    backbone = load_base(base, torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    return backbone.float() if device.type == "cpu" else backbone


def pack_base(folder: Path, record: dict[str, Any], target: Path) -> None:
    """Put the base model of a folder's adapters at `target`: the pack needs nothing else. Raises ArtifactError."""
    base = base_below(folder, record)
    target.mkdir()
    for name, path in base_files(base.source).items():
        if name == "config.json":
            write_text(target / name, plain_config(path))
        else:
            link_or_copy(path, target / name)


def link_base(run_dir: Path, source: Source) -> None:
    """RUN_DIR/base leads to the base model of the run's adapters; a base model from the hub needs no link.

    Where somebody has put a version's folder there, which the adapters began with, the link is in RUN_DIR/model.
    """
    link = run_dir / LINK
    folder = Path(source.path).resolve()
    if link.resolve() == folder and link.exists():
        return
    if link.is_dir() and not link.is_symlink():
        link = run_dir / "model" / LINK
    if not folder.is_dir():
        if link.is_symlink():
            link.unlink()
        return
    beside = link.with_name(f".{LINK}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder, target_is_directory=True)
    beside.replace(link)
