"""Reports as a reward server sends them, and a project in which they have come for a while."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.labels.models import Judgement, QualityLabel
from webapp.rollouts.models import RolloutPair
from webapp.rollouts.services import rollouts_take
from webapp.training.models import ModelVersion

BEGIN = datetime(2026, 11, 1, 12, tzinfo=UTC)


def rollout(text: str, score: float = 5.0, **fields: Any) -> dict[str, Any]:
    p = [0.0, 0.0, 0.0, 0.25, 0.5, 0.25, 0.0, 0.0, 0.0]
    return {"text": text, "score": score, "expected": score, "spread": 0.7, "p": p, **fields}


def pair(name: object, *, why: str = "random", preferred: float = 0.8, **fields: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"Question {name}?"}],
        "a": rollout(f"First answer to {name}.", 6.0),
        "b": rollout(f"Second answer to {name}!", 4.0),
        "why": why,
        "propensity": 0.1 if why == "random" else 1.0,
        "preferred": preferred,
        **fields,
    }


def report(version: ModelVersion, pairs: list[Any], *, place: int = 0, **fields: Any) -> dict[str, Any]:
    """A window's report; `place` moves it by so many minutes."""
    begin = BEGIN + timedelta(minutes=place)
    return {
        "server": "gpu-1",
        "version": version.digest,
        "window": {"from": begin.isoformat(), "to": (begin + timedelta(minutes=1)).isoformat()},
        "seen": 512,
        "prompts": 64,
        "candidates": 1792,
        "rewards": {"count": 512, "mean": 5.0 + 0.1 * place, "sd": 1.2},
        "length": {"mean": 420.0, "sd": 80.0},
        "pairs": pairs,
        **fields,
    }


def tell(project: Project, versions: list[ModelVersion], *, windows: int = 4, seed: int = 1) -> None:
    """Windows of each version in turn, with random pairs that three people have judged.

    The first version is right about people; with the last one they don't agree.
    """
    rng = random.Random(seed)
    people = [User.objects.create(username=f"judge-{seed}-{number}") for number in range(3)]
    place = 100 * seed
    for version in versions:
        for _ in range(windows):
            name = f"{seed}-{place}"
            pairs = [pair(f"{name}-{n}", preferred=rng.choice([0.75, 0.85])) for n in range(6)]
            pairs += [pair(f"{name}-u", why="uncertain", preferred=0.5), pair(f"{name}-m", why="moved")]
            rollouts_take(project=project, report=report(version, pairs, place=place), reporter=None)
            place += 1
        agreed = 0.8 if version != versions[-1] or len(versions) == 1 else 0.1
        rows = RolloutPair.objects.of(project).drawn().filter(window__version=version, pair__judged=0)
        for row in rows.select_related("pair"):
            verdicts = ["a" if rng.random() < agreed else rng.choice(["b", "tie"]) for _ in people]
            for person, verdict in zip(people, verdicts, strict=True):
                key = f"{row.pk}:{person.pk}"
                Judgement.objects.create(pair=row.pair, annotator=person, verdict=verdict, client_key=key)
            level = "good" if rng.random() < agreed else "bad"
            QualityLabel.objects.get_or_create(
                response=row.pair.response_a,
                annotator=people[0],
                defaults={"level": level, "client_key": f"{row.pk}:level"},
            )
            row.pair.judged = len(people)
            row.pair.save(update_fields=["judged"])
