"""What a walk through the pages found: counts in words, names that lead somewhere, invitations, excerpts."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils.html import strip_tags

from webapp.accounts.models import User
from webapp.corpus.models import Invitation, Project, Prompt, Response
from webapp.corpus.rendering import plain_text
from webapp.corpus.templatetags.caliper import counted
from webapp.labels.models import QualityLabel
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit
from webapp.ratings.summaries import agreement_words
from webapp.training.models import TrainingRun

ClientOf = Callable[[User], Client]


def words(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return re.sub(r"\s+", " ", strip_tags(answer.content.decode()))


# --- Counts ---


@pytest.mark.parametrize(
    ("number", "nouns", "said"),
    [
        (0, "level", "0 levels"),
        (1, "level", "1 level"),
        (84445, "label", "84,445 labels"),
        (1, "person,people", "1 person"),
        (1200, "person,people", "1,200 people"),
        (None, "level", "–"),
        ("", "level", "–"),
    ],
)
def test_counts_in_words(number: Any, nouns: str, said: str) -> None:
    assert counted(number, nouns) == said


def test_one_of_each_is_told_in_the_singular(
    project: Project, make_prompt: Callable[..., Prompt], admin: User, annotator: User, client_of: ClientOf
) -> None:
    make_prompt(project, "p1", ["one", "two"])
    [card] = assignments_for(project=project, annotator=annotator, count=1)
    assert card.pair is not None
    levels = {card.pair.response_a_id: "good", card.pair.response_b_id: "bad"}
    judgement_submit(key=card.key, annotator=annotator, verdict="a", levels=levels)
    QualityLabel.objects.filter(level="bad").update(is_current=False)
    client = client_of(admin)
    pages = [
        words(client, f"/p/capitals/{name}") for name in ("", "runs/", "pairs/", f"pairs/{card.pair_id}/")
    ]
    for page in pages:
        plural = r"\b1 (levels|pairs|judgements|responses|people|labels|skips|runs|projects|versions)\b"
        assert not re.search(plural, page), re.findall(plural, page)
    assert "1 judgement by 1 person" in pages[0].replace("1 judgement by", "1 judgement by")
    assert "1 judgement, 2 wanted" in pages[3]


# --- First steps ---


def steps(client: Client) -> dict[str, bool]:
    return {step.title: step.done for step in client.get("/p/capitals/").context["steps"]}


def test_first_steps_tick_only_what_was_done(
    project: Project, admin: User, make_user: Callable[..., User], client_of: ClientOf
) -> None:
    make_user("capitals:kim", project, "annotator", kind=User.Kind.IMPORTED, is_active=False)
    run = TrainingRun.objects.create(
        project=project, method="bt", trigger="button", config={}, state="failed"
    )
    client = client_of(admin)
    assert not steps(client)["Invite people"], (
        "imported names were not invited, and the admin made the project"
    )
    assert not steps(client)["Train a reward model"]
    assert "The last one failed: its page says why." in words(client, "/p/capitals/")
    TrainingRun.objects.filter(pk=run.pk).update(state="done")
    make_user("bo", project, "researcher")
    assert steps(client)["Invite people"]
    assert steps(client)["Train a reward model"]


def test_many_labels_are_told_with_commas(
    project: Project, admin: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.min_judgements = 2000
    project.save()
    assert "0 labels so far; a training needs 2,000 or more." in words(client_of(admin), "/p/capitals/")
    assert "There are 0 judgements and levels, fewer than this project&#x27;s minimum of 2,000." in words(
        client_of(admin), "/p/capitals/runs/"
    )


def test_a_failed_run_says_why_in_lists(project: Project, admin: User, client_of: ClientOf) -> None:
    TrainingRun.objects.create(
        project=project,
        method="bt",
        trigger="button",
        config={},
        state="failed",
        error="No such base model: x/y.",
    )
    for page in ("", "runs/"):
        assert "No such base model: x/y." in words(client_of(admin), f"/p/capitals/{page}")


def test_agreement_of_few_is_not_put_in_words() -> None:
    assert agreement_words(0.0, 1) == "too few to say anything of it"
    assert agreement_words(0.0, 10) == "hardly better than chance"
    assert agreement_words(0.9, 10) == "people agree well"
    assert agreement_words(None, 0) == ""


# --- People ---


def test_names_lead_to_judgements(
    project: Project, make_prompt: Callable[..., Prompt], admin: User, researcher: User, annotator: User,
    stranger: User, client_of: ClientOf,
) -> None:  # fmt: skip
    make_prompt(project, "p1", ["**Paris**", "Lyon"])
    [card] = assignments_for(project=project, annotator=annotator, count=1)
    pair = card.pair
    assert pair is not None
    levels = {pair.response_a_id: "good", pair.response_b_id: "bad"}
    judgement_submit(key=card.key, annotator=annotator, verdict="a", levels=levels, comment="clear")
    path = f"/p/capitals/people/{annotator.pk}/judgements/"
    for page in ("people/", f"pairs/{pair.pk}/", f"responses/{pair.response_a_id}/"):
        assert path in client_of(admin).get(f"/p/capitals/{page}").content.decode(), page
    answer = client_of(researcher).get(path)
    page = words(client_of(researcher), path)
    assert "Judgements of anna" in page
    assert "1 judged, newest first" in page
    assert "“clear”" in page
    assert "is better" in page
    assert f'href="/p/capitals/pairs/{pair.pk}/"' in answer.content.decode()
    assert "Correct" not in page, "that is for who said it"
    assert client_of(annotator).get(path).status_code == 403
    assert client_of(stranger).get(path).status_code == 404
    assert client_of(researcher).get(f"/p/capitals/people/{stranger.pk}/judgements/").status_code == 404
    assert "has judged nothing" in words(client_of(admin), f"/p/capitals/people/{researcher.pk}/judgements/")


def test_levels_of_somebody(
    project: Project,
    make_prompt: Callable[..., Prompt],
    researcher: User,
    annotator: User,
    client_of: ClientOf,
) -> None:
    project.asks = Project.Asks.LEVELS
    project.save()
    make_prompt(project, "p1", ["Paris"], pairs=False)
    response = Response.objects.get()
    QualityLabel.objects.create(response=response, annotator=annotator, level="good", client_key="k")
    answer = client_of(researcher).get(f"/p/capitals/people/{annotator.pk}/judgements/").content.decode()
    assert f'href="/p/capitals/responses/{response.pk}/"' in answer


def test_skips_are_counted_alike(
    project: Project, make_prompt: Callable[..., Prompt], annotator: User, client_of: ClientOf
) -> None:
    make_prompt(project, "p1", ["one", "two", "three"])
    first, second = assignments_for(project=project, annotator=annotator, count=2)
    assert first.pair is not None
    levels = {first.pair.response_a_id: "good", first.pair.response_b_id: "bad"}
    judgement_submit(key=first.key, annotator=annotator, verdict="a", levels=levels)
    judgement_submit(key=second.key, annotator=annotator, verdict="skip")
    client = client_of(annotator)
    assert "You: 1 judged" in words(client, "/p/capitals/annotate/")
    assert "1 judged, 1 skipped, newest first" in words(client, "/p/capitals/history/")


def test_several_invitations_at_once(project: Project, admin: User, client_of: ClientOf) -> None:
    client = client_of(admin)
    data = {"invitation-role": "annotator", "invitation-note": "Ann\r\n\r\n  Bo \r\n", "invite": ""}
    page = client.post("/p/capitals/people/", data, follow=True).content.decode()
    assert "2 links are made. Send each to one person; it works once." in page
    assert set(Invitation.objects.values_list("note", "role")) == {("Ann", "annotator"), ("Bo", "annotator")}
    assert "Copy all 2 links" in page
    assert page.count('data-copy="#link-') == 2
    client.post("/p/capitals/people/", {**data, "invitation-note": ""})
    assert Invitation.objects.filter(note="").count() == 1
    many = client.post("/p/capitals/people/", {**data, "invitation-note": "x\n" * 101}).content.decode()
    assert "At most 100 links at a time: these are 101 lines." in many
    long = client.post("/p/capitals/people/", {**data, "invitation-note": "a\n" + "b" * 121}).content.decode()
    assert "Line 2 has 121 characters: shorten it to 120." in long
    assert Invitation.objects.count() == 3


def test_the_name_of_a_button_holds_what_it_says(project: Project, admin: User, client_of: ClientOf) -> None:
    page = client_of(admin).get("/p/capitals/people/").content.decode()
    assert re.search(r'remove<span class="visually-hidden"> the role admin of adam</span>\s*</button>', page)


def test_without_guidelines_an_annotator_is_told_what_to_do(
    project: Project, annotator: User, client_of: ClientOf
) -> None:
    page = words(client_of(annotator), "/p/capitals/guidelines/")
    assert "say which of the two helps the asker more" in page
    assert "Keys: a or b for the better one" in page


def test_projects_say_how_large_they_are(
    project: Project, make_prompt: Callable[..., Prompt], admin: User, annotator: User, client_of: ClientOf
) -> None:
    assert "0 pairs · 2 people · you are admin" in words(client_of(admin), "/")
    make_prompt(project, "p1", ["one", "two", "three"])
    assert "3 pairs · 2 people · you are admin" in words(client_of(admin), "/")
    Project.objects.update(asks="levels")
    assert "3 responses · 2 people · you are admin" in words(client_of(admin), "/")


def test_the_new_project_page_speaks_plainly(make_user: Callable[..., User], client_of: ClientOf) -> None:
    page = client_of(make_user("sid", is_staff=True)).get("/new/").content.decode()
    assert "The project's pages are at /p/ADDRESS/ for good." in page.replace("&#x27;", "'")
    assert 'data-address-of="id_name"' in page
    assert "slug" not in strip_tags(page).lower()


# --- Texts in lists ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**Mild**: soup and *herbs*, `x = 1`", "Mild: soup and herbs, x = 1"),
        ("# Title\n\n- one\n- two", "Title one two"),
        ("1. one\n2. two", "1. one 2. two"),
        ("```python\nprint(1)\n```", "python print(1)"),
        ("plain __init__ and 2*3*4", "plain __init__ and 2*3*4"),
        ("$x^2$", "$x^2$"),
        ("[a]: http://x", "[a]: http://x"),
        ("***", "***"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a b 1 2"),
        ("", ""),
        ("one two three four five six", "one two three four five …"),
        ("字" * 100, "字" * 60 + " …"),
    ],
)
def test_texts_in_lists_have_no_marks_and_all_words(text: str, shown: str) -> None:
    assert plain_text(text, 5 if "one two three" in text or "字" in text else 20) == shown


def test_lists_show_words_and_not_marks(
    project: Project, make_prompt: Callable[..., Prompt], researcher: User, client_of: ClientOf
) -> None:
    make_prompt(project, "p1", ["**Mild**: soup", "*Hot*"])
    for page in ("responses/", "pairs/"):
        shown = words(client_of(researcher), f"/p/capitals/{page}")
        assert "Mild: soup" in shown
        assert "**" not in shown
