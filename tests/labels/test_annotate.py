"""The annotator's pages: who may, what they hold, what they store, how many queries they take."""

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Assignment, Judgement, QualityLabel
from webapp.labels.queue import assignments_for, reservations_expire
from webapp.labels.services import judgement_submit, level_submit

pytestmark = pytest.mark.django_db
ANNOTATE = "/p/capitals/annotate/"
HISTORY = "/p/capitals/history/"
UNDO = "/p/capitals/annotate/undo/"
HTMX = {"HX-Request": "true"}
WHOLE = {"verdict": "left", "level_left": "good", "level_right": "bad"}


@pytest.fixture
def three(project: Project, make_prompt: Callable[..., Prompt]) -> None:
    """Three pairs of three responses."""
    make_prompt(project, "p", ["response one", "response two", "response three"])


@pytest.fixture
def client(client_of: Callable[[User], Client], annotator: User) -> Client:
    return client_of(annotator)


def first_card(client: Client) -> Assignment:
    client.get(ANNOTATE)
    return Assignment.objects.filter(state="open").select_related("pair").earliest("pk")


def address(card: Assignment) -> str:
    return f"{ANNOTATE}{card.key}/"


def post(client: Client, card: Assignment, htmx: bool = True, **form: str) -> Any:
    return client.post(address(card), form, headers=HTMX if htmx else {})


class TestWho:
    """Annotators and admins judge; researchers are told why not; strangers and visitors learn nothing."""

    @pytest.mark.parametrize("path", [ANNOTATE, HISTORY])
    def test_pages(
        self,
        client_of: Callable[[User], Client],
        three: None,
        annotator: User,
        admin: User,
        researcher: User,
        stranger: User,
        path: str,
    ) -> None:
        assert client_of(annotator).get(path).status_code == 200
        assert client_of(admin).get(path).status_code == 200
        refused = client_of(researcher).get(path)
        assert refused.status_code == 403
        assert "People page" in refused.content.decode()
        assert client_of(stranger).get(path).status_code == 404
        anonymous = Client().get(path)
        assert anonymous.status_code == 302
        assert "sign-in" in anonymous["Location"]

    def test_posts(
        self,
        client_of: Callable[[User], Client],
        client: Client,
        three: None,
        admin: User,
        researcher: User,
        stranger: User,
    ) -> None:
        card = first_card(client)
        # Somebody else's card does not exist, whatever one's role.
        for user, status in ((admin, 404), (researcher, 403), (stranger, 404)):
            assert post(client_of(user), card, **WHOLE).status_code == status
            assert client_of(user).get(address(card)).status_code == status
        assert client_of(researcher).post(UNDO).status_code == 403
        assert client_of(stranger).post(UNDO).status_code == 404
        for path in (address(card), UNDO):
            anonymous = Client().post(path, WHOLE)
            assert anonymous.status_code == 302
            assert "sign-in" in anonymous["Location"]
        assert client.post(f"{ANNOTATE}{uuid.uuid4()}/", WHOLE).status_code == 404
        assert client.get(UNDO).status_code == 405
        assert Judgement.objects.count() == 0

    def test_a_card_of_another_project(
        self, client: Client, three: None, annotator: User, make_user: Callable[..., User]
    ) -> None:
        card = first_card(client)
        other = Project.objects.create(slug="other", name="Other")
        other.memberships.create(user=annotator, role="annotator")
        assert client.post(f"/p/other/annotate/{card.key}/", WHOLE).status_code == 404
        assert client.post("/p/nowhere/annotate/").status_code in (404, 405)

    def test_without_the_csrf_token(self, three: None, annotator: User, client: Client) -> None:
        card = first_card(client)
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(annotator)
        assert strict.post(address(card), WHOLE).status_code == 403


