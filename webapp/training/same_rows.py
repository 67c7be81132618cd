"""Two versions on the same held-out judgements, as the gate compares them."""

from collections.abc import Mapping

import numpy as np
from django.db.models import F

from webapp.labels.models import Judgement, Verdict
from webapp.training.gate import Difference
from webapp.training.models import ModelVersion

REPLICATES = 1000


def held_out_scores(version: ModelVersion) -> dict[str, float]:
    """The scores of the responses whose labels the version has not learnt, by response id."""
    rows = version.predictions.filter(split="held_out").values_list("response__external_id", "score")
    return dict(rows)


def same_rows(new: Mapping[str, float], serving: ModelVersion, *, seed: int = 0) -> Difference | None:
    """How much more often `new` is right than `serving`, where neither learnt either response's labels.

    `new`: scores by response id, held out. The judgements are the decisive ones of now; equal scores count one half.
    The interval is a percentile bootstrap that draws whole groups (responses of a group share texts); one group has
    none. None where the two share no judgement.
    """
    old = held_out_scores(serving)
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
    differences: dict[str, list[float]] = {}
    for verdict, a, b, group, prompt in rows.iterator(chunk_size=5000):
        if a in shared and b in shared:
            sign = 1 if verdict == Verdict.A else -1
            right = [np.sign(sign * (scores[a] - scores[b])) / 2 for scores in (new, old)]
            differences.setdefault(group or prompt, []).append(right[0] - right[1])
    if not differences:
        return None
    sums = np.array([sum(each) for each in differences.values()])  # [G]
    sizes = np.array([len(each) for each in differences.values()])
    low = high = None
    if len(sizes) > 1:
        drawn = np.random.default_rng(seed).multinomial(
            len(sizes), np.full(len(sizes), 1 / len(sizes)), size=REPLICATES
        )  # [R, G]: how often each group was drawn
        low, high = (float(x) for x in np.quantile(drawn @ sums / (drawn @ sizes), [0.025, 0.975]))
    return Difference(float(sums.sum() / sizes.sum()), low, high, int(sizes.sum()))
