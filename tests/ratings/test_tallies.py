"""What lists are sorted by follows the labels, whoever changes them, and says so where it is behind."""

from collections.abc import Callable

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Judgement, QualityLabel
from webapp.labels.summaries import Votes, level_counts, vote_counts
from webapp.ratings import searching, tallies
from webapp.ratings.models import NOTHING, PairGap, PairTally, ResponseTally, SearchText, Uncounted
from webapp.training.models import ModelVersion


@pytest.fixture
def pairs(project: Project, make_prompt: Callable[..., Prompt]) -> list[Pair]:
    for number in range(3):
        make_prompt(project, f"p{number}", ["One.", "Two."])
    return list(Pair.objects.of(project).order_by("pk"))


def as_counted(project: Project) -> None:
    """Every pair and response has a row, and it says what the labels say."""
    assert tallies.catch_up(project) == tallies.Freshness()
    kept = {tally.pair_id: tally for tally in PairTally.objects.filter(project=project)}
    votes = vote_counts(kept)
    assert set(kept) == set(Pair.objects.of(project).values_list("pk", flat=True))
    for pk, tally in kept.items():
        said = votes.get(pk, Votes())
        expected = [said.total, said.share, said.disagreement, said.weaker]
        found = [tally.total, tally.share, tally.disagreement, tally.weaker]
        assert found == [NOTHING if value is None else value for value in expected]
    rows = {tally.response_id: tally for tally in ResponseTally.objects.filter(project=project)}
    assert set(rows) == set(Response.objects.of(project).values_list("pk", flat=True))
    levels = level_counts(rows)
    for pk, row in rows.items():
        assert {name: getattr(row, name) for name in ("bad", "normal", "good")} == (
            levels[pk].counts if pk in levels else {"bad": 0, "normal": 0, "good": 0}
        )
        assert row.labelled == (pk in levels or Pair.objects.with_response(pk).filter(judged__gt=0).exists())


def test_tallies_follow_every_change(
    project: Project,
    pairs: list[Pair],
    make_user: Callable[..., User],
    make_prompt: Callable[..., Prompt],
    judge: Callable[..., Judgement],
    rate: Callable[..., QualityLabel],
) -> None:
    as_counted(project)
    anna, ben = make_user("anna"), make_user("ben")
    first = judge(pairs[0], anna, "a")
    judge(pairs[0], ben, "b")
    rate(pairs[1].response_a, ben, "good")
    as_counted(project)
    # A correction is an update and a new row; an undo of an import deletes rows without the collector.
    Judgement.objects.filter(pk=first.pk).update(is_current=False)
    judge(pairs[0], anna, "tie", supersedes=first)
    as_counted(project)
    labels = QualityLabel.objects.filter(response=pairs[1].response_a)
    labels._raw_delete(labels.db)
    make_prompt(project, "later", ["Three.", "Four."])
    as_counted(project)
    Pair.objects.filter(pk=pairs[2].pk).delete()
    as_counted(project)
    assert not Uncounted.objects.exists()


def test_a_change_that_is_rolled_back_notes_nothing(
    project: Project, pairs: list[Pair], annotator: User, judge: Callable[..., Judgement]
) -> None:
    tallies.catch_up(project)
    with transaction.atomic():
        judge(pairs[0], annotator, "a")
        assert Uncounted.objects.exists()
        transaction.set_rollback(True)
    assert not Uncounted.objects.exists()


def test_much_is_left_to_the_worker_and_the_page_says_so(
    project: Project,
    pairs: list[Pair],
    researcher: User,
    judge: Callable[..., Judgement],
    client_of: Callable[[User], Client],
    make_version: Callable[..., ModelVersion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = make_version(project, dict.fromkeys(project.responses.all(), 5.0), method="bt")
    tallies.catch_up(project)
    monkeypatch.setattr(tallies, "AT_ONCE", 2)
    for pair in pairs:
        judge(pair, researcher, "a")
    client = client_of(researcher)
    address = reverse("ratings:pairs", args=[project.slug]) + "?sort=-model"
    page = client.get(address)
    assert page.context["page"].fresh.waiting == 3
    assert "labels of 3 pairs and responses are newer" in " ".join(page.content.decode().split())
    assert "is being compared with what people said" in " ".join(page.content.decode().split())
    # The pages of another project have nothing to wait for.
    assert tallies.catch_up(Project.objects.create(slug="other", name="Other")) == tallies.Freshness()
    assert tallies.count_noted() == 3
    assert tallies.compare_noted() == 1
    page = client.get(address)
    assert page.context["page"].fresh == tallies.Freshness()
    assert [gap.gap for gap in PairGap.objects.filter(version=version)] == [0.5] * 3
    as_counted(project)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_search_finds_every_part_of_a_text_and_only_that(
    indexed: bool,
    project: Project,
    make_prompt: Callable[..., Prompt],
    researcher: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [
        'Say "null", 100% sure.',
        "Ein GRÖßERER Satz über Straßen",
        "日本語の文章です",
        "a_b\\c 'quoted'",
    ]
    responses = list(make_prompt(project, "odd", texts).responses.order_by("pk"))
    tallies.catch_up(project)
    monkeypatch.setattr(searching, "_has_trigrams", lambda: indexed)
    for number, parts in enumerate(
        [
            ['"null"', "100% s", "0% S"],
            ["größerer", "STRASSEN", "er"],
            ["日本", "の文章"],
            ["a_b\\", "'q", "b\\C '"],
        ]
    ):
        for part in parts:
            found = list(Response.objects.filter(searching.says(part, "sought__")))
            if part == "STRASSEN":  # ß is no ss: letters are made small, not spelt otherwise
                assert not found
            else:
                assert responses[number] in found, part
                assert all(part.lower() in each.text.lower() for each in found if len(part) > 2), part
    assert not Response.objects.filter(searching.says("a%b", "sought__")).exists()
    assert len(Response.objects.filter(searching.says("question odd", "sought__"))) == 4
    # What is deleted is found no more, not even in the index.
    Response.objects.filter(pk=responses[2].pk).delete()
    assert not Response.objects.filter(searching.says("日本語", "sought__")).exists()
    assert not SearchText.objects.filter(words__contains="日本語").exists()


def test_notes_of_what_is_gone_are_forgotten(project: Project, pairs: list[Pair]) -> None:
    Pair.objects.of(project).delete()
    Response.objects.of(project).delete()
    tallies.count_noted()
    assert not Uncounted.objects.exists()
