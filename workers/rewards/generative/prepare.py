"""What a judge's run needs, made once from its folder: refuse, read, split, load."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts.adapters import describe_base
from ..config import Refused, ResolvedConfig, RunConfig
from ..data.judgements import check_labels
from ..data.snapshot import Snapshot, read_snapshot
from ..data.split import Split, split_groups
from ..models.base_models import check_vocabulary
from ..models.distributed import default_device, refuse_flags
from ..models.kinds import Base
from ..models.load import load_base, load_tokenizer, scoring_dtype
from ..training.prepare import base_of, going_on, record_of
from ..training.progress import Progress, Stop
from .endpoint import EndpointSampler
from .endpoints import endpoint_named
from .finetune import Policy, policy_of
from .items import Item, training_items
from .judging import Judge, sampler_of, used
from .reinforce import refuse_trl
from .sampling import TransformersSampler
from .template import JudgeTemplate, lengths

USAGE = "usage.json"


@dataclass
class Generation:
    """A run before its first sample.

    `items`: what grm learns from; `left_out`: labels that make no item, by reason. `policy` is what grm trains; `base`
    is None for an endpoint. `lies_over`: reward_config.json's "base".
    """

    run_dir: Path
    config: ResolvedConfig
    stop: Stop
    progress: Progress
    snapshot: Snapshot
    split: Split
    items: list[Item]
    left_out: dict[str, int]
    judge: Judge
    policy: Policy | None = None
    base: Base | None = None
    lies_over: dict[str, Any] | None = None
    endpoint_model: str | None = None
    currency: str | None = None

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / "checkpoint"

    @property
    def stages(self) -> list[str]:
        """Those in which grm learns."""
        return self.config.stages.split(",") if self.config.method == "grm" else []

    def say(self, phase: str) -> Callable[[int, int], None]:
        """A callback that tells progress of a phase, and raises Stopped when the run should end."""

        def said(done: int, total: int) -> None:
            self.stop.check()
            usage = self.judge.sampler.usage
            figures: dict[str, float | None] = {
                "samples_per_second": self.judge.samples_per_second,
                "tokens_in": usage.tokens_in,
                "tokens_out": usage.tokens_out,
                "cost": usage.cost,
            }
            self.progress.say(phase, done, total, **figures)  # type: ignore[arg-type]

        return said


def prepare(run_dir: Path, stop: Stop) -> Generation:
    """Raises Refused before anything expensive where the run can't work."""
    refuse_flags()
    asked = RunConfig.read(run_dir / "config.json")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Refused(
            f"method {asked.method} works in one process; start it without accelerate launch or torchrun"
        )
    (run_dir / "error.json").unlink(missing_ok=True)
    checkpoint = run_dir / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    learns = asked.method == "grm"
    if learns and "grpo" in asked.stages.split(","):
        refuse_trl()
    base = None if asked.endpoint is not None else base_of(asked, run_dir)
    if base is not None and not learns and base.adapters is not None:
        raise Refused(
            f"base model {base.name!r} is adapters, and a judge is asked as it is; merge them into their base model "
            "(peft's merge_and_unload) and name that"
        )
    snapshot = read_snapshot(run_dir / "snapshot")
    items: list[Item] = []
    left_out: dict[str, int] = {}
    split = split_groups(snapshot, asked)
    if learns:
        check_labels(snapshot, asked)
        found, left_out = training_items(snapshot, split, asked)
        items = [item for item in found if item.split == "train"]
        if not items:
            raise Refused(
                "no label is left to train on: a generative model learns from judged pairs of one prompt and from "
                "levels; judge some, or set holdout to 0"
            )
    else:
        split = all_held_out(snapshot, split)
    device = default_device()
    progress = Progress(run_dir / "progress.jsonl")
    progress.say("loading", message=split.note)

    def generation(judge: Judge, **of: Any) -> Generation:
        return Generation(
            run_dir=run_dir,
            config=config,
            stop=stop,
            progress=progress,
            snapshot=snapshot,
            split=split,
            items=items,
            left_out=left_out,
            judge=judge,
            **of,
        )

    if base is None:
        endpoint, usage = endpoint_named(asked.base_model), checkpoint / USAGE
        config = asked.resolved("causal", 1)
        limits: dict[str, Any] = {"cost_limit": config.cost_limit, "token_limit": config.token_limit}
        asks = EndpointSampler(endpoint, **limits, spent=used(usage), check=stop.check)
        template = JudgeTemplate(config.guidelines, partition=config.scale, max_length=config.max_length)
        judge = Judge(config, template, asks, stop, usage_file=usage)
        return generation(judge, endpoint_model=endpoint.model, currency=endpoint.currency)
    asked = going_on(asked, base)
    config = asked.resolved(base.architecture, int(base.config.hidden_size), device.type)
    positions = getattr(base.config, "max_position_embeddings", None)
    length, new = lengths(config.max_length, config.max_new_tokens, positions)
    config = dataclasses.replace(config, max_length=length, max_new_tokens=new)
    tokenizer = load_tokenizer(base.name, base.tokenizer.path, base.tokenizer.revision)
    check_vocabulary(config.base_model, tokenizer)
    template = JudgeTemplate(config.guidelines, tokenizer, partition=config.scale, max_length=length)
    if not learns:
        below = describe_base(base.name, base.source, "bfloat16" if device.type == "cuda" else "float32")
        weights = functools.partial(load_base, base, scoring_dtype(device))
        judge = Judge(config, template, sampler_of(weights, base.source, template, config, stop), stop)
        return generation(judge, base=base, lies_over=below)
    lies_over = record_of(config, base, device)
    policy = policy_of(config, base, device, length + new)
    stop.check()
    backbone = policy.model.backbone
    sampler = TransformersSampler(backbone, tokenizer, device, stop_ids=template.stop_ids, check=stop.check)
    judge = Judge(config, template, sampler, stop)
    return generation(judge, policy=policy, base=base, lies_over=lies_over)


def all_held_out(snapshot: Snapshot, split: Split) -> Split:
    """A judge has seen no label, so it is measured on all: what is labelled is held out, by the split's unit."""
    labelled = {row[side] for row in snapshot.judgements for side in ("response_a", "response_b")}
    labelled |= {row["response_id"] for row in snapshot.levels}
    key = "prompt_id" if split.unit == "prompt" else "group"
    names = frozenset(row[key] for row in snapshot.responses if row["response_id"] in labelled)
    return Split(names, "prompt" if split.unit == "prompt" else "group", joined=split.joined)
