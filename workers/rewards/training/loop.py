"""Training in running order: prepare, the loop, finish."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..models.attention import choose
from ..models.embeddings import embed
from ..models.memory import STATE
from .batches import PER_STEP, Step
from .checkpoint import Afresh, Position, load_checkpoint, save_checkpoint
from .early_stopping import looks
from .finish import finish
from .prepare import Run, join, prepare
from .progress import Stop, Stopped
from .tracking import Tracking, flattened
from .update import Update


def train(run_dir: Path, stop: Stop | None = None) -> dict[str, Any]:
    """Train, save, predict and measure; returns metrics.json's object (nothing in processes other than the first).

    Raises Refused before anything expensive when the run can't work, Stopped when told to end.
    """
    if (run_dir / "metrics.json").exists():
        finished: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
        return finished
    run = prepare(run_dir, stop or Stop())
    if run is None:
        return {}
    told = facts(run)  # in all processes: it may try the model
    if run.team.first:
        print(told, file=sys.stderr, flush=True)
    tracking = tracked(run)
    try:
        position = loop(run, tracking)
        if run.config.shard:
            join(run)
        if not run.team.first:
            return {}
        metrics = finish(run, position)
        tracking.log(position.step, flattened(metrics["held_out"], "held_out"), always=True)
        return metrics
    finally:
        tracking.close()


def tracked(run: Run) -> Tracking:
    """The run's tracker, which the first process alone has."""

    def tell(message: str) -> None:
        run.progress.say("training", message=message)

    config = run.config if run.team.first else dataclasses.replace(run.config, report_to="none")
    tracking = Tracking(run.run_dir, config, tell)
    run.progress.tracking = tracking.url
    return tracking


def facts(run: Run) -> str:
    """What follows from data and configuration: rows, steps, tokens, weights, memory, device; a line each."""
    config, data, model = run.config, run.labels.data, run.model
    lengths = run.texts.lengths
    weights = [(p.numel(), p.element_size(), p.requires_grad) for p in model.parameters()]
    learn = sum(count for count, _, learns in weights if learns)
    # a gradient and AdamW's two moments beside each weight that learns
    beside = STATE[config.optimizer]
    held = sum(count * (2 * size + beside if learns else size) for count, size, learns in weights)
    device = run.team.device
    where = (
        f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    )
    sizes = (
        f"{PER_STEP:,} judgements or fewer a step"
        if run.features is not None
        else f"{config.token_budget:,} tokens of distinct responses a step"
    )
    reads = "padded"
    if run.features is not None:
        reads = "cached embeddings"
    elif run.encoder.packed:
        gpu, dropout = device.type == "cuda", config.dropout or 0.0
        reads = f"packed, {choose(gpu, torch.bfloat16 if gpu else torch.float32, dropout).name}"
    return "\n".join(
        (
            f"{config.method}, {config.tuning}, {config.base_model}; seed {config.seed}",
            f"data: {len(data.first):,} judgements and {len(data.level_response):,} levels on "
            f"{len(data.trained_on):,} of {run.texts.count:,} responses, {sum(lengths):,} tokens, "
            f"longest {max(lengths):,} of {run.texts.template.max_length:,}",
            f"steps: {len(run.plan.epoch(0)):,} in the first of {config.epochs} epochs, {sizes}, "
            f"{config.micro_batch_tokens:,} tokens a forward pass ({reads})",
            f"weights: {sum(count for count, *_ in weights):,}, of which {learn:,} learn; "
            f"{held / 2**20:,.0f} MiB with gradients and optimiser, activations aside",
            *([f"memory: {run.memory}"] if run.memory else []),
            f"device: {device} ({where}), {run.team.size} process{'es' if run.team.size > 1 else ''}",
        )
    )


