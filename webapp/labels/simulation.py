"""Simulated annotators: they judge through the same queue and services as people, and are named as simulated.

P(first preferred) = sigmoid(q * d) for a difference d of true qualities (arXiv 2411.04991);
each simulated annotator has a sharpness q, a wish for ties and a leniency of its own.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from django.db.models import Count

from webapp.accounts.models import User
from webapp.corpus.models import Membership, Pair, Project, Response
from webapp.labels import queue, services
from webapp.labels.models import Assignment, Judgement, Source, Verdict


@dataclass(frozen=True)
class Temper:
    """How one simulated annotator judges; qualities are on the 1..9 scale."""

    sharpness: float
    tie_width: float
    leniency: float

    @classmethod
    def draw(cls, rng: random.Random, sharpness: float) -> "Temper":
        return cls(
            sharpness=sharpness * rng.uniform(0.6, 1.5),
            tie_width=rng.uniform(0.3, 1.2),
            leniency=rng.gauss(0.0, 0.4),
        )


def annotators_ensure(*, project: Project, count: int) -> list[User]:
    """`count` simulated annotators of this project, made where they are missing; they can't sign in."""
    users = []
    for number in range(1, count + 1):
        user, created = User.objects.get_or_create(
            username=f"{project.slug}:simulated-{number}",
            defaults={"kind": User.Kind.SIMULATED, "first_name": f"Annotator {number}", "is_active": False},
        )
        if created:
            user.set_unusable_password()
            user.save(update_fields=["password"])
        Membership.objects.get_or_create(project=project, user=user, role=Membership.Role.ANNOTATOR)
        users.append(user)
    return users


def qualities(project: Project) -> dict[int, float]:
    """What the simulation takes for each response's true quality, 1..9, by response primary key.

    `metadata.quality` where the source gives one. Otherwise the share of comparisons won so far (imported votes),
    and without any, the logarithm of the length: a stand-in, good enough to try things out, not a claim.
    """
    known: dict[int, float] = {}
    lengths: dict[int, float] = {}
    for pk, metadata, text in Response.objects.of(project).values_list("pk", "metadata", "text").iterator():
        quality = metadata.get("quality")
        if isinstance(quality, int | float):
            known[pk] = min(9.0, max(1.0, float(quality)))
        lengths[pk] = math.log1p(len(text))
    won: dict[int, float] = defaultdict(float)
    seen: dict[int, int] = defaultdict(int)
    counts = (
        Judgement.objects.of(project)
        .verdicts()
        .values_list("pair__response_a", "pair__response_b", "verdict")
        .annotate(n=Count("pk"))
    )
    for a, b, verdict, n in counts:
        share = {Verdict.A: 1.0, Verdict.B: 0.0}.get(verdict, 0.5)
        won[a] += n * share
        won[b] += n * (1 - share)
        seen[a] += n
        seen[b] += n
    longest = max(lengths.values(), default=1.0) or 1.0
    result = {}
    for pk, length in lengths.items():
        if pk in known:
            result[pk] = known[pk]
        elif seen[pk]:
            result[pk] = 1 + 8 * won[pk] / seen[pk]
        else:
            result[pk] = 1 + 8 * length / longest
    return result


def level_of(project: Project, quality: float) -> str:
    rating = min(9, max(1, round(quality)))
    return next(name for name, (low, high) in project.level_bounds.items() if low <= rating <= high)


def verdict_for(
    project: Project, temper: Temper, a: float, b: float, rng: random.Random
) -> tuple[str, int | None]:
    """A verdict and its strength for two true qualities."""
    if max(a, b) + rng.gauss(temper.leniency, 0.5) <= project.bad_to and abs(a - b) < 1.5:
        return Verdict.BOTH_BAD, None
    # Rao-Kupper ties: the two winning probabilities leave a gap of tie_width between them.
    d, width = temper.sharpness * (a - b), temper.sharpness * temper.tie_width
    draw = rng.random()
    win_a, win_b = 1 / (1 + math.exp(width - d)), 1 / (1 + math.exp(width + d))
    if draw < win_a:
        verdict: str = Verdict.A
    elif draw < win_a + win_b:
        verdict = Verdict.B
    else:
        return Verdict.TIE, None
    return verdict, min(3, max(1, round(abs(a - b) / 2 + rng.gauss(0, 0.4))))


def simulate(
    *,
    project: Project,
    annotators: int,
    judgements: int,
    seed: int = 0,
    sharpness: float = 1.2,
    skip_rate: float = 0.01,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Let simulated annotators judge up to `judgements` cards through the queue; how many were stored.

    Stops early when nothing is open for any of them.
    """
    rng = random.Random(f"{seed}:{project.slug}")
    users = annotators_ensure(project=project, count=annotators)
    tempers = {user.pk: Temper.draw(rng, sharpness) for user in users}
    truth = qualities(project)
    working, stored = list(users), 0
    while working and stored < judgements:
        user = rng.choice(working)
        cards = queue.assignments_for(project=project, annotator=user, count=1)
        if not cards:
            working.remove(user)
            continue
        stored += _judge(project, cards[0], tempers[user.pk], truth, rng, skip_rate)
        progress(stored, judgements)
    return stored


def _judge(
    project: Project,
    card: Assignment,
    temper: Temper,
    truth: dict[int, float],
    rng: random.Random,
    skip_rate: float,
) -> int:
    """Answer one card; 1 if a verdict or level was stored, 0 for a skip."""

    def seen(pk: int) -> float:
        return truth[pk] + temper.leniency + rng.gauss(0, 1 / (1 + temper.sharpness))

    if card.pair_id is None:
        assert card.response_id is not None
        services.level_submit(
            key=card.key,
            annotator=card.annotator,
            level=level_of(project, seen(card.response_id)),
            source=Source.SIMULATED,
        )
        return 1
    pair = Pair.objects.get(pk=card.pair_id)
    if rng.random() < skip_rate:
        services.judgement_submit(
            key=card.key, annotator=card.annotator, verdict=Verdict.SKIP, source=Source.SIMULATED
        )
        return 0
    verdict, strength = verdict_for(
        project, temper, truth[pair.response_a_id], truth[pair.response_b_id], rng
    )
    levels = {}
    if project.asks_levels:
        levels = {pk: level_of(project, seen(pk)) for pk in (pair.response_a_id, pair.response_b_id)}
    services.judgement_submit(
        key=card.key,
        annotator=card.annotator,
        verdict=verdict,
        strength=strength,
        levels=levels,
        source=Source.SIMULATED,
    )
    return 1