class TestPage:
    def test_shows_the_card_and_holds_the_next_two(self, client: Client, three: None) -> None:
        page = client.get(ANNOTATE).content.decode()
        keys = re.findall(r'data-key="([^"]+)"', page)
        assert len(keys) == 3
        assert [str(key) for key in Assignment.objects.order_by("pk").values_list("key", flat=True)] == keys
        assert page.count(" hidden tabindex") == 2
        assert "Question p?" in page
        for key in ["a", "b", "t", "x", "s", "c", "u"]:
            assert f"<kbd>{key}</kbd>" in page or f">{key}</kbd>" in page
        assert "You: 0 judged · about 3 open for you" in page

    def test_neither_names_nor_identities_are_in_the_source(self, client: Client, three: None) -> None:
        page = client.get(ANNOTATE).content.decode()
        assert "model-" not in page
        assert "p-r1" not in page
        # Sides go by position: nothing says which response is the pair's a.
        assert 'value="left"' in page
        assert 'value="a"' not in page

    def test_no_inline_script_or_style(self, client: Client, three: None) -> None:
        response = client.get(ANNOTATE)
        page = response.content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)", page)
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)
        assert "script-src 'self'" in response["Content-Security-Policy"]

    @pytest.mark.parametrize("left", ["a", "b"])
    def test_the_left_response_stands_first(self, client: Client, three: None, left: str) -> None:
        card = first_card(client)
        Assignment.objects.update(left=left)
        assert card.pair is not None
        page = client.get(ANNOTATE).content.decode()
        first, second = (page.index(text) for text in (card.pair.response_a.text, card.pair.response_b.text))
        assert (first < second) == (left == "a")

    def test_a_conversation_with_a_long_system_prompt(
        self, client: Client, project: Project, three: None
    ) -> None:
        messages = [
            {"role": "system", "content": "Be <b>kind</b>. " * 400},
            {"role": "user", "content": "Say `x` and **y**"},
            {"role": "assistant", "content": "x"},
            {"role": "user", "content": "And z?"},
        ]
        Prompt.objects.update(messages=messages)
        page = client.get(ANNOTATE).content.decode()
        assert "3 earlier turns, about 83 lines" in " ".join(page.split())
        assert "&lt;b&gt;kind" in page
        assert "<code>x</code> and <strong>y</strong>" in page
        assert page.index("turn-system") < page.index("turn-assistant") < page.index("And z?")

    def test_responses_to_different_prompts_stand_under_their_own(
        self, client: Client, project: Project, make_prompt: Callable[..., Prompt]
    ) -> None:
        make_prompt(project, "one", ["1"], pairs=False)
        make_prompt(project, "two", ["2"], pairs=False)
        first, second = Response.objects.order_by("pk")
        Pair.objects.create(project=project, external_id="x", response_a=first, response_b=second, wanted=2)
        page = client.get(ANNOTATE).content.decode()
        # each once as it is drawn, and once as it was written
        assert page.count("Question one?") == page.count("Question two?") == 2

    def test_guidelines(self, client: Client, project: Project, three: None) -> None:
        assert '<details class="guidelines">' not in client.get(ANNOTATE).content.decode()
        Project.objects.update(guidelines="Prefer **true** answers.")
        assert "Prefer <strong>true</strong> answers." in client.get(ANNOTATE).content.decode()

    def test_only_what_the_project_asks_for(self, client: Client, project: Project, three: None) -> None:
        assert 'name="level_left"' in client.get(ANNOTATE).content.decode()
        Project.objects.update(asks="pairs")
        page = client.get(ANNOTATE).content.decode()
        assert 'name="level_left"' not in page
        assert 'data-asks="pairs"' in page
        Project.objects.update(asks="levels")
        Response.objects.update(wanted=2)
        page = client.get(ANNOTATE).content.decode()
        assert 'name="verdict"' not in page
        assert page.count('name="level"') == 9
        assert 'data-asks="levels"' in page


class TestNothing:
    def test_an_empty_project(
        self, client: Client, project: Project, client_of: Callable[[User], Client], admin: User
    ) -> None:
        page = client.get(ANNOTATE).content.decode()
        assert "no pairs so far" in page
        assert "look again later" in page
        assert "Import some" in client_of(admin).get(ANNOTATE).content.decode()

    def test_all_done_and_others_are_at_it(
        self, client: Client, project: Project, three: None, admin: User, researcher: User
    ) -> None:
        assignments_for(project=project, annotator=admin, count=3)
        assignments_for(project=project, annotator=researcher, count=3)
        page = client.get(ANNOTATE).content.decode()
        assert "All done for now" in page
        assert "3 are being judged by others" in page
        assert "30 minutes" in page
        Pair.objects.update(judged=2, reserved=0)
        page = client.get(ANNOTATE).content.decode()
        assert "All done for now" in page
        assert "being judged by others" not in page