def loop(run: Run, tracking: Tracking) -> Position:
    """All steps from where an earlier attempt stopped; the model then holds the weights to keep.

    With several processes each encodes a share of every step, and the first alone watches and writes; of a sharded
    model each has a part of the weights, so all take part in that.
    """
    config, team, watch = run.config, run.team, run.watch
    takes_part = team.first or config.shard
    lengths, progress = run.texts.lengths, run.progress
    update = Update(run.model, run.loss, run.optimizer, config, team)
    position = resume(run)
    steps: list[Step] = []  # of the epoch
    saved_at, saving = time.monotonic(), 0.0
    run.model.train()
    while position.epoch < config.epochs and not team.any(bool(watch and watch.done)):
        started = time.monotonic()
        if not steps:
            steps = run.plan.epoch(position.epoch)
            left = len(steps) * (config.epochs - position.epoch)
            position.total = position.step - position.within + left
        step, held = steps[position.within], run.encoder.kept_tokens
        position.losses.append(update(steps, position.epoch, position.within, position.step))
        if run.encoder.kept_tokens != held:
            words = (
                f"memory ran out: {run.encoder.kept_tokens:,} tokens at once from step {position.step + 1} on"
            )
            progress.say("training", position.step, position.total, message=words)
            print(words, file=sys.stderr, flush=True)
        position.step += 1
        position.within += 1
        position.tokens += sum(lengths[response] for response in step.responses)
        position.seconds += time.monotonic() - started
        speed = round(position.tokens / max(position.seconds, 1e-9), 1)
        progress.say(
            "training",
            position.step,
            position.total,
            loss=round(position.losses[-1], 6),
            tokens_per_second=speed,
        )
        tracking.log(
            position.step,
            {
                "loss": position.losses[-1],
                "learning_rate": min(group["lr"] for group in run.optimizer.param_groups),  # the backbone's
                "tokens_per_second": speed,
            },
            always=position.step == position.total,
        )
        if watch and takes_part and position.within in looks(len(steps)):
            nll, right = watch.look(position.step, watched_features(run), config.partition)
            progress.say(
                "training", position.step, position.total, validation={"nll": nll, "accuracy": right}
            )
            tracking.log(position.step, {"validation/nll": nll, "validation/accuracy": right}, always=True)
            run.model.train()
        if position.within == len(steps):
            position.epoch, position.within, steps = position.epoch + 1, 0, []
        # all moments of a large model take minutes to write: at most a tenth of the time
        pause = config.checkpoint_seconds and max(config.checkpoint_seconds, 9 * saving)
        due = team.first and time.monotonic() - saved_at >= pause
        stopping, due = map(bool, team.most(run.stop.wanted, due))
        if takes_part and (stopping or due):
            started = time.monotonic()
            checkpoint(run, position)
            saved_at = time.monotonic()
            saving = saved_at - started
        if stopping:
            raise Stopped
    if takes_part:
        checkpoint(run, position)
        if watch:
            watch.restore()
    return position


def resume(run: Run) -> Position:
    """The place where an earlier attempt stopped, with its weights; the start where there is none."""
    try:
        position = load_checkpoint(run.run_dir / "checkpoint", run.model, run.optimizer, run.config)
    except Afresh as reason:
        # nothing was restored, and the next checkpoint replaces this one
        words = f"started afresh from step 0: {reason}"
        run.progress.say("training", message=words)
        if run.team.first:
            print(words, flush=True)
        return Position()
    if position is None:
        return Position()
    words = f"resumed at step {position.step}"
    run.progress.say("training", position.step, position.total, message=words)
    for part in (run.watch, run.reliability):
        if part is not None:
            part.load(position.extra)
    return position


def checkpoint(run: Run, position: Position) -> None:
    """Keep what a resumed run needs."""
    for part in (run.reliability, run.watch):
        if part is not None:
            position.extra.update(part.state())
    save_checkpoint(
        run.run_dir / "checkpoint", run.model, run.optimizer, position, run.config, writes=run.team.first
    )


def watched_features(run: Run) -> torch.Tensor:
    """Pooled features of what early stopping watches, as the weights are now. [W, H]"""
    assert run.watch is not None
    if run.features is not None:
        return run.features[run.watch.responses]
    rows = [run.texts.rows[response] for response in run.watch.responses]
    features = embed(run.encoder, rows, lambda done, total: None)
    # so that all processes of a sharded model keep the same weights as the best
    return run.team.from_first(features) if run.config.shard else features
