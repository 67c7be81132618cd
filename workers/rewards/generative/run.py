"""A judge's run in running order: grm learns from its own right judgements (rft), by rule (grpo), and which of its
texts to trust (meta); then it votes, as method judge does at once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from ..training.progress import Stop
from .finetune import rft
from .finish import Learnt, finish
from .meta import train_meta
from .prepare import Generation, prepare
from .reinforce import grpo


def generate(run_dir: Path, stop: Stop | None = None) -> dict[str, Any]:
    """Learn where the method does, vote on every response, save and measure; returns metrics.json's object.

    What was sampled and learnt stays in checkpoint/ until the end, so a run that was killed goes on with the same
    result and asks for nothing twice. Raises Refused (an endpoint's budget included) and Stopped.
    """
    if (run_dir / "metrics.json").exists():
        finished: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
        return finished
    run = prepare(run_dir, stop or Stop())
    print(facts(run), file=sys.stderr, flush=True)
    learnt = learn(run) if run.stages else Learnt()
    run.judge.meta = learnt.meta
    scored, votes = run.judge.voted(run.snapshot, run.split, run.checkpoint / "score", run.say("scoring"))
    return finish(run, learnt, scored, votes)


def learn(run: Generation) -> Learnt:
    """The stages of grm in their order; each one that has ended gives back what it made."""
    assert run.policy is not None
    learnt, began = Learnt(), time.monotonic()
    given: dict[str, Any] = {"stop": run.stop, "progress": run.progress}
    for stage in run.stages:
        folder = run.checkpoint / stage
        if stage == "rft":
            report = rft(run.items, run.judge, run.policy, run.config, folder, **given)
            learnt.trajectories, learnt.losses = report.trajectories, report.losses
            left_out = run.left_out.get("cross_prompt", 0)
            learnt.counts["rft"] = {**report.counts, "cross_prompt_left_out": left_out}
        elif stage == "grpo":
            reinforced = grpo(run.items, run.judge, run.policy, run.config, folder, **given)
            learnt.steps = reinforced.steps
            learnt.notes += filter(None, (reinforced.note,))
            learnt.counts["grpo"] = {"steps": len(learnt.steps)}
        else:
            learnt.meta = train_meta(run.items, run.judge, run.policy, run.config, folder, **given)
            learnt.counts["meta"] = {} if learnt.meta is None else learnt.meta.report
    learnt.seconds = time.monotonic() - began
    return learnt


def facts(run: Generation) -> str:
    """What follows from data and configuration, a line each."""
    config, judge = run.config, run.judge
    whom = f"{run.endpoint_model} at {config.base_model}" if run.base is None else run.base.name
    return "\n".join(
        (
            f"{config.method}, {config.tuning}, {config.base_model}; seed {config.seed}",
            f"data: {len(run.snapshot.responses):,} responses, {len(run.items):,} items to learn from",
            *([f"stages: {', '.join(run.stages)}"] if run.stages else []),
            f"votes: {config.samples} a response at temperature {config.sampling_temperature:g}, texts of up to "
            f"{config.max_new_tokens:,} tokens by {type(judge.sampler).__name__}",
            f"asks: {whom}",
        )
    )
