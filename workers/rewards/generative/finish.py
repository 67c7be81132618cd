"""What a judge's run leaves in its folder: model/, the tables of its votes, predictions.parquet, metrics.json."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..artifacts.adapters import link_base
from ..data.snapshot import Snapshot
from ..data.split import held_out_rows
from ..evaluation.calibrate import uncalibrated
from ..evaluation.metrics import evaluate_run, score_spread
from ..files import write_text
from ..models.base_models import public_name
from ..models.predict import write_predictions
from ..text.readable import CAUSES, Pair, judged_pairs, readable, same_texts
from .judging import cause
from .meta import Meta
from .prepare import Generation
from .saved import save_judge
from .tables import write_tables
from .votes import Trajectory, Votes, curve, order_report

MOST_UNREAD = 0.05  # of the answers: from here on a person should know why
AS_CAST = "the probabilities are shares of votes, shown as they were cast"


@dataclass
class Learnt:
    """What the stages of grm did; empty for a judge."""

    trajectories: list[Trajectory] = field(default_factory=list)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)  # by stage
    losses: list[float] = field(default_factory=list)
    steps: list[dict[str, float]] = field(default_factory=list)  # of GRPO
    meta: Meta | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def finish(run: Generation, learnt: Learnt, scored: Sequence[Trajectory], votes: Votes) -> dict[str, Any]:
    """Save, measure and tell; `scored`: the trajectories of the votes. Returns metrics.json's object, the last file to
    be written. Raises Stopped, and with an endpoint BudgetSpent and EndpointRefused."""
    config, judge, snapshot = run.config, run.judge, run.snapshot
    run.progress.say("evaluating")
    predicted = votes.predictions(snapshot.responses, sides(run), frozenset(judge.truncated))
    alike = same_texts(snapshot)
    measured = readable(held_out_rows(snapshot, run.split), alike)
    scores = {row["response_id"]: row["score"] for row in predicted}
    held_out = evaluate_run(
        responses=measured.responses,
        judgements=measured.judgements,
        levels=measured.levels,
        scores=scores,
        probs={row["response_id"]: row["p"] for row in predicted},
        kind="ordinal",
        tie=None,
        temperature=1.0,
        partition=config.partition,
        seed=config.seed,
        together=votes.together(),
    )
    on = measured if measured.responses else readable(snapshot, alike)
    kept = run.checkpoint / "robustness.jsonl"
    robustness = judge.robustness(on, scores, len(scored), kept, run.say("evaluating"))
    run.progress.say("saving")
    artifact = save_judge(
        run.run_dir / "model",
        config,
        judge.template,
        model=None if run.policy is None else run.policy.model,
        meta=learnt.meta,
        revision=None if run.base is None else run.base.revision,
        base=run.lies_over,
        endpoint_model=run.endpoint_model,
    )
    metrics = {
        "format": 1,
        "kind": config.kind,
        "method": config.method,
        "preset": "",
        "level_cuts": None,
        "held_out": uncalibrated(held_out, AS_CAST),
        "crossfit": None,
        "robustness": robustness and {"on": "held_out" if measured.responses else "all", **robustness},
        "spread": score_spread(predicted),
        "split": {"unit": run.split.unit, "held_out": sorted(run.split.held_out), "note": run.split.note},
        "reading": reading(run, learnt, alike, scored),
        "memory": None,
        "training": training_figures(run, learnt),
        "annotators": None,
        "base": None,
        "config": {**config.to_json(), "base_model": public_name(config.base_model)},
        "base_revision": None if run.base is None else run.base.revision,
        "early_stopping": None,
        "model_digest": artifact["digest"],
        "generative": generative_figures(run, learnt, scored, votes, measured),
    }
    write_tables(run.run_dir, learnt.trajectories, scored, votes)
    write_predictions(run.run_dir / "predictions.parquet", predicted)
    write_text(run.run_dir / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False))
    if run.lies_over is not None and run.base is not None:
        link_base(run.run_dir, run.base.source)
    shutil.rmtree(run.checkpoint, ignore_errors=True)
    run.progress.say("saving", 1, 1, message="done")
    run.progress.close()
    return metrics


def sides(run: Generation) -> list[str]:
    """train, held_out or unlabelled, for each response. [N]"""
    snapshot = run.snapshot
    trained = {row["response_id"] for item in run.items for row in item.rows}
    labelled = {row[side] for row in snapshot.judgements for side in ("response_a", "response_b")}
    labelled |= {row["response_id"] for row in snapshot.levels}
    return [
        "train"
        if row["response_id"] in trained
        else "held_out"
        if run.split.is_held_out(row) and row["response_id"] in labelled
        else "unlabelled"
        for row in snapshot.responses
    ]


def reading(
    run: Generation, learnt: Learnt, alike: Mapping[Pair, str], scored: Sequence[Trajectory]
) -> dict[str, Any]:
    """The "reading" object of metrics.json, as readable.report makes it; also why answers could not be read."""
    snapshot = run.snapshot
    held_out = {row["response_id"] for row in snapshot.responses if run.split.is_held_out(row)}
    pairs = judged_pairs(snapshot)

    def by_cause(chosen: set[Pair]) -> dict[str, int]:
        counted = Counter(alike[pair] for pair in chosen if pair in alike)
        return {"n": len(chosen), **{cause: counted[cause] for cause in CAUSES}}

    notes = list(learnt.notes)
    unread = Counter(one.parsed.reason for one in scored if one.parsed.scores is None)
    if (count := unread.total()) > MOST_UNREAD * len(scored):
        reason, most = unread.most_common(1)[0]
        notes.append(
            f"{count:,} of {len(scored):,} answers could not be read, {most:,} of them since {cause(reason)}. Choose a "
            "model that keeps to the form, such as an instruct model, or raise max_new_tokens."
        )
    return {
        "pairs": by_cause(pairs),
        "held_out": by_cause({pair for pair in pairs if held_out.issuperset(pair)}),
        "responses": len(snapshot.responses),
        "truncated": len(run.judge.truncated),
        "cut": 0,
        "tokens": sum(one.tokens_in for one in scored),
        "unknown": 0,
        "max_length": run.judge.template.max_length,
        "notes": notes,
        "read_as": run.judge.template.read_as,
    }


def training_figures(run: Generation, learnt: Learnt) -> dict[str, Any]:
    """The "training" object of metrics.json, as of the other methods; `levels` and `judgements` are items."""
    levels = sum(len(item.rows) == 1 for item in run.items)
    taken = [one for one in learnt.trajectories if one.outcome == "kept"]
    tokens = sum(one.tokens_in + one.tokens_out for one in taken) * run.config.epochs
    return {
        "judgements": len(run.items) - levels,
        "levels": levels,
        "levelled": levels,
        "responses": len({row["response_id"] for item in run.items for row in item.rows}),
        "hardening_copies": 0,
        "policy_off": False,
        "dropped": run.left_out,
        "truncated": 0,
        "processes": 1,
        "steps": len(learnt.losses) + len(learnt.steps),
        "loss": None,  # of texts that the model itself wrote, it begins near its floor: that it falls says nothing
        "tokens": tokens,
        "seconds": round(learnt.seconds, 3),
        "judgements_per_second": round((len(run.items) - levels) / max(learnt.seconds, 1e-9), 1),
        "tokens_per_second": round(tokens / max(learnt.seconds, 1e-9), 1),
    }


def generative_figures(
    run: Generation, learnt: Learnt, scored: Sequence[Trajectory], votes: Votes, measured: Snapshot
) -> dict[str, Any]:
    """The "generative" object of metrics.json (docs/run-folder.md)."""
    unread = sum(one.parsed.scores is None for one in scored)
    usage = run.judge.sampler.usage
    every = [*learnt.trajectories, *scored]
    pairs = judged_pairs(measured)
    silent = sum(not all(name in votes.ratings for name in pair) for pair in pairs)
    endpoint = run.base is None
    return {
        "stages": {
            **learnt.counts,
            "score": {
                "prompts": len({one.prompt_id for one in scored}),
                "trajectories": len(scored),
                "unparsed": unread,
                "responses_without_votes": len(run.snapshot.responses) - len(votes.ratings),
            },
        },
        "rft": {"losses": [round(loss, 6) for loss in learnt.losses]},
        "grpo": {"steps": learnt.steps},
        "samples": run.config.samples,
        "samples_per_second": run.judge.samples_per_second,
        "tokens_in": usage.tokens_in if endpoint else sum(one.tokens_in for one in every),
        "tokens_out": usage.tokens_out if endpoint else sum(one.tokens_out for one in every),
        "requests": usage.requests if endpoint else None,
        "retries": usage.retries if endpoint else None,
        "cost": usage.cost if endpoint else None,
        "currency": run.currency,
        "endpoint_model": run.endpoint_model,
        "unparsed_share": unread / len(scored) if scored else None,
        "unread": {"pairs": silent, "n": len(pairs)},
        "curve": curve(
            scored, measured.responses, measured.judgements, run.config.samples, seed=run.config.seed
        ),
        "order": order_report(votes, pairs),
    }