class TestSubmit:
    def test_a_receipt_and_the_following_card(self, client: Client, three: None) -> None:
        card = first_card(client)
        ahead = Assignment.objects.latest("pk")
        response = post(client, card, revision="0", holding=str(ahead.key), **WHOLE)
        assert response.status_code == 200
        assert response["Caliper-Receipt"] == "kept"
        text = response.content.decode()
        saved = timezone.localtime(Judgement.objects.get().created_at)
        assert "Saved <time data-clock" in text
        assert saved.strftime("%H:%M:%S") in text
        assert "You: 1 judged · about 2 open for you" in text
        keys = re.findall(r'data-key="([^"]+)"', text)
        assert len(keys) == 1
        assert keys[0] not in (str(card.key), str(ahead.key))
        assert "model-" not in text
        assert "<html" not in text

    @pytest.mark.parametrize(("left", "verdict"), [("a", "a"), ("b", "b")])
    def test_left_and_right_become_a_and_b(
        self, client: Client, three: None, left: str, verdict: str
    ) -> None:
        card = first_card(client)
        Assignment.objects.update(left=left)
        post(client, card, strength="2", comment="why", **WHOLE)
        row = Judgement.objects.get()
        assert (row.verdict, row.left, row.strength, row.comment) == (verdict, left, 2, "why")
        assert card.pair is not None
        good = card.pair.response_a_id if left == "a" else card.pair.response_b_id
        assert QualityLabel.objects.get(level="good").response_id == good

    def test_when_it_was_shown(self, client: Client, three: None) -> None:
        shown = timezone.now() - timedelta(seconds=20)
        post(client, first_card(client), shown_at=shown.isoformat(), **WHOLE)
        assert Judgement.objects.get().shown_at == shown

    @pytest.mark.parametrize(
        "shown", ["", "yesterday", "2026-13-45T00:00:00Z", "1999-01-01T00:00:00Z", "2999-01-01T00:00:00Z"]
    )
    def test_a_time_that_cannot_be_true_is_left_out(self, client: Client, three: None, shown: str) -> None:
        assert post(client, first_card(client), shown_at=shown, **WHOLE).status_code == 200
        assert Judgement.objects.get().shown_at is None

    def test_a_double_click_and_the_back_button(self, client: Client, three: None) -> None:
        card = first_card(client)
        texts = [post(client, card, revision="0", **WHOLE).content.decode() for _ in range(3)]
        assert Judgement.objects.count() == 1
        assert len({re.search(r"Saved .*?</time>", text).group() for text in texts}) == 1  # type: ignore[union-attr]
        page = client.get(address(card)).content.decode()
        assert "Correcting an earlier answer" in page
        assert 'name="revision" value="1"' in page

    @pytest.mark.parametrize(
        ("form", "message"),
        [
            ({}, "Choose A, B, tie, both bad or skip."),
            ({"verdict": "c"}, "Choose A, B, tie, both bad or skip."),
            ({"verdict": "tie", "level_left": "good"}, "This project asks for a level of each response"),
            ({**WHOLE, "level_right": "superb"}, "Choose bad, normal or good."),
            ({**WHOLE, "strength": "9"}, "Choose 1, 2 or 3, or leave it out."),
            ({**WHOLE, "strength": "x"}, "Choose 1, 2 or 3, or leave it out."),
            ({**WHOLE, "comment": "y" * 4010}, "shorten it by 10"),
        ],
    )
    def test_a_refused_answer_comes_back_with_what_was_answered(
        self, client: Client, three: None, form: dict[str, str], message: str
    ) -> None:
        card = first_card(client)
        for htmx in (True, False):
            response = post(client, card, htmx=htmx, **form)
            assert response.status_code == 422
            text = response.content.decode()
            assert message in text
            assert ("<html" in text) is not htmx
            assert "Caliper-Receipt" not in response
            for name, value in form.items():
                if name.startswith("level") and value == "good":
                    assert f'name="{name}" value="{value}" checked' in text
        assert post(client, card, **form)["HX-Retarget"] == f"#card-{card.key}"
        assert Judgement.objects.count() == 0

    def test_skip(self, client: Client, three: None) -> None:
        card = first_card(client)
        assert post(client, card, skip="1", **WHOLE).status_code == 200
        assert Judgement.objects.get().verdict == "skip"
        assert QualityLabel.objects.count() == 0

    def test_a_strength_chosen_before_a_tie_is_left_out(self, client: Client, three: None) -> None:
        form = {**WHOLE, "level_right": "normal", "verdict": "tie", "strength": "3"}
        assert post(client, first_card(client), **form).status_code == 200
        assert Judgement.objects.get().strength is None

    def test_without_javascript(self, client: Client, three: None) -> None:
        card = first_card(client)
        response = client.post(address(card), WHOLE, follow=True)
        assert response.redirect_chain == [(ANNOTATE, 302)]
        text = response.content.decode()
        assert re.search(r"Saved \d\d:\d\d:\d\d\.", text)
        assert str(card.key) in text  # as what an undo takes back
        response = client.post(UNDO, {"key": str(card.key)}, follow=True)
        assert "Taken back" in response.content.decode()
        assert "There is nothing to take back" in client.post(UNDO, follow=True).content.decode()

    def test_an_expired_reservation(
        self, client: Client, project: Project, three: None, make_user: Callable[..., User]
    ) -> None:
        kept, lost = assignments_for(project=project, annotator=User.objects.get(username="anna"))
        Assignment.objects.update(reserved_until=timezone.now() - timedelta(seconds=1))
        reservations_expire()
        Pair.objects.filter(pk=lost.pair_id).update(judged=2)
        response = post(client, kept, **WHOLE)
        assert response["Caliper-Receipt"] == "kept"
        assert "still wanted a judgement: it is kept" in response.content.decode()
        response = post(client, lost, **WHOLE)
        assert response.status_code == 200
        assert response["Caliper-Receipt"] == "dropped"
        assert "Not stored" in response.content.decode()
        assert "Not stored" in client.post(address(lost), WHOLE, follow=True).content.decode()
        assert Judgement.objects.count() == 1

    def test_levels_only(self, client: Client, project: Project, three: None) -> None:
        Project.objects.update(asks="levels")
        Response.objects.update(wanted=2)
        client.get(ANNOTATE)
        card = Assignment.objects.earliest("pk")
        refused = post(client, card)
        assert refused.status_code == 422
        assert "Not saved yet. Choose bad, normal or good" in refused.content.decode()
        assert post(client, card, level="normal").status_code == 200
        assert QualityLabel.objects.get().level == "normal"
        other = Assignment.objects.filter(state="open").earliest("pk")
        assert post(client, other, skip="1").status_code == 200
        page = client.get(HISTORY).content.decode()
        assert page.count("Correct<span") == 2
        assert "1 judged, 1 skipped" in page
        assert "<strong>Skipped</strong>" in page
        assert "You: 1 judged, 1 skipped" in client.get(ANNOTATE).content.decode()

    def test_the_project_stops_asking_for_levels(self, client: Client, project: Project, three: None) -> None:
        card = first_card(client)
        Project.objects.update(asks="pairs")
        assert post(client, card, **WHOLE).status_code == 200
        assert QualityLabel.objects.count() == 0

    def test_nonsense_in_the_hidden_fields(self, client: Client, three: None) -> None:
        form = {**WHOLE, "revision": "x", "holding": "a,b,c,d,e,f,g", "sending": "1" * 5000}
        assert post(client, first_card(client), **form).status_code == 200
        assert Assignment.objects.filter(state="open").count() <= 3


