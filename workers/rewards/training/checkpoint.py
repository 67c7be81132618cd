"""What a run needs to go on where it stopped: trainable weights, optimiser, position. One safetensors file.

The position and the configuration stand in the file's own JSON header, so weights and position can't disagree,
and one rename replaces both. Random numbers need no state: every step seeds itself from (seed, step).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..config import CODE_VERSION, Refused, RunConfig
from ..files import save_tensors
from ..models.reward_model import RewardModel
from ..models.sharding import gathered, laid_out, learned

FORMAT = 2  # 2: epochs are planned one by one
NAME = "state.safetensors"
# What may differ when a run goes on: it changes no step, or its rounding alone (a GPU's free memory of now decides).
FREE = ("checkpoint_seconds", "micro_batch_tokens", "gradient_checkpointing")
COUNTED = ("step", "epoch", "within", "total", "tokens", "seconds")  # of a position, in the header


class Afresh(Exception):
    """The run has to start from its first step; the message says why."""


@dataclass
class Position:
    """Steps done, tokens encoded, seconds spent and each step's loss so far; `extra` is further state by name.

    `within` of the steps are of `epoch`; `total`: steps of all epochs, were the coming ones as long as this one.
    """

    step: int = 0
    epoch: int = 0
    within: int = 0
    total: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    model: RewardModel,
    optimizer: torch.optim.Optimizer,
    position: Position,
    config: RunConfig,
    *,
    writes: bool = True,
) -> None:
    """Replace the checkpoint, whole or not at all. All processes of a sharded model take part, one writes."""
    tensors: dict[str, torch.Tensor] = {f"model.{name}": value for name, value in learned(model)}
    for number, parameter in enumerate(_members(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            # bitsandbytes counts steps in an int, and has one table of bytes for all
            tensors[f"optimizer.{number}.{key}"] = (
                torch.tensor(value)
                if isinstance(value, int)
                else value.clone()
                if key.startswith("qmap")
                else value
            )
    tensors |= {f"extra.{name}": value for name, value in position.extra.items()}
    tensors["losses"] = torch.tensor(position.losses, dtype=torch.float64)
    header = {
        "format": FORMAT,
        "code": CODE_VERSION,
        **{key: getattr(position, key) for key in COUNTED},
        "config": config.to_json(),
    }
    tensors = gathered(tensors, keep=writes)
    if writes:
        save_tensors(folder / NAME, tensors, {"caliper": json.dumps(header)})


def begun(folder: Path) -> dict[str, Any]:
    """The configuration that a checkpoint was written under; empty where there is none to be read."""
    try:
        with safe_open(folder / NAME, "pt") as file:
            config: dict[str, Any] = json.loads(file.metadata()["caliper"])["config"]
            return config
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return {}


def load_checkpoint(
    folder: Path, model: RewardModel, optimizer: torch.optim.Optimizer, config: RunConfig
) -> Position | None:
    """Restore model and optimiser in place; None if there is no checkpoint.

    Raises Afresh if no going on is possible and nobody asked for anything else: the file is damaged, or another version
    of this program wrote it, whose steps this one would not have done alike. Raises Refused if it was written under
    another configuration: going on would give weights that no configuration describes, so neither wins.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["caliper"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        then = header["config"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise Afresh("its checkpoint is damaged") from None
    now = config.to_json()
    code = header.get("code")  # missing up to 0.2.1
    if header.get("format") != FORMAT or code != CODE_VERSION or set(then) != set(now):
        raise Afresh(
            f"its checkpoint was written by {f'Caliper {code}' if code else 'an earlier version of Caliper'}"
        )
    changed = [key for key in now if now[key] != then[key] and key not in FREE]
    if changed:
        key = changed[0]
        raise Refused(
            f"{path} was written with {key} {then[key]!r}, config.json now says {now[key]!r}; "
            f"put it back, or delete {folder} to train from the start"
        )
    parameters = dict(learned(model))
    saved = {
        name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")
    }
    if {name: value.shape for name, value in parameters.items()} != {n: v.shape for n, v in saved.items()}:
        raise Afresh(f"its checkpoint belongs to another model than {config.base_model!r} is now")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(laid_out(saved[name], value))
    members = _members(optimizer)
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            parameter = members[int(number)]
            kept = laid_out(value, parameter).to(parameter.device)
            optimizer.state[parameter][key] = int(kept) if kept.dtype == torch.int64 else kept
    extra = {
        name.removeprefix("extra."): value for name, value in tensors.items() if name.startswith("extra.")
    }
    losses = tensors["losses"].tolist() if "losses" in tensors else []
    return Position(**{key: header[key] for key in COUNTED}, losses=losses, extra=extra)


def _members(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
