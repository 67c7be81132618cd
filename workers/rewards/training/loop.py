"""Training in running order: prepare, the loop, finish."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from .. import objectives
from ..artifacts.save import continue_head
from ..config import Refused, RunConfig
from ..data.judgements import check_labels, training_data
from ..data.snapshot import read_snapshot
from ..data.split import Split, held_out_rows, split_groups, split_watched
from ..models.base_models import check_vocabulary, find_base
from ..models.distributed import Group
from ..models.embeddings import embed, embed_cached
from ..models.encode import ResponseEncoder
from ..models.load import backbone_kind, load_backbone, load_tokenizer
from ..models.reward_model import RewardModel, longest_text, set_dropout
from ..text.readable import readable, reads_alike, report
from ..text.sections import Template, nonce_key
from .batches import Blocks, Step
from .checkpoint import Afresh, Position, load_checkpoint, save_checkpoint
from .early_stopping import Watch, looks, not_watched
from .finish import Trained, finish
from .hardening import SETS, Hardened, harden
from .optimiser import make_optimizer, schedule
from .progress import Progress, Stop, Stopped
from .reliability import Reliability
from .step import StepLoss, given


def train(run_dir: Path, stop: Stop | None = None) -> dict[str, Any]:
    """Train, save, predict and measure; returns metrics.json's object (nothing in processes other than the first).

    Raises Refused before anything expensive when the run can't work, Stopped when told to end.
    """
    stop = stop or Stop()
    if (run_dir / "metrics.json").exists():
        finished: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
        return finished

    # 1. Cheap refusals
    config = RunConfig.read(run_dir / "config.json")
    (run_dir / "error.json").unlink(missing_ok=True)
    snapshot = read_snapshot(run_dir / "snapshot")
    check_labels(snapshot, config)
    split = split_groups(snapshot, config)
    watched = split_watched(snapshot, split, config) if config.patience else Split(frozenset(), "none")
    kept = Split(split.held_out | watched.held_out, split.unit if split.unit != "none" else watched.unit)
    data = training_data(snapshot, kept, config)
    team = Group.started()
    if config.tuning == "frozen" and team.size > 1:
        if not team.first:
            return {}  # heads on cached embeddings take seconds; one process has all of it
        team = Group(device=team.device)
    progress = Progress(run_dir / "progress.jsonl" if team.first else Path(os.devnull))
    progress.say("loading", message="; ".join(filter(None, (split.note, watched.note))) or None)
    source = find_base(config.base_model, run_dir)
    loaded = (config.base_model, source.path)
    kind = backbone_kind(*loaded, source.revision) if config.backbone == "auto" else config.backbone
    device = team.device
    # weights that learn stay in fp32; LoRA's base doesn't learn
    half = device.type == "cuda" and config.tuning == "lora"
    backbone = load_backbone(*loaded, kind, torch.bfloat16 if half else torch.float32, source.revision)
    backbone_config: Any = backbone.config
    config = config.resolved(kind, int(backbone_config.hidden_size), device.type)
    tokenizer = load_tokenizer(*loaded, source.revision)
    check_vocabulary(config.base_model, tokenizer)
    template = Template(
        tokenizer,
        backbone=kind,
        ordinal=config.ordinal,
        max_length=min(given(config.max_length), longest_text(backbone) or sys.maxsize),
        nonce_key=nonce_key(config.seed, snapshot.responses) if config.nonce else None,
        pool_prompt=config.pool_prompt,
    )
    stop.check()

    # 2. Texts to ids; without the pairs whose ids are the same; blocks of the pair graph, each a step
    real = len(snapshot.responses)
    rows = template.encode(snapshot.responses)
    alike = reads_alike(snapshot, rows)
    unknown = str(tokenizer.unk_token or "")
    reading = report(snapshot, rows, alike, split, max_length=template.max_length, token=unknown)
    learned = readable(snapshot, alike)
    if alike:
        before = len(data.first)
        try:
            data = training_data(learned, kept, config)
        except Refused as error:
            raise Refused(f"{' '.join(reading['notes'])} ({error})") from None
        data.dropped["reads_alike"] = before - len(data.first)
    judged = data
    epochs = given(config.epochs)
    hardened: Hardened | None = None
    if config.hardening:
        hardened = harden(
            snapshot.responses,
            data,
            share=config.hardening,
            seed=config.seed,
            ordinal=config.ordinal,
            sets=min(epochs, SETS),
        )
        data = hardened.data
    copies = hardened.copies if hardened else []
    rows += template.encode(copies)
    if hardened:
        hardened = hardened.without_alike(rows)
    frozen = config.tuning == "frozen"
    sizes = [len(row) for row in rows]
    config = config.with_budget(sum(sizes[response] for response in judged.trained_on))
    blocks = Blocks(
        list(zip(judged.first.tolist(), judged.second.tolist(), strict=True)),
        judged.level_response.tolist(),
        sizes,
        given(config.token_budget),
    )
    steps: list[Step] = []
    for epoch in range(epochs):
        made = blocks.epoch(config.seed, epoch)
        steps += hardened.joined(made, epoch) if hardened else made

    # 3. The model; seeded before the head is made
    torch.manual_seed(config.seed)
    model = RewardModel(
        backbone,
        backbone_kind=kind,
        kind=config.kind,
        head_hidden=given(config.head_hidden),
        digit_ids=template.digit_ids,
    )
    if config.base_model.startswith("version:") and continue_head(model, Path(source.path)):
        progress.say("loading", message=f"the head goes on from {config.base_model}'s")
    if config.dropout is not None:
        set_dropout(backbone, config.dropout)
    if config.gradient_checkpointing:
        model.checkpoint_gradients()
    if config.tuning == "lora":
        model.add_lora(config)
    elif frozen:
        model.backbone.requires_grad_(False)
    if config.method in ("bt", "haf") and not config.ordinal:
        model.add_thresholds(
            ties=bool((data.outcome == objectives.TIE).any()),
            both_bad=bool((data.outcome == objectives.BOTH_BAD).any()),
        )
    model.to(device)
    if device.type == "cpu":
        model.gather_embedding_gradient()

    # 4. What is computed once: a frozen encoder's embeddings, a policy's starting log-probabilities
    def tick(phase: str, done: int, total: int) -> None:
        stop.check()
        progress.say(phase, done, total)

    encoder = ResponseEncoder(
        model,
        device,
        given(config.micro_batch_tokens),
        longest=template.max_length,
        packing=config.packing,
        kept_tokens=config.kept_tokens,
        group=team,
    )
    features = None
    if frozen:
        features = embed_cached(encoder, rows, lambda done, total: tick("embedding", done, total))
    # a lone annotator can't be told from the task's own difficulty
    several = config.reliability and len(data.annotators) > 1
    reliability = (
        Reliability(judged, config.reliability_prior, sides_only=config.ordinal) if several else None
    )
    batch = StepLoss(model, config, data, rows, features, encoder, reliability)
    if config.method == "haf":
        batch.keep_reference(lambda done, total: tick("embedding", done, total))

    # 5. Optimiser, and the place where an earlier attempt stopped
    optimizer = make_optimizer(model, config)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    watch: Watch | None = None
    if watched.held_out:
        watch = Watch(held_out_rows(learned, watched), snapshot.index, model, config.patience)
        assert data.trained_on.isdisjoint(watch.responses), "a watched response is trained on"
        if not watch.usable:
            watch, watched = (
                None,
                Split(frozenset(), "none", "no early stopping: nobody compared the watched"),
            )
    look_after = looks(len(steps), epochs, config.evaluations_per_epoch) if watch else set()
    try:
        position = load_checkpoint(run_dir / "checkpoint", model, optimizer, config)
    except Afresh as reason:
        position = None  # nothing was restored, and the next checkpoint replaces this one
        words = f"started afresh from step 0: {reason}"
        progress.say("training", 0, len(steps), message=words)
        if team.first:
            print(words, flush=True)
    if position is not None:
        if watch is not None:
            watch.load(position.extra)
        progress.say("training", position.step, len(steps), message=f"resumed at step {position.step}")
        if reliability is not None:
            reliability.load(position.extra)
    position = position or Position()

    def checkpoint() -> None:
        if reliability is not None:
            position.extra.update(reliability.state())
        if watch is not None:
            position.extra.update(watch.state())
        save_checkpoint(run_dir / "checkpoint", model, optimizer, position, config)

    # 6. The loop; with several processes each encodes a share of every step, and rank 0 alone watches and writes
    model.train()
    saved_at = time.monotonic()
    while position.step < len(steps) and not team.any(bool(watch and watch.done)):
        started = time.monotonic()
        step = steps[position.step]
        rate = schedule(position.step, len(steps), config.warmup)
        for group, base in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = base * rate
        # dropout; makes a resumed run the straight one
        torch.manual_seed(config.seed * 1_000_003 + position.step + 2**40 * team.rank)
        loss = batch(step)
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()} at step {position.step}; lower learning_rate")
        loss.backward()
        team.sum_gradients(model.parameters(), model.thresholds)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        position.step += 1
        position.tokens += sum(sizes[response] for response in step.responses)
        position.seconds += time.monotonic() - started
        progress.say(
            "training",
            position.step,
            len(steps),
            loss=round(loss.item(), 6),
            tokens_per_second=round(position.tokens / max(position.seconds, 1e-9), 1),
        )
        if watch and team.first and position.step in look_after:
            some = (
                features[watch.responses]
                if features is not None
                else embed(encoder, [rows[response] for response in watch.responses], lambda *_: None)
            )
            nll, right = watch.look(position.step, some, config.partition)
            progress.say("training", position.step, len(steps), validation={"nll": nll, "accuracy": right})
            model.train()
        stopping = team.any(stop.wanted)
        if team.first and (stopping or time.monotonic() - saved_at >= config.checkpoint_seconds):
            checkpoint()
            saved_at = time.monotonic()
        if stopping:
            raise Stopped
    if not team.first:
        return {}
    checkpoint()
    if watch:
        watch.restore()

    # 7. Calibrate, save, predict, measure
    uses = len(judged.first) * epochs * position.step / len(steps)
    early = None
    if config.patience:
        stopped_at = position.step if position.step < len(steps) else None
        early = watch.report(stopped_at) if watch else not_watched(config.patience, watched.note or "")
    metrics = finish(
        Trained(
            run_dir=run_dir,
            config=config,
            base_revision=getattr(backbone_config, "_commit_hash", None) or source.revision,
            snapshot=snapshot,
            readable=learned,
            reading=reading,
            split=split,
            data=judged,
            watched=frozenset(watch.responses if watch else ()),
            model=model,
            template=template,
            rows=rows[:real],
            encoder=encoder,
            features=None if features is None else features[:real],
        ),
        training={
            "judgements": len(judged.first),
            "levels": len(judged.level_response),
            "responses": len(judged.trained_on),
            "hardening_copies": len(copies),
            "dropped": dict(data.dropped),
            "truncated": sum(row.truncated for row in rows[:real]),
            "processes": team.size,
            "steps": len(steps),
            "tokens": position.tokens,
            "seconds": round(position.seconds, 3),
            "judgements_per_second": round(uses / max(position.seconds, 1e-9), 1),
            "tokens_per_second": round(position.tokens / max(position.seconds, 1e-9), 1),
        },
        annotators=reliability.report() if reliability is not None else {"annotators": None, "base": None},
        early_stopping=early,
        say=progress.say,
        tick=tick,
    )
    shutil.rmtree(run_dir / "checkpoint", ignore_errors=True)
    progress.say("saving", 1, 1, message="done")
    progress.close()
    return metrics
