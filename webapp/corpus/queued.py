"""What the queue needs of all that it hands out: places, a random point to draw from, an index over the open ones."""

import random
from typing import Any

from django.db import models
from django.db.models import F, Q

ROLLOUTS_FIRST = 1
"""The priority of pairs of rollouts: of the equally started they are handed out first, while their policy trains."""


def point_draw() -> float:
    """A random point of the ring [0, 1)."""
    return random.random()


class Queued(models.Model):
    """What the queue hands out: `wanted` places, of which `reserved` are held by open assignments.

    `draw` is a random place in a ring, from which the queue draws without counting. `priority` says which of the
    equally started go first.
    """

    wanted = models.PositiveSmallIntegerField(default=0)
    reserved = models.PositiveIntegerField(default=0)
    draw = models.FloatField(default=point_draw, editable=False)
    priority = models.SmallIntegerField(default=0, editable=False)

    class Meta:
        abstract = True


def open_index(name: str, done: str) -> models.Index:
    """What still wants judgements, the most started first: the queue finds its next card without a scan."""
    taken = F(done) + F("reserved")
    columns: list[Any] = [F("project"), taken.desc(), F("priority").desc(), F("draw")]
    return models.Index(*columns, name=name, condition=Q(wanted__gt=taken))