class TestUndo:
    def test_the_reopened_card_comes_first_with_its_answers(self, client: Client, three: None) -> None:
        card = first_card(client)
        post(client, card, revision="0", strength="3", comment="hm", **WHOLE)
        response = client.post(UNDO, {"key": str(card.key)}, headers=HTMX)
        assert response["Caliper-Receipt"] == "undone"
        text = response.content.decode()
        assert re.findall(r'data-key="([^"]+)"', text)[0] == str(card.key)
        first = text[: text.index("</article>")]
        for checked in ('"verdict" value="left"', '"strength" value="3"', '"level_left" value="good"'):
            assert f"name={checked} checked" in first
        assert ">hm</textarea>" in first
        assert 'name="revision" value="2"' in first
        assert "Taken back" in text
        assert "You: 0 judged" in text

    def test_nothing_to_take_back(self, client: Client, three: None) -> None:
        response = client.post(UNDO, headers=HTMX)
        assert "There is nothing to take back" in response.content.decode()


class TestHistory:
    def test_own_answers_newest_first(
        self, client: Client, client_of: Callable[[User], Client], project: Project, three: None, admin: User
    ) -> None:
        first = first_card(client)
        post(client, first, comment="first", strength="2", **WHOLE)
        post(
            client,
            first_card(client),
            **{**WHOLE, "level_left": "bad", "verdict": "both_bad", "comment": "second"},
        )
        page = client.get(HISTORY).content.decode()
        assert page.index("second") < page.index("first”")
        assert "A is better" in page
        assert "clearly" in page
        assert "Both bad" in page
        assert "model-" not in page
        assert "Nothing judged yet" in client_of(admin).get(HISTORY).content.decode()

    @pytest.mark.parametrize("left", ["a", "b"])
    def test_a_and_b_are_what_was_seen(self, client: Client, three: None, left: str) -> None:
        card = first_card(client)
        Assignment.objects.update(left=left)
        post(client, card, **WHOLE)
        assert "<strong>A is better</strong>" in client.get(HISTORY).content.decode()

    def test_correct_one(self, client: Client, three: None) -> None:
        card = first_card(client)
        assert client.get(address(card))["Location"] == ANNOTATE  # not answered yet
        post(client, card, **WHOLE)
        page = client.get(address(card)).content.decode()
        assert 'name="verdict" value="left" checked' in page
        assert "hx-post" not in page
        form = {"verdict": "right", "level_left": "normal", "level_right": "good"}
        form |= {"editing": "1", "revision": "1"}
        response = client.post(address(card), form, follow=True)
        assert response.redirect_chain == [(HISTORY, 302)]
        assert "B is better" in response.content.decode()
        assert Judgement.objects.count() == 2
        refused = client.post(address(card), {**form, "verdict": "", "revision": "2"})
        assert refused.status_code == 422
        assert "Correcting an earlier answer" in refused.content.decode()

    def test_pages(
        self, client: Client, project: Project, annotator: User, make_prompt: Callable[..., Prompt]
    ) -> None:
        _judge_many(project, annotator, make_prompt, 30)
        assert "Page 1 of 2" in client.get(HISTORY).content.decode()
        second = client.get(HISTORY + "?page=2").content.decode()
        assert second.count('own-answer"') == 5
        assert client.get(HISTORY + "?page=x").status_code == 200


