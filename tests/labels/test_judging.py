"""What is asked about before it is stored, reasons of each side, and what skips are called."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.counters import counters_forget
from webapp.corpus.models import Project, Prompt, Response
from webapp.labels.cards import CONTRADICTIONS
from webapp.labels.contradictions import contradiction
from webapp.labels.models import Assignment, Judgement, QualityLabel
from webapp.labels.queue import assignments_for, reservations_expire
from webapp.labels.services import Asked, Refused, judgement_submit, judgement_undo, level_submit

pytestmark = pytest.mark.django_db
ANNOTATE = "/p/capitals/annotate/"
HISTORY = "/p/capitals/history/"
HTMX = {"HX-Request": "true"}
FAIR = {"verdict": "left", "level_left": "good", "level_right": "bad"}
SLIP = {"verdict": "left", "level_left": "bad", "level_right": "good"}
ASKS = "A is better, but you called A bad and B good."


@pytest.fixture
def three(project: Project, make_prompt: Callable[..., Prompt]) -> None:
    make_prompt(project, "p", ["response one", "response two", "response three"])


@pytest.fixture
def client(client_of: Callable[[User], Client], annotator: User) -> Client:
    return client_of(annotator)


def first_card(client: Client) -> Assignment:
    client.get(ANNOTATE)
    return Assignment.objects.filter(state="open").select_related("pair", "project").earliest("pk")


def address(card: Assignment) -> str:
    return f"{ANNOTATE}{card.key}/"


def post(client: Client, card: Assignment, *, htmx: bool = True, revision: int | str = 0, **form: Any) -> Any:
    return client.post(address(card), form | {"revision": revision}, headers=HTMX if htmx else {})


def hidden(text: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', text)
    assert found is not None
    return found[1]


class TestContradiction:
    @pytest.mark.parametrize(
        ("verdict", "levels", "contradicts"),
        [
            ("a", "bad good", True),
            ("a", "bad normal", True),
            ("a", "normal good", True),
            ("a", "good good", False),
            ("a", "bad bad", False),
            ("a", "good bad", False),
            ("b", "good normal", True),
            ("b", "normal good", False),
            ("tie", "bad good", True),
            ("tie", "good bad", True),
            ("tie", "normal good", False),
            ("tie", "bad bad", False),
            ("both_bad", "bad bad", False),
            ("both_bad", "bad good", True),
            ("both_bad", "normal bad", True),
            ("skip", "bad good", False),
        ],
    )
    def test_the_rule(self, verdict: str, levels: str, contradicts: bool) -> None:
        sentence = contradiction(verdict, *levels.split())
        assert bool(sentence) is contradicts
        if sentence:
            a, b = levels.split()
            assert f"A {a} and B {b}" in sentence

    def test_without_levels_nothing_contradicts(self) -> None:
        assert contradiction("a", "", "") is None
        assert contradiction("both_bad", "good", "") is None

    def test_the_page_has_the_same_rule(self) -> None:
        sentences = json.loads(CONTRADICTIONS)
        assert sentences["left:bad:good"] == ASKS == contradiction("a", "bad", "good")
        assert sentences["right:good:normal"] == contradiction("b", "good", "normal")
        assert "left:good:bad" not in sentences
        assert len(sentences) == 3 + 3 + 2 + 8

    @pytest.mark.parametrize("left", ["a", "b"])
    @pytest.mark.parametrize("htmx", [True, False])
    def test_it_is_asked_about_then_kept_and_marked(
        self, client: Client, three: None, left: str, htmx: bool
    ) -> None:
        card = first_card(client)
        Assignment.objects.update(left=left)
        answer = post(client, card, htmx=htmx, comment="really", **SLIP)
        assert answer.status_code == 409
        assert "Caliper-Receipt" not in answer
        text = answer.content.decode()
        assert ASKS in text
        assert ("<html" in text) is not htmx
        assert 'name="verdict" value="left" checked' in text
        assert ">really</textarea>" in text
        assert Judgement.objects.count() == 0
        keep = hidden(text, "keep")
        # What was asked about is kept, nothing else.
        other = {**SLIP, "verdict": "both_bad"}
        assert post(client, card, htmx=htmx, keep=keep, **other).status_code == 409
        assert post(client, card, htmx=htmx, keep=keep, **SLIP).status_code in (200, 302)
        row = Judgement.objects.get()
        assert (row.contradiction_kept, row.verdict) == (True, left)
        assert "contradiction kept" in client.get(HISTORY).content.decode()

    def test_what_does_not_contradict_is_not_marked(self, client: Client, three: None) -> None:
        card = first_card(client)
        assert post(client, card, keep="left:good:bad", **FAIR).status_code == 200
        assert not Judgement.objects.get().contradiction_kept
        assert "contradiction kept" not in client.get(HISTORY).content.decode()

    def test_a_repetition_of_what_was_kept_is_not_asked_about(self, client: Client, three: None) -> None:
        card = first_card(client)
        assert post(client, card, keep="left:bad:good", **SLIP).status_code == 200
        assert post(client, card, **SLIP).status_code == 200
        assert Judgement.objects.count() == 1

    def test_skips_and_projects_without_levels_are_not_asked(self, client: Client, three: None) -> None:
        assert post(client, first_card(client), skip="1", **SLIP).status_code == 200
        Project.objects.update(asks="pairs")
        assert post(client, first_card(client), **SLIP).status_code == 200

    def test_simulated_annotators_are_not_asked(self, project: Project, annotator: User, three: None) -> None:
        [card] = assignments_for(project=project, annotator=annotator, count=1)
        assert card.pair is not None
        levels = {card.pair.response_a_id: "bad", card.pair.response_b_id: "good"}
        receipt = judgement_submit(
            key=card.key, annotator=annotator, verdict="a", levels=levels, source="simulated"
        )
        assert receipt.judgement is not None
        assert not receipt.judgement.contradiction_kept

    def test_pages_of_researchers_show_what_was_kept(
        self, client: Client, client_of: Callable[[User], Client], researcher: User, three: None
    ) -> None:
        card = first_card(client)
        post(client, card, keep="left:bad:good", **SLIP)
        pair = Judgement.objects.get().pair
        reader = client_of(researcher)
        assert "contradiction kept" in reader.get(f"/p/capitals/pairs/{pair.pk}/").content.decode()
        page = reader.get(f"/p/capitals/responses/{pair.response_a_id}/").content.decode()
        assert "contradiction kept" in page


class TestAnsweredMeanwhile:
    @pytest.mark.parametrize("page", [ANNOTATE, HISTORY])
    def test_no_page_is_kept_by_the_browser(self, client: Client, three: None, page: str) -> None:
        assert "no-store" in client.get(page)["Cache-Control"]
        card = first_card(client)
        post(client, card, **FAIR)
        assert "no-store" in client.get(address(card))["Cache-Control"]

    @pytest.mark.parametrize("htmx", [True, False])
    def test_another_answer_to_a_card_that_was_shown_blank_is_asked_about(
        self, client: Client, three: None, htmx: bool
    ) -> None:
        card = first_card(client)
        post(client, card, strength="2", **FAIR)
        other = {"verdict": "tie", "level_left": "good", "level_right": "normal", "comment": "second tab"}
        answer = post(client, card, htmx=htmx, **other)
        assert answer.status_code == 409
        text = " ".join(answer.content.decode().split())
        assert "You have answered this card already, at <time" in text
        assert "A is better, clearly; A good, B bad." in text
        assert "replaces that" in text
        assert 'name="verdict" value="tie" checked' in text
        assert ">second tab</textarea>" in text
        assert Judgement.objects.count() == 1
        # Without a revision nothing was seen.
        assert post(client, card, htmx=htmx, **other | {"revision": ""}).status_code == 409
        assert hidden(text, "revision") == "1"
        assert post(client, card, htmx=htmx, revision=1, **other).status_code in (200, 302)
        assert Judgement.objects.current().get().verdict == "tie"
        assert Judgement.objects.count() == 2
        # Changed once more meanwhile: asked once more.
        assert post(client, card, revision=1, **FAIR | {"comment": "third tab"}).status_code == 409

    def test_both_questions_are_not_asked_twice(self, client: Client, three: None) -> None:
        card = first_card(client)
        post(client, card, **FAIR)
        text = post(client, card, keep="left:bad:good", **SLIP).content.decode()
        assert (hidden(text, "keep"), hidden(text, "revision")) == ("left:bad:good", "1")
        assert post(client, card, revision=1, keep="left:bad:good", **SLIP).status_code == 200

    def test_a_skip_elsewhere_is_an_answer(self, client: Client, three: None) -> None:
        card = first_card(client)
        post(client, card, skip="1")
        answer = post(client, card, **FAIR)
        assert answer.status_code == 409
        assert ": Skipped." in answer.content.decode()

    def test_what_was_taken_back_is_not_asked_about(
        self, client: Client, project: Project, annotator: User, three: None
    ) -> None:
        card = first_card(client)
        post(client, card, **FAIR)
        judgement_undo(project=project, annotator=annotator)
        assert post(client, card, revision=1, **FAIR | {"comment": "again"}).status_code == 200

    @pytest.mark.parametrize("left", ["a", "b"])
    def test_the_same_pair_on_another_card(
        self, client: Client, project: Project, annotator: User, three: None, left: str
    ) -> None:
        """The reservation ended, the pair came again on a new card, and the old page still has the old card."""
        old = first_card(client)
        Assignment.objects.update(left="a")
        Assignment.objects.update(reserved_until="2000-01-01T00:00:00Z")
        reservations_expire()
        assignments_for(project=project, annotator=annotator, count=3)
        new = Assignment.objects.get(state="open", pair=old.pair)
        Assignment.objects.filter(pk=new.pk).update(left=left)
        post(client, new, **FAIR)
        answer = post(client, old, verdict="tie", level_left="bad", level_right="bad")
        assert answer.status_code == 409
        # In the words of the card in sight, whatever side it stood on before.
        better = "A" if left == "a" else "B"
        assert f"{better} is better; " in answer.content.decode()
        assert (
            post(client, old, revision=1, verdict="tie", level_left="bad", level_right="bad").status_code
            == 200
        )
        assert Judgement.objects.current().get().verdict == "tie"

    def test_levels_only(self, client: Client, project: Project, annotator: User, three: None) -> None:
        Project.objects.update(asks="levels")
        Response.objects.update(wanted=2)
        client.get(ANNOTATE)
        card = Assignment.objects.earliest("pk")
        assert post(client, card, level="good").status_code == 200
        answer = post(client, card, level="bad")
        assert answer.status_code == 409
        assert ": good." in answer.content.decode()
        assert post(client, card, revision=1, level="bad").status_code == 200
        assert QualityLabel.objects.current().get().level == "bad"
        with pytest.raises(Asked):
            level_submit(key=card.key, annotator=annotator, level="skip", revision=1)
        assert post(client, card, revision=2, skip="1").status_code == 200
        assert ": skipped." in post(client, card, revision=1, level="good").content.decode()

    def test_the_deck_of_another_tab_gets_the_card_answered(self, client: Client, three: None) -> None:
        card = first_card(client)
        assert client.get(address(card), headers=HTMX).status_code == 204  # not answered (any more)
        post(client, card, **FAIR)
        text = client.get(address(card), headers=HTMX).content.decode()
        assert "<html" not in text
        assert "You have answered this card already" in text
        assert "Saving corrects it" in text
        assert 'name="verdict" value="left" checked' in text
        assert "hx-post" in text


class TestReasons:
    @pytest.fixture(autouse=True)
    def _tags(self, project: Project) -> None:
        project.reason_tags = ["false", "too long", "<b>&"]
        project.save()

    @pytest.mark.parametrize("left", ["a", "b"])
    def test_by_response_not_by_side(
        self, client: Client, client_of: Callable[[User], Client], researcher: User, three: None, left: str
    ) -> None:
        card = first_card(client)
        Assignment.objects.update(left=left)
        right = "b" if left == "a" else "a"
        form = {**FAIR, "tags_left": ["<b>&", "false"], "tags_right": "too long"}
        assert post(client, card, **form).status_code == 200
        row = Judgement.objects.get()
        assert sorted(row.reasons) == sorted([f"{left}:false", f"{left}:<b>&", f"{right}:too long"])
        assert row.tags_of(left) == ["false", "<b>&"]
        # The same again in another order is the same answer.
        assert post(client, card, **form | {"tags_left": ["false", "<b>&", "false"]}).status_code == 200
        assert Judgement.objects.count() == 1
        page = client.get(HISTORY).content.decode()
        assert page.index("false</bdi>") < page.index("too long</bdi>")
        assert "&lt;b&gt;&amp;</bdi>" in page
        page = client.get(address(card)).content.decode()
        assert 'name="tags_left" value="false" checked' in page
        assert 'name="tags_right" value="false">' in page
        assert 'name="tags_right" value="too long" checked' in page
        reader = client_of(researcher)
        text = " ".join(reader.get(f"/p/capitals/pairs/{row.pair_id}/").content.decode().split())
        assert f'{right.upper()} <bdi class="tag">too long</bdi>' in text
        good, bad = row.pair.response_a_id, row.pair.response_b_id
        if left == "b":
            good, bad = bad, good
        assert "false</bdi>" in reader.get(f"/p/capitals/responses/{good}/").content.decode()
        assert "false</bdi>" not in reader.get(f"/p/capitals/responses/{bad}/").content.decode()

    def test_undo_brings_them_back(
        self, client: Client, project: Project, annotator: User, three: None
    ) -> None:
        card = first_card(client)
        post(client, card, tags_right="false", **FAIR)
        text = client.post(f"{ANNOTATE}undo/", {"key": str(card.key)}, headers=HTMX).content.decode()
        assert 'name="tags_right" value="false" checked' in text[: text.index("</article>")]

    def test_a_tag_that_the_project_no_longer_has_stays_on_its_card(
        self, client: Client, project: Project, three: None
    ) -> None:
        card = first_card(client)
        post(client, card, tags_left=["false", "too long"], **FAIR)
        Project.objects.update(reason_tags=["new"])
        page = client.get(address(card)).content.decode()
        assert 'name="tags_left" value="false" checked' in page
        assert 'name="tags_right" value="false"' not in page
        form = {**FAIR, "tags_left": ["false", "new"], "comment": "one of two"}
        assert post(client, card, revision=1, **form).status_code == 200
        assert sorted(reason[2:] for reason in Judgement.objects.current().get().reasons) == ["false", "new"]

    @pytest.mark.parametrize("tag", ["rude", "FALSE", "", "false\x00", "a:false", "x" * 5000, "\ud83d"])
    def test_a_tag_that_was_never_offered_is_refused_by_name(
        self, client: Client, three: None, tag: str
    ) -> None:
        card = first_card(client)
        if tag == "\ud83d":  # no form brings it, but another caller of the service may
            assert card.pair is not None
            levels = {card.pair.response_a_id: "good", card.pair.response_b_id: "bad"}
            with pytest.raises(Refused, match="reasons"):
                judgement_submit(
                    key=card.key, annotator=card.annotator, verdict="a", levels=levels, reasons=[f"a:{tag}"]
                )
            return
        answer = post(client, card, tags_left=tag, **FAIR)
        assert answer.status_code == 422
        text = answer.content.decode()
        assert "Not saved yet." in text
        assert "reasons: leave it out" in text or "leave some out" in text
        assert 'name="verdict" value="left" checked' in text
        assert Judgement.objects.count() == 0

    def test_a_project_without_reasons_shows_none(
        self, client: Client, project: Project, three: None
    ) -> None:
        assert 'data-tags="left"' in client.get(ANNOTATE).content.decode()
        Project.objects.update(reason_tags=[])
        page = client.get(ANNOTATE).content.decode()
        assert "data-tags" not in page
        assert 'data-fold="tags"' not in page


class TestSkips:
    def test_a_skip_says_so_and_so_does_its_undo(self, client: Client, three: None) -> None:
        card = first_card(client)
        text = post(client, card, skip="1").content.decode()
        assert "Skipped <time" in text
        assert "Saved" not in text
        assert "You: 0 judged, 1 skipped" in text
        assert "0 judged, 1 skipped, newest first" in client.get(HISTORY).content.decode()
        text = client.post(f"{ANNOTATE}undo/", headers=HTMX).content.decode()
        assert "the card that you skipped is here again" in text
        assert "skipped ·" not in text
        answer = client.post(address(card), {"skip": "1", "revision": "2"}, follow=True)
        assert re.search(r"Skipped \d\d:\d\d:\d\d\.", answer.content.decode())
        answer = client.post(f"{ANNOTATE}undo/", follow=True)
        assert "the card that you skipped is here again" in answer.content.decode()
        post(client, card, revision=4, **FAIR)
        answer = client.post(f"{ANNOTATE}undo/", follow=True)
        assert "your answer is on the card again" in answer.content.decode()

    def test_of_lone_responses(self, client: Client, project: Project, three: None) -> None:
        Project.objects.update(asks="levels")
        Response.objects.update(wanted=2)
        counters_forget(project.pk)
        client.get(ANNOTATE)
        card = Assignment.objects.earliest("pk")
        assert "Skipped <time" in post(client, card, skip="1").content.decode()
        text = client.post(f"{ANNOTATE}undo/", headers=HTMX).content.decode()
        assert "the card that you skipped is here again" in text
        assert post(client, card, revision=2, level="good").status_code == 200
        text = client.post(f"{ANNOTATE}undo/", headers=HTMX).content.decode()
        assert "your answer is on the card again" in text
        assert "You: 0 judged ·" in text
