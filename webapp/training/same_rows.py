"""Two versions on the same held-out rows: for the gate, and for the page that compares any two."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db.models import F, Q

from webapp.corpus.models import Method, Project
from webapp.labels.models import Judgement, Verdict
from webapp.training.gate import Difference
from webapp.training.models import ModelVersion

REPLICATES = 1000
# Versions that are asked for a split; a project whose newest ones all held out nothing has no test set.
LOOKED_AT = 10


@dataclass(frozen=True)
class HeldOut:
    """What a project holds out now: names of groups, or of prompts where `unit` says so, and whose split it is."""

    version: int  # 0: not stored yet
    unit: str
    names: frozenset[str]


def held_out_of(version: int, split: Any) -> HeldOut | None:
    """From the "split" of metrics.json; None where nothing was held out."""
    if not isinstance(split, dict) or not (names := split.get("held_out")):
        return None
    return HeldOut(version, split.get("unit", "group"), frozenset(names))


def held_out_now(project: Project) -> HeldOut | None:
    """The split of the newest version that held something out; None before there is one. One query.

    A judge learns nothing and so holds out everything: its split counts only where there is no other.
    """
    newest = project.versions.annotate(judge=Q(method=Method.JUDGE)).order_by("judge", "-pk")
    splits = newest.values_list("pk", "metrics__split")[:LOOKED_AT]
    return next((found for pk, split in splits if (found := held_out_of(pk, split)) is not None), None)


@dataclass(frozen=True)
class FairRow:
    """What a version predicts of a response that it has learnt nothing of, by itself or by its group."""

    name: str  # of the response
    score: float
    p: list[float] | None
    group: str


def fair_rows(version: ModelVersion, now: HeldOut | None) -> dict[int, FairRow]:
    """The predictions that compare a version fairly, by response id. One query.

    Held out: they are of its own split. No labels when it was trained: only in the test set of now, and where it has
    learnt of nothing in the same group (a version of before the project's salt may have).
    """
    rows: Any = version.predictions.values_list(
        "response_id",
        "response__external_id",
        "score",
        "p",
        "split",
        "response__prompt__group",
        "response__prompt__external_id",
    )
    found: dict[int, FairRow] = {}
    later: dict[int, tuple[str, FairRow]] = {}
    learnt: set[str] = set()
    for response, external, score, p, split, group, prompt in rows.iterator(chunk_size=5000):
        name = prompt if now is not None and now.unit == "prompt" else group or prompt
        row = FairRow(external, score, p, group or prompt)
        if split == "held_out":
            found[response] = row
        elif split != "unlabelled":
            learnt.add(name)
        elif now is not None and name in now.names:
            later[response] = name, row
    return found | {response: row for response, (name, row) in later.items() if name not in learnt}


def paired_difference(groups: Mapping[str, tuple[float, int]], *, seed: int = 0) -> Difference | None:
    """The mean difference with its 95 % interval, from the sum and the number of rows in each group; None of no row.

    A percentile bootstrap that draws whole groups (responses of a group share texts); one group has no interval.
    """
    sums = np.array([total for total, n in groups.values() if n])  # [G]
    sizes = np.array([n for _, n in groups.values() if n])
    if not len(sizes):
        return None
    low = high = None
    if len(sizes) > 1:
        drawn = np.random.default_rng(seed).multinomial(
            len(sizes), np.full(len(sizes), 1 / len(sizes)), size=REPLICATES
        )  # [R, G]: how often each group was drawn
        low, high = (float(x) for x in np.quantile(drawn @ sums / (drawn @ sizes), [0.025, 0.975]))
    return Difference(float(sums.sum() / sizes.sum()), low, high, int(sizes.sum()))


def same_rows(
    new: Mapping[str, float], serving: ModelVersion, now: HeldOut | None = None, *, seed: int = 0
) -> Difference | None:
    """How much more often `new` is right than `serving`, where neither learnt either response's labels.

    `new`: scores by response id, held out; `now`: the split that held them out. The judgements are the decisive ones of
    now; equal scores count one half. None where the two share no judgement.
    """
    old = {row.name: row.score for row in fair_rows(serving, now).values()}
    if not (shared := new.keys() & old.keys()):
        return None
    rows = (
        Judgement.objects.verdicts()
        .filter(pair__project=serving.project_id, verdict__in=[Verdict.A, Verdict.B])
        .values_list(
            "verdict",
            F("pair__response_a__external_id"),
            F("pair__response_b__external_id"),
            F("pair__response_a__prompt__group"),
            F("pair__response_a__prompt__external_id"),
        )
    )
    groups: dict[str, tuple[float, int]] = {}
    for verdict, a, b, group, prompt in rows.iterator(chunk_size=5000):
        if a in shared and b in shared:
            sign = 1 if verdict == Verdict.A else -1
            right = [np.sign(sign * (scores[a] - scores[b])) / 2 for scores in (new, old)]
            total, n = groups.get(group or prompt, (0.0, 0))
            groups[group or prompt] = total + right[0] - right[1], n + 1
    return paired_difference(groups, seed=seed)
