"""A small project with every kind of label, for snapshots and exports."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Judgement, QualityLabel

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def judge(db: None) -> Callable[..., Judgement]:
    """judge(pair, user, "a") stores a current judgement."""
    count = 0

    def make(pair: Pair, user: User, verdict: str, **fields: Any) -> Judgement:
        nonlocal count
        count += 1
        given = {"created_at": WHEN, "client_key": f"test:{count}", **fields}
        return Judgement.objects.create(pair=pair, annotator=user, verdict=verdict, **given)

    return make


@pytest.fixture
def labelled(
    project: Project,
    make_prompt: Callable[..., Prompt],
    make_user: Callable[..., User],
    judge: Callable[..., Judgement],
) -> Project:
    """p1: a (2 of 3) on pair 1-2, a tie on 1-3, both bad on 2-3; p2: a and b on 1-2. Skips, a correction, levels."""
    make_prompt(project, "p1", ["=Sum(1)", "Zwei ☃", "Three."], group="debate")
    make_prompt(project, "p2", ["+1", "Other"])
    people = [make_user(name) for name in ("kim", "lee")]
    people.append(User.objects.create(username="capitals:max", kind=User.Kind.IMPORTED, is_active=False))
    pairs = {pair.external_id: pair for pair in Pair.objects.of(project)}
    first = pairs["p1-r1:p1-r2"]
    old = judge(first, people[0], "b", is_current=False)
    judge(first, people[0], "a", supersedes=old, strength=2, reasons=["clear"], comment="@home", left="b",
          policy="random", propensity=0.25, shown_at=WHEN)  # fmt: skip
    judge(first, people[1], "a")
    judge(first, people[2], "tie")
    judge(pairs["p1-r1:p1-r3"], people[0], "tie")
    judge(pairs["p1-r2:p1-r3"], people[1], "both_bad")
    judge(pairs["p2-r1:p2-r2"], people[0], "a")
    judge(pairs["p2-r1:p2-r2"], people[1], "b")
    judge(pairs["p2-r1:p2-r2"], people[2], "skip")
    responses = {response.external_id: response for response in Response.objects.of(project)}
    for number, (name, person, level) in enumerate(
        [("p1-r1", 0, "good"), ("p1-r2", 0, "bad"), ("p1-r3", 1, "normal"), ("p2-r1", 2, "good")]
    ):
        QualityLabel.objects.create(
            response=responses[name],
            annotator=people[person],
            level=level,
            created_at=WHEN,
            client_key=f"level:{number}",
        )
    return project