def _judge_many(project: Project, annotator: User, make_prompt: Callable[..., Prompt], count: int) -> None:
    for number in range(count):
        make_prompt(project, f"many-{number}", ["one", "two"])
        [card] = assignments_for(project=project, annotator=annotator, count=1)
        assert card.pair is not None
        levels = {card.pair.response_a_id: "good", card.pair.response_b_id: "bad"}
        judgement_submit(key=card.key, annotator=annotator, verdict="a", levels=levels)


class TestQueries:
    """Exact counts: who looks, what is open, the texts; never one per card or row."""

    WHO = 3  # session, user, project with roles

    @pytest.mark.parametrize("prompts", [2, 50])
    def test_annotate_and_submit(
        self,
        client: Client,
        project: Project,
        annotator: User,
        make_prompt: Callable[..., Prompt],
        django_assert_num_queries: Any,
        prompts: int,
    ) -> None:
        for number in range(prompts):
            make_prompt(project, f"p{number}", ["one", "two", "three"])
        client.get(ANNOTATE)
        # The own cards with their texts, the numbers, what an undo takes back.
        with django_assert_num_queries(self.WHO + 3):
            client.get(ANNOTATE)
        card, *ahead = Assignment.objects.order_by("pk")
        # The card; savepoint, close it, count its place, judgement, levels, two counters; the next: choose, take,
        # reserve; what changed in numbers, release.
        with django_assert_num_queries(self.WHO + 1 + 6 + 3 + 2):
            post(client, card, revision="0", holding=",".join(str(other.key) for other in ahead), **WHOLE)

    @pytest.mark.parametrize("asks", ["both", "levels"])
    @pytest.mark.parametrize("count", [2, 50])
    def test_history(
        self,
        client: Client,
        project: Project,
        annotator: User,
        make_prompt: Callable[..., Prompt],
        django_assert_num_queries: Any,
        asks: str,
        count: int,
    ) -> None:
        if asks == "both":
            _judge_many(project, annotator, make_prompt, count)
        else:
            Project.objects.update(asks="levels")
            project.refresh_from_db()
            make_prompt(project, "many", [str(number) for number in range(count)], pairs=False)
            for card in assignments_for(project=project, annotator=annotator, count=count):
                level_submit(key=card.key, annotator=annotator, level="good")
        with django_assert_num_queries(self.WHO + (3 if asks == "both" else 2)):
            client.get(HISTORY)
