"""Length and style of judged responses: what a reward server holds rollouts against to see what moved away.

`features` is that of workers/rewards/serving/sampling.py, which can't be imported here: a test holds both together.
"""

import math
import re
from statistics import fmean, pstdev
from typing import Any

from django.db.models import Exists, OuterRef, Value
from django.db.models.functions import Length, Substr

from webapp.corpus.models import Pair, Project, Response
from webapp.labels.summaries import newest_labels
from webapp.ratings.queries import kept

READ = 20_000
"""Characters of a text that style is read from."""

SAMPLED = 2_000
"""Judged responses that the reference is made of at most, at random."""

FEWEST = 20
"""Fewer judged responses than these say little of what is usual."""

_LABELS = 50
"""The reference is measured again once about so many labels have come."""

_HEADERS = re.compile(r"^#{1,6}[ \t]", re.MULTILINE)
_LIST_ITEMS = re.compile(r"^[ \t]*(?:[-*\u2022]|[0-9]+[.)])[ \t]", re.MULTILINE)


def features(head: str, length: int) -> dict[str, float]:
    """Eight numbers of a text by its first READ characters and its length: log(1 + n) of counts, share of repeats."""
    words = head.lower().split()
    counts = {
        "length": length,
        "headers": len(_HEADERS.findall(head)),
        "list_items": len(_LIST_ITEMS.findall(head)),
        "bold": head.count("**") // 2,
        "code": head.count("`"),
        "exclamations": head.count("!"),
        "questions": head.count("?"),
    }
    repetition = 1 - len(set(words)) / len(words) if words else 0.0
    return {name: math.log1p(count) for name, count in counts.items()} | {"repetition": repetition}


def reference_of(project: Project) -> dict[str, Any] | None:
    """Means and standard deviations of the features over judged responses; None where too few are judged.

    {"length": {"mean", "sd"}, "style": {feature: {"mean", "sd"}}}; the process keeps it for about _LABELS labels.
    """
    state = "-".join(str(key // _LABELS) for key in newest_labels(project))
    key = f"rollouts-reference:{project.pk}:{project.created_at.timestamp()}:{state}"
    return kept(key, lambda: _measure(project))


def _measure(project: Project) -> dict[str, Any] | None:
    judged = Pair.objects.of(project).filter(judged__gt=0)
    rows = Response.objects.of(project).filter(
        Exists(judged.filter(response_a=OuterRef("pk"))) | Exists(judged.filter(response_b=OuterRef("pk")))
    )
    # `draw` is random and stays: every process and every hour measures the same ones.
    texts = rows.order_by("draw").annotate(size=Length("text"), head=Substr("text", Value(1), Value(READ)))
    found = [
        features(head, size)
        for head, size in texts.values_list("head", "size")[:SAMPLED].iterator(chunk_size=100)
    ]
    if len(found) < FEWEST:
        return None
    values = {name: [row[name] for row in found] for name in found[0]}
    told = {name: {"mean": fmean(each), "sd": pstdev(each)} for name, each in values.items()}
    return {"length": told.pop("length"), "style": told}
