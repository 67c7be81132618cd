"""Two versions on the same held-out rows: figures worked out again with numpy, lists, roles, queries."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.core.cache import caches
from django.test import Client
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Judgement, QualityLabel
from webapp.ratings.comparing import comparison, new_judgements, settings_apart, versions_asked
from webapp.ratings.models import Prediction
from webapp.training.models import ModelVersion

LEVELS = ("bad", "normal", "good")
GROUPS = 8


@pytest.fixture
def two(
    project: Project,
    make_prompt: Callable[..., Prompt],
    make_version: Callable[..., ModelVersion],
    annotator: User,
    admin: User,
    judge: Callable[..., Judgement],
    rate: Callable[..., QualityLabel],
) -> tuple[ModelVersion, ModelVersion]:
    """(older, newer) of oprm on eight prompts of three responses each, two people on each pair; p8 is learnt by one."""
    rng = np.random.default_rng(3)
    now = timezone.now()
    for number in range(1, GROUPS + 1):
        make_prompt(project, f"p{number}", ["one", "two, longer", "three, the longest of all"])
    responses = list(Response.objects.of(project).order_by("pk"))
    older = make_version(
        project,
        {response: float(rng.uniform(1.5, 8.5)) for response in responses},
        snapshot_at=now - timedelta(days=2),
        is_serving=False,
    )
    newer = make_version(
        project,
        {response: float(rng.uniform(1.5, 8.5)) for response in responses},
        snapshot_at=now - timedelta(hours=1),
    )
    newer.predictions.filter(response__prompt__external_id="p8").update(split="train")
    for pair in Pair.objects.of(project).order_by("pk"):
        for person, verdict in ((annotator, rng.choice(["a", "b", "tie"])), (admin, rng.choice(["a", "b"]))):
            judge(pair, person, str(verdict))
    for response in responses:
        rate(response, annotator, str(rng.choice(LEVELS)))
    return older, newer


def exported(version: ModelVersion) -> dict[str, dict[str, Any]]:
    columns = ("score", "p", "split", "response__prompt__external_id", "response__text")
    return {
        row["response__external_id"]: row
        for row in version.predictions.values("response__external_id", *columns)
    }


def test_the_figures_are_those_of_numpy_on_exported_predictions(
    project: Project, two: tuple[ModelVersion, ModelVersion]
) -> None:
    older, newer = two
    rows = exported(newer), exported(older)
    fair = {name for name in rows[0] if all(each[name]["split"] == "held_out" for each in rows)}
    assert len(fair) == 3 * (GROUPS - 1)
    right: list[list[float]] = []
    group: list[str] = []
    logs: list[list[float]] = []
    length: list[float] = []
    turned = set()
    for pair in Pair.objects.of(project).select_related("response_a", "response_b"):
        a, b = pair.response_a.external_id, pair.response_b.external_id
        if not {a, b} <= fair:
            continue
        said = list(pair.judgements.values_list("verdict", flat=True))
        q = np.mean([{"a": 1.0, "b": 0.0}.get(verdict, 0.5) for verdict in said])
        signs = [np.sign(each[a]["score"] - each[b]["score"]) for each in rows]
        if signs[0] != signs[1]:
            turned.add(pair.pk)
        for verdict in said:
            if verdict in ("a", "b"):
                side = 1 if verdict == "a" else -1
                right.append([0.5 + 0.5 * side * sign for sign in signs])
                length.append(
                    0.5
                    + 0.5
                    * side
                    * np.sign(len(rows[0][a]["response__text"]) - len(rows[0][b]["response__text"]))
                )
                group.append(rows[0][a]["response__prompt__external_id"])
        joint = [np.outer(each[a]["p"], each[b]["p"]) for each in rows]  # [9, 9]
        p = [np.tril(each, -1).sum() + np.trace(each) / 2 for each in joint]
        logs.append([-q * np.log(each) - (1 - q) * np.log(1 - each) for each in p])

    found = comparison(newer, older, project)
    measures = {row.name: row for row in found.rows}
    accuracy = measures["Pair accuracy"]
    assert (found.pairs, found.groups) == (3 * (GROUPS - 1), GROUPS - 1)
    assert accuracy.difference.n == len(right)
    assert [accuracy.new, accuracy.old] == pytest.approx(np.mean(right, axis=0))
    assert accuracy.difference.value == pytest.approx(np.mean(right, axis=0) @ [1, -1])
    assert found.longer == pytest.approx(np.mean(length))
    nll = measures["Log loss against vote shares (NLL)"]
    assert [nll.new, nll.old] == pytest.approx(np.mean(logs, axis=0))
    assert {each.pair for each in found.turned} == turned
    # Another bootstrap of whole groups has about the same interval.
    names, number = np.unique(group, return_inverse=True)
    apart = np.array(right) @ [1, -1]
    sums, sizes = np.bincount(number, weights=apart), np.bincount(number)
    drawn = np.random.default_rng(7).integers(0, len(names), size=(4000, len(names)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    assert [accuracy.difference.low, accuracy.difference.high] == pytest.approx([low, high], abs=0.03)
    # Levels of the same responses
    levels = {
        label.response.external_id: LEVELS.index(label.level)
        for label in QualityLabel.objects.select_related("response")
    }
    masses = [{name: np.add.reduceat(each[name]["p"], [0, 3, 6]) for name in fair} for each in rows]
    hits = [np.mean([np.argmax(each[name]) == levels[name] for name in fair]) for each in masses]
    rps = [
        np.mean(
            [np.sum((np.cumsum(each[name])[:2] - (levels[name] <= np.arange(2))) ** 2) / 2 for name in fair]
        )
        for each in masses
    ]
    assert [measures["Level accuracy"].new, measures["Level accuracy"].old] == pytest.approx(hits)
    by_rps = measures["Level error (ranked probability score, RPS)"]
    assert [by_rps.new, by_rps.old] == pytest.approx(rps)


def test_rewards_with_cut_points_are_compared_on_levels_too(
    project: Project, two: tuple[ModelVersion, ModelVersion]
) -> None:
    older, newer = two
    older.kind, older.method = "scalar", "bt"
    older.metrics = {**older.metrics, "level_cuts": [3.0, 6.5], "training": {"levels": 24}}
    older.save()
    older.predictions.update(p=None, expected=None)
    measures = {row.name: row for row in comparison(newer, older, project).rows}
    hits = []
    for row in older.predictions.select_related("response").exclude(response__prompt__external_id="p8"):
        below = 1 / (1 + np.exp(row.score - np.array([3.0, 6.5])))
        shares = np.diff([0.0, *below, 1.0])
        hits.append(LEVELS[int(np.argmax(shares))] == row.response.quality_labels.get().level)
    assert measures["Level accuracy"].old == pytest.approx(np.mean(hits))
    assert measures["Level accuracy"].difference.n == len(hits) == 3 * (GROUPS - 1)


def test_settings_that_mean_nothing_to_one_of_the_methods_are_no_difference() -> None:
    common = {"base_model": "org/a", "alpha": 0.2, "seed": 0}
    judge = ModelVersion(
        method="judge", metrics={"config": common | {"samples": 4, "guidelines": "Be brief."}}
    )
    grm = ModelVersion(
        method="grm", metrics={"config": common | {"alpha": 0.3, "samples": 8, "guidelines": ""}}
    )
    oprm = ModelVersion(method="oprm", metrics={"config": common | {"samples": 8, "seed": 1}})
    assert settings_apart(judge, oprm)[1:] == [("seed", 0, 1)]
    assert settings_apart(judge, grm) == [
        ("guidelines", "9 characters, sha256 213c22ed", ""), ("samples", 4, 8),
    ]  # fmt: skip


def test_a_pair_that_turned_round_says_who_is_with_people(
    project: Project,
    make_prompt: Callable[..., Prompt],
    make_version: Callable[..., ModelVersion],
    judge: Callable[..., Judgement],
    annotator: User,
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    make_prompt(project, "p1", ["Paris", "Lyon"])
    make_prompt(project, "p2", ["Rome", "Milan"])
    make_prompt(project, "p3", ["Bonn", "Berlin"])
    a1, b1, a2, b2, a3, b3 = Response.objects.of(project).order_by("pk")
    old = make_version(project, {a1: 3, b1: 6, a2: 7, b2: 2, a3: 5, b3: 4}, is_serving=False)
    new = make_version(project, {a1: 7, b1: 2, a2: 6, b2: 3, a3: 3, b3: 8})
    first, second, third = Pair.objects.of(project).order_by("pk")
    for pair in (first, second, third):
        judge(pair, annotator, "a")
    found = comparison(new, old, project)
    assert [(each.pair, each.right) for each in found.turned] == [(first.pk, "new"), (third.pk, "old")]
    assert (found.won, found.lost) == (1, 1)
    address = f"/p/{project.slug}/versions/compare/?new={new.address}&old={old.address}"
    page = " ".join(client_of(researcher).get(address).content.decode().split())
    assert f'href="/p/{project.slug}/pairs/{first.pk}/"' in page
    assert f'href="/p/{project.slug}/pairs/{second.pk}/"' not in page
    moved = client_of(researcher).get(f"{address}&show=responses").context["page"].object_list
    assert [row.response_id for row in moved][:2] == [a1.pk, b1.pk]


def test_a_row_without_labels_then_is_fair_where_the_group_is_held_out_now(
    project: Project, two: tuple[ModelVersion, ModelVersion]
) -> None:
    older, newer = two
    older.predictions.filter(response__prompt__external_id__in=["p1", "p2"]).update(split="unlabelled")
    caches["local"].clear()
    assert comparison(newer, older, project).pairs == 3 * (GROUPS - 3)
    newer.metrics = newer.metrics | {"split": {"unit": "group", "held_out": ["p1", "p2", "p3"]}}
    newer.save()
    older.predictions.filter(response__external_id="p2-r1").update(split="train")
    caches["local"].clear()
    assert comparison(newer, older, project).pairs == 3 * (GROUPS - 2), "p2 is learnt of, p1 is not"


def test_labels_that_came_between_the_snapshots(
    project: Project, two: tuple[ModelVersion, ModelVersion]
) -> None:
    older, newer = two
    assert not new_judgements(newer, older).exists()
    early = Judgement.objects.order_by("pk").first()
    assert early is not None
    Judgement.objects.filter(pk=early.pk).update(created_at=timezone.now() - timedelta(days=1))
    assert [row.pk for row in new_judgements(newer, older)] == [early.pk]
    assert [row.pk for row in new_judgements(older, newer)] == [early.pk], "either way round"


def test_versions_that_share_no_row_say_so(
    project: Project,
    two: tuple[ModelVersion, ModelVersion],
    researcher: User,
    client_of: Callable[[User], Client],
) -> None:
    Prediction.objects.filter(version=two[0]).update(split="train")
    page = client_of(researcher).get(f"/p/{project.slug}/versions/compare/").content.decode()
    assert "These two can't be compared on labels." in page.replace("&#x27;", "'")


def test_which_versions_are_compared_unless_named(
    project: Project, two: tuple[ModelVersion, ModelVersion]
) -> None:
    older, newer = two

    def asked(new: str, old: str) -> tuple[ModelVersion | None, ModelVersion | None]:
        found = versions_asked(project, new, old)
        return found.new, found.old

    assert asked("", "") == (newer, older)
    assert asked(older.address, "") == (older, newer)
    assert asked(newer.address, newer.address) == (newer, older), "never with itself"
    assert asked("bt-99", older.address) == (newer, older)
    newer.delete()
    assert asked("", "") == (older, None)
    older.delete()
    assert asked("", "") == (None, None)


@pytest.mark.parametrize("show", ["pairs", "responses", "judgements", "levels"])
def test_as_many_queries_for_many_rows(
    show: str,
    project: Project,
    two: tuple[ModelVersion, ModelVersion],
    researcher: User,
    stranger: User,
    annotator: User,
    client_of: Callable[[User], Client],
    django_assert_max_num_queries: Any,
) -> None:
    address = f"/p/{project.slug}/versions/compare/?show={show}"
    Judgement.objects.update(created_at=timezone.now() - timedelta(days=1))
    QualityLabel.objects.update(created_at=timezone.now() - timedelta(days=1))
    client = client_of(researcher)
    with django_assert_max_num_queries(22) as asked:
        page = client.get(address)
    assert page.status_code == 200
    assert page.context["page"].object_list
    few = Judgement.objects.order_by("pk")[3:].values("pk")
    Judgement.objects.filter(pk__in=list(few.values_list("pk", flat=True))).delete()
    caches["local"].clear()
    client = client_of(researcher)
    with django_assert_max_num_queries(len(asked)):
        client.get(address)
    assert client_of(annotator).get(address).status_code == 403
    assert client_of(stranger).get(address).status_code == 404
