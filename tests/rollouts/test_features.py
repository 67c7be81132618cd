"""The features of texts are those of the reward server, and the reference is that of the judged responses."""

import math
from collections.abc import Callable
from statistics import fmean, pstdev

import pytest

from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.rollouts.features import READ, features, reference_of
from webapp.rollouts.services import settings_for
from workers.rewards.serving import sampling

TEXTS = [
    "",
    "# Hi\n- **a** b\n- a `c`!\nWhy?",
    "1. one\n2) two\n  * three\n\t\u2022 four\n-five",
    "####### seven\n###### six\n#\ttab",
    "Über 👩‍👩‍👧 \u2028 — “x”\r\n\r\nword Word WORD word",
    "`" * 30_000 + "# not read\n",
    "a" * 25_000,
]


def test_both_halves_say_the_same() -> None:
    for text in TEXTS:
        assert features(text[:READ], len(text)) == sampling.features(text)
    known = features(TEXTS[1], len(TEXTS[1]))
    assert [round(value, 6) for value in known.values()] == [
        3.367296, 0.693147, 1.098612, 0.693147, 1.098612, 0.693147, 0.693147, 0.111111,
    ]  # fmt: skip


def test_the_reference_is_of_what_people_judged(asking: Project, make_prompt: Callable[..., Prompt]) -> None:
    make_prompt(asking, "p", texts=[f"{'word ' * n}!\n# Headline {n}" for n in range(1, 31)], pairs=False)
    rows = list(Response.objects.order_by("pk"))
    for a, b in zip(rows[:24:2], rows[1:24:2], strict=True):
        Pair.objects.create(project=asking, external_id=f"{a.pk}", response_a=a, response_b=b)
    assert reference_of(asking) is None
    Pair.objects.update(judged=1)
    told = settings_for(asking)
    assert told is not None
    assert told["shares"] == pytest.approx({"uncertain": 0.33, "moved": 0.33, "random": 0.34})
    reference = told["reference"]
    measured = [sampling.features(row.text) for row in rows[:24]]
    assert reference["length"]["mean"] == pytest.approx(fmean(one["length"] for one in measured))
    assert reference["style"]["repetition"]["sd"] == pytest.approx(
        pstdev(one["repetition"] for one in measured)
    )
    assert reference["style"]["headers"] == {"mean": pytest.approx(math.log(2)), "sd": pytest.approx(0)}
    assert sampling.distance("word !\n# Headline 1" + "!" * 50, reference) > 10
    assert set(reference["style"]) | {"length"} == set(measured[0])
