"""Storing answers: once per intent, append-only, within the wanted overlap, and taking them back."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.labels.recount import counters_recount
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Assignment, Judgement, QualityLabel
from webapp.labels.queue import assignments_for, reservations_expire
from webapp.labels.services import Refused, judgement_submit, judgement_undo, level_submit, undoable

pytestmark = pytest.mark.django_db


def submit(card: Assignment, verdict: str = "a", levels: str = "good bad", **fields: Any) -> Any:
    """Answer a card; `levels` are those of response a and response b."""
    assert card.pair is not None
    given = {}
    if verdict != "skip" and card.project.asks == "both":
        pks = (card.pair.response_a_id, card.pair.response_b_id)
        given = dict(zip(pks, levels.split(), strict=True))
    return judgement_submit(key=card.key, annotator=card.annotator, verdict=verdict, levels=given, **fields)


def take(project: Project, annotator: User) -> Assignment:
    [card] = assignments_for(project=project, annotator=annotator, count=1)
    return card


def expire(card: Assignment) -> None:
    Assignment.objects.filter(pk=card.pk).update(reserved_until=timezone.now() - timedelta(seconds=1))
    assert reservations_expire() == 1


def counters(pair: Pair | None) -> tuple[int, int]:
    assert pair is not None
    pair.refresh_from_db()
    return pair.judged, pair.reserved


def current_levels(annotator: User) -> dict[str, str]:
    rows = QualityLabel.objects.current().filter(annotator=annotator)
    return dict(rows.values_list("response__external_id", "level"))


def assert_counters_are_right(project: Project) -> None:
    def all_counters() -> list[Any]:
        pairs = Pair.objects.of(project).order_by("pk").values_list("judged", "reserved")
        return [*pairs, *Response.objects.of(project).order_by("pk").values_list("labelled", "reserved")]

    before = all_counters()
    counters_recount(project=project)
    assert all_counters() == before


@pytest.fixture
def pair(project: Project, make_prompt: Callable[..., Prompt]) -> Pair:
    make_prompt(project, "p", ["one", "two"])
    return Pair.objects.get()


@pytest.fixture
def three(project: Project, make_prompt: Callable[..., Prompt]) -> None:
    """Three pairs of three responses."""
    make_prompt(project, "p", ["one", "two", "three"])


class TestSubmit:
    def test_stores_the_verdict_its_levels_and_how_the_pair_was_chosen(
        self, project: Project, annotator: User, pair: Pair
    ) -> None:
        card = take(project, annotator)
        shown = timezone.now() - timedelta(seconds=9)
        receipt = submit(
            card, "b", "normal good", strength=2, comment=" fine\r\nreally ", shown_at=shown, reasons=["x"]
        )
        assert receipt.kept
        assert receipt.message == ""
        row = Judgement.objects.get()
        assert receipt.judgement == row
        assert receipt.saved_at == row.created_at
        assert (row.verdict, row.strength, row.comment, row.reasons, row.shown_at) == (
            "b",
            2,
            "fine\nreally",
            ["x"],
            shown,
        )
        assert (row.left, row.policy, row.propensity) == (card.left, "finish-started", 1.0)
        assert (row.source, row.client_key, row.is_current) == ("browser", f"{card.key}:0", True)
        assert current_levels(annotator) == {"p-r1": "normal", "p-r2": "good"}
        assert set(QualityLabel.objects.values_list("judgement", flat=True)) == {row.pk}
        card.refresh_from_db()
        assert (card.state, card.holds_place) == ("done", False)
        assert counters(pair) == (1, 0)
        assert_counters_are_right(project)

    def test_the_same_intent_again_gets_the_same_receipt(
        self, project: Project, annotator: User, pair: Pair
    ) -> None:
        card = take(project, annotator)
        first = submit(card, revision=0)
        for again in (submit(card, revision=0), submit(card), submit(card, revision=1)):
            assert again == first
        assert Judgement.objects.count() == 1
        assert QualityLabel.objects.count() == 2
        assert counters(pair) == (1, 0)

    def test_another_answer_on_the_same_card_supersedes(
        self, project: Project, annotator: User, pair: Pair
    ) -> None:
        card = take(project, annotator)
        first = submit(card, "a", "good bad", revision=0).judgement
        second = submit(card, "tie", "good normal", revision=1).judgement
        first.refresh_from_db()
        assert (first.verdict, first.is_current, second.is_current) == ("a", False, True)
        assert second.supersedes == first
        assert current_levels(annotator) == {"p-r1": "good", "p-r2": "normal"}
        assert QualityLabel.objects.count() == 4
        assert counters(pair) == (1, 0)
        # A level alone is another answer, too.
        assert submit(card, "tie", "good bad").judgement.supersedes == second
        assert_counters_are_right(project)

    def test_a_late_repetition_does_not_bring_an_undone_answer_back(
        self, project: Project, annotator: User, pair: Pair
    ) -> None:
        card = take(project, annotator)
        first = submit(card, revision=0).judgement
        judgement_undo(project=project, annotator=annotator)
        assert submit(card, revision=0).judgement == first
        assert not Judgement.objects.current().exists()
        # The reopened card has revision 2: there the same answer is a new intent.
        assert submit(card, revision=2).judgement.client_key == f"{card.key}:2"
        assert_counters_are_right(project)

    def test_skip_frees_the_place_and_may_be_corrected(
        self, project: Project, annotator: User, admin: User, pair: Pair
    ) -> None:
        card = take(project, annotator)
        assert submit(card, "skip").kept
        assert counters(pair) == (0, 0)
        assert submit(card, "a").kept
        assert counters(pair) == (1, 0)
        assert submit(card, "skip").kept
        assert counters(pair) == (0, 0)
        assert_counters_are_right(project)

    def test_a_skip_corrected_when_all_places_are_gone_is_not_stored(
        self, project: Project, annotator: User, make_user: Callable[..., User], pair: Pair
    ) -> None:
        card = take(project, annotator)
        submit(card, "skip")
        for name in ("one", "two"):
            submit(take(project, make_user(name, project, "annotator")))
        receipt = submit(card, "b")
        assert not receipt.kept
        assert "Not stored" in receipt.message
        assert counters(pair) == (2, 0)
        assert [row.verdict for row in Judgement.objects.filter(annotator=annotator)] == ["skip"]

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"verdict": "c"}, "verdict"),
            ({"verdict": ""}, "verdict"),
            ({"strength": 4}, "strength"),
            ({"verdict": "tie", "strength": 1}, "strength"),
            ({"comment": "x" * 4001}, "comment"),
            ({"levels": "good great"}, "level_b"),
            ({"reasons": ["x"] * 21}, "reasons"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, project: Project, annotator: User, pair: Pair, fields: dict[str, Any], field: str
    ) -> None:
        card = take(project, annotator)
        with pytest.raises(Refused) as refused:
            submit(card, **fields)
        assert list(refused.value.errors) == [field]
        assert Judgement.objects.count() == QualityLabel.objects.count() == 0
        assert counters(pair) == (0, 1)

    def test_levels_are_required_where_the_project_asks_for_both(
        self, project: Project, annotator: User, pair: Pair
    ) -> None:
        card = take(project, annotator)
        with pytest.raises(Refused, match="choose bad, normal or good") as refused:
            judgement_submit(
                key=card.key, annotator=annotator, verdict="a", levels={pair.response_a_id: "good"}
            )
        assert list(refused.value.errors) == ["level_b"]
        with pytest.raises(Refused, match="not on this card"):
            judgement_submit(key=card.key, annotator=annotator, verdict="a", levels={10**6: "good"})
        with pytest.raises(Refused, match="no levels"):
            judgement_submit(
                key=card.key, annotator=annotator, verdict="skip", levels={pair.response_a_id: "good"}
            )

    def test_somebody_elses_card(self, project: Project, annotator: User, admin: User, pair: Pair) -> None:
        card = take(project, annotator)
        with pytest.raises(Assignment.DoesNotExist):
            judgement_submit(key=card.key, annotator=admin, verdict="a")
        with pytest.raises(Assignment.DoesNotExist):
            judgement_submit(key=uuid.uuid4(), annotator=annotator, verdict="a")
        with pytest.raises(Assignment.DoesNotExist):
            level_submit(key=card.key, annotator=annotator, level="good")

    def test_nul_in_a_comment(self, project: Project, annotator: User, pair: Pair) -> None:
        assert submit(take(project, annotator), comment="a\x00b").judgement.comment == "ab"

    def test_a_newer_level_of_the_same_response_supersedes(
        self, project: Project, annotator: User, three: None
    ) -> None:
        for levels in ("good good", "bad bad", "normal normal"):
            submit(take(project, annotator), "tie", levels)
        assert QualityLabel.objects.count() == 6
        assert len(current_levels(annotator)) == 3
        assert "good" in QualityLabel.objects.filter(is_current=False).values_list("level", flat=True)
        assert set(Response.objects.values_list("labelled", flat=True)) == {1}
        assert_counters_are_right(project)


class TestExpired:
    def test_kept_while_the_pair_still_wants_one(self, project: Project, annotator: User, pair: Pair) -> None:
        card = take(project, annotator)
        expire(card)
        receipt = submit(card)
        assert receipt.kept
        assert "still wanted" in receipt.message
        assert counters(pair) == (1, 0)
        card.refresh_from_db()
        assert card.state == "done"

    def test_not_stored_when_others_took_all_places(
        self, project: Project, annotator: User, make_user: Callable[..., User], pair: Pair
    ) -> None:
        card = take(project, annotator)
        expire(card)
        for name in ("one", "two"):
            submit(take(project, make_user(name, project, "annotator")))
        receipt = submit(card)
        assert (receipt.kept, receipt.judgement) == (False, None)
        assert "others gave all the judgements" in receipt.message
        assert counters(pair) == (2, 0)
        assert not Judgement.objects.filter(annotator=annotator).exists()
        assert not QualityLabel.objects.filter(annotator=annotator).exists()
        assert_counters_are_right(project)

    def test_a_skip_is_always_kept(
        self, project: Project, annotator: User, make_user: Callable[..., User], pair: Pair
    ) -> None:
        card = take(project, annotator)
        expire(card)
        for name in ("one", "two"):
            submit(take(project, make_user(name, project, "annotator")))
        assert submit(card, "skip").kept
        assert counters(pair) == (2, 0)

    def test_an_old_card_uses_the_place_of_the_same_pair_given_again(
        self, project: Project, annotator: User, pair: Pair
    ) -> None:
        old = take(project, annotator)
        expire(old)
        new = take(project, annotator)
        assert (new.pair_id, new.key == old.key) == (old.pair_id, False)
        assert submit(old, "b").kept
        assert counters(pair) == (1, 0)
        assert set(Assignment.objects.values_list("state", flat=True)) == {"done"}
        # The newer card, sent after all, is a correction: one judgement of this person counts.
        assert submit(new, "a").kept
        assert counters(pair) == (1, 0)
        assert Judgement.objects.verdicts().get().verdict == "a"
        assert_counters_are_right(project)


class TestUndo:
    def test_reopens_the_card_with_a_place(self, project: Project, annotator: User, pair: Pair) -> None:
        card = take(project, annotator)
        submit(card)
        assert undoable(project=project, annotator=annotator) == Judgement.objects.get()
        reopened = judgement_undo(project=project, annotator=annotator)
        assert reopened == card
        assert (reopened.state, reopened.holds_place) == ("open", True)
        assert reopened.reserved_until > timezone.now() + timedelta(minutes=29)
        assert counters(pair) == (0, 1)
        first, second = Judgement.objects.order_by("pk")
        assert (first.verdict, first.is_current, first.retraction) == ("a", False, False)
        assert (second.verdict, second.is_current, second.retraction, second.supersedes) == (
            "skip",
            True,
            True,
            first,
        )
        assert not Judgement.objects.current().exists()
        assert current_levels(annotator) == {}
        assert QualityLabel.objects.filter(retraction=True, is_current=True, level="").count() == 2
        assert [again.key for again in assignments_for(project=project, annotator=annotator)] == [card.key]
        assert_counters_are_right(project)
        submit(card, "b")
        assert Judgement.objects.verdicts().get().verdict == "b"
        assert Judgement.objects.get(verdict="b").supersedes == second
        assert_counters_are_right(project)

    def test_twice_goes_back_further_and_not_beyond(
        self, project: Project, annotator: User, three: None
    ) -> None:
        cards = [take(project, annotator)]
        submit(cards[0])
        cards.append(take(project, annotator))
        submit(cards[1], "skip")
        assert judgement_undo(project=project, annotator=annotator) == cards[1]
        assert judgement_undo(project=project, annotator=annotator) == cards[0]
        assert judgement_undo(project=project, annotator=annotator) is None
        assert_counters_are_right(project)

    def test_the_same_undo_sent_twice_takes_back_one(
        self, project: Project, annotator: User, three: None
    ) -> None:
        cards = [take(project, annotator)]
        submit(cards[0])
        cards.append(take(project, annotator))
        submit(cards[1])
        for _ in range(2):
            assert judgement_undo(project=project, annotator=annotator, key=cards[1].key) == cards[1]
        assert Judgement.objects.verdicts().get().assignment == cards[0]

    def test_only_own_and_only_of_this_sitting(
        self, project: Project, annotator: User, admin: User, three: None
    ) -> None:
        submit(take(project, annotator))
        assert judgement_undo(project=project, annotator=admin) is None
        other = Project.objects.create(slug="other", name="Other")
        assert judgement_undo(project=other, annotator=annotator) is None
        Judgement.objects.update(created_at=timezone.now() - timedelta(hours=25))
        assert judgement_undo(project=project, annotator=annotator) is None
        assert Judgement.objects.count() == 1

    def test_a_correction_is_taken_back_whole(self, project: Project, annotator: User, pair: Pair) -> None:
        card = take(project, annotator)
        submit(card, "a")
        submit(card, "b")
        judgement_undo(project=project, annotator=annotator)
        assert not Judgement.objects.current().exists()
        assert current_levels(annotator) == {}
        assert counters(pair) == (0, 1)
        assert_counters_are_right(project)

    def test_a_level_given_on_another_card_is_restored(
        self, project: Project, annotator: User, three: None
    ) -> None:
        submit(take(project, annotator), "tie", "good good")
        before = current_levels(annotator)
        submit(take(project, annotator), "tie", "bad bad")
        assert current_levels(annotator) != before
        judgement_undo(project=project, annotator=annotator)
        assert current_levels(annotator) == before
        assert_counters_are_right(project)

    def test_without_a_free_place_the_card_opens_all_the_same(
        self, project: Project, annotator: User, admin: User, pair: Pair
    ) -> None:
        card = take(project, annotator)
        submit(card)
        Pair.objects.update(wanted=1)
        submit(card, "skip")
        submit(take(project, admin))
        reopened = judgement_undo(project=project, annotator=annotator)
        assert reopened is not None
        assert (reopened.state, reopened.holds_place) == ("open", False)
        assert counters(pair) == (1, 0)
        assert not submit(card, "b").kept
        assert counters(pair) == (1, 0)
        assert assignments_for(project=project, annotator=annotator) == []


class TestLevels:
    @pytest.fixture
    def lone(self, project: Project, make_prompt: Callable[..., Prompt]) -> Project:
        Project.objects.update(asks="levels", overlap=1)
        project.refresh_from_db()
        make_prompt(project, "p", ["one", "two"], pairs=False)
        return project

    def test_once_and_corrected(self, lone: Project, annotator: User) -> None:
        card = take(lone, annotator)
        first = level_submit(key=card.key, annotator=annotator, level="good", comment="c", revision=0)
        assert level_submit(key=card.key, annotator=annotator, level="good", comment="c", revision=0) == first
        assert first.label is not None
        assert (first.label.level, first.label.assignment, first.judgement) == ("good", card, None)
        second = level_submit(key=card.key, annotator=annotator, level="bad", revision=1)
        assert second.label is not None
        assert second.label.supersedes == first.label
        assert list(QualityLabel.objects.current()) == [second.label]
        assert sorted(Response.objects.values_list("labelled", "reserved")) == [(0, 0), (1, 0)]
        with pytest.raises(Refused, match="Choose bad, normal or good"):
            level_submit(key=card.key, annotator=annotator, level="great")
        assert_counters_are_right(lone)

    def test_skip_expiry_and_undo(self, lone: Project, annotator: User, admin: User) -> None:
        card = take(lone, annotator)
        skipped = level_submit(key=card.key, annotator=annotator, level="skip", revision=0)
        assert skipped.label is not None
        assert skipped.label.retraction
        assert level_submit(key=card.key, annotator=annotator, level="skip", revision=0) == skipped
        other = take(lone, annotator)
        assert other.response_id != card.response_id
        expire(other)
        mine = [take(lone, admin), None]
        level_submit(key=mine[0].key, annotator=admin, level="good")
        mine[1] = take(lone, admin)
        level_submit(key=mine[1].key, annotator=admin, level="good")
        assert not level_submit(key=other.key, annotator=annotator, level="bad").kept
        assert_counters_are_right(lone)
        # Undo of a level, then of the one before.
        assert judgement_undo(project=lone, annotator=admin) == mine[1]
        assert judgement_undo(project=lone, annotator=admin) == mine[0]
        assert not QualityLabel.objects.current().exists()
        assert judgement_undo(project=lone, annotator=annotator) == card
        assert judgement_undo(project=lone, annotator=annotator) is None
        assert_counters_are_right(lone)
        assert level_submit(key=mine[0].key, annotator=admin, level="bad").kept
        assert_counters_are_right(lone)
