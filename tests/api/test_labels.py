"""Another front end labels: cards, answers, undo and lists, with the rows that the page would leave."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.test import Client

from tests.api.conftest import Api, said
from tests.conftest import REPOSITORY
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt
from webapp.labels.models import Assignment, Judgement, QualityLabel

LABELS = "/projects/capitals"
COLUMNS = (
    "verdict", "strength", "reasons", "comment", "contradiction_kept", "policy", "is_current", "retraction",
)  # fmt: skip


def answer_of(card: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A whole answer to a card, left better."""
    whole = {"verdict": "left", "levels": {"left": "good", "right": "bad"}}
    return {**whole, "revision": card["revision"], "shown_at": card["shown_at"], **fields}


def form_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The same as the page's form sends it."""
    sides = {"level_left": answer["levels"]["left"], "level_right": answer["levels"]["right"]}
    tags = {f"tags_{side}": tags for side, tags in answer.get("reasons", {}).items()}
    kept = {
        name: answer[name]
        for name in ("verdict", "revision", "shown_at", "strength", "comment")
        if name in answer
    }
    return {**kept, **sides, **tags}


@pytest.fixture
def pair(project: Project, make_prompt: Callable[..., Prompt]) -> Pair:
    project.reason_tags = ["correct", "clear"]
    project.save()
    make_prompt(project, "p1", ["Paris", "Lyon"])
    return Pair.objects.get(project=project)


def test_a_judgement_lives_as_on_the_page(
    pair: Pair,
    api: Callable[..., Api],
    client_of: Callable[[User], Client],
    make_user: Callable[..., User],
    annotator: User,
    researcher: User,
) -> None:
    """Reserve, answer, send again, correct, undo and answer anew: row by row what the page stores."""
    other = make_user("bert", pair.project, "annotator")
    caller, page = api(annotator), client_of(other)
    taken = said(caller.post(f"{LABELS}/cards/next", {"count": 3}))
    [card] = taken["cards"]
    assert taken["nothing"] is None
    assert taken["open"] == 1
    assert card == {**said(caller.get(f"{LABELS}/cards/{card['key']}")), "shown_at": card["shown_at"]}
    assert card["asks"]["reasons"] == ["correct", "clear"]
    assert card["said"] is None
    assert {card["left"]["text"], card["right"]["text"]} == {"Paris", "Lyon"}
    assert "model-" not in str(card)
    assert "p1" not in str(card).replace("Question p1?", "")
    # Both see the sides alike, so that verdicts can be compared.
    page.get("/p/capitals/annotate/")
    theirs = Assignment.objects.get(annotator=other)
    mine = Assignment.objects.get(annotator=annotator)
    Assignment.objects.filter(pk=theirs.pk).update(left=mine.left)

    def both(answer: dict[str, Any]) -> dict[str, Any]:
        receipt = said(caller.post(f"{LABELS}/cards/{card['key']}", answer))
        assert page.post(f"/p/capitals/annotate/{theirs.key}/", form_of(answer)).status_code == 302
        found: dict[str, Any] = receipt
        return found

    first = both(
        answer_of(card, strength=2, comment=" why ", reasons={"left": ["clear", "correct"], "right": []})
    )
    assert first["kept"]
    assert first["judgement"]
    again = answer_of(card, strength=2, comment="why", reasons={"left": ["clear", "correct"], "right": []})
    assert both(again) == first
    both(answer_of(card, revision=1, verdict="tie", levels={"left": "good", "right": "good"}))
    undone = said(caller.post(f"{LABELS}/cards/undo", {"key": card["key"]}))["card"]
    assert (undone["state"], undone["revision"], undone["said"]["verdict"]) == ("open", 3, "tie")
    page.post("/p/capitals/annotate/undo/", {"key": str(theirs.key)})
    both(answer_of(undone, verdict="right", levels={"left": "bad", "right": "good"}))

    def rows(user: User) -> list[Any]:
        judgements = list(Judgement.objects.filter(annotator=user).order_by("pk").values_list(*COLUMNS))
        levels = QualityLabel.objects.filter(annotator=user).order_by("pk")
        return [*judgements, *levels.values_list("level", "response", "retraction", "is_current")]

    assert rows(annotator) == rows(other)
    assert len(rows(other)) > 6
    assert {*Judgement.objects.filter(annotator=annotator).values_list("source", flat=True)} == {"api"}
    assert {*QualityLabel.objects.filter(annotator=annotator).values_list("source", flat=True)} == {"api"}
    assert all(row.shown_at for row in Judgement.objects.filter(retraction=False))
    pair.refresh_from_db()
    assert (pair.judged, pair.reserved) == (2, 0)
    done = said(caller.post(f"{LABELS}/cards/next", {}))
    assert (done["cards"], done["nothing"], done["judged"]) == ([], "done", 1)

    # One's own for annotators; everybody's, with who it was, for those who read.
    own = said(caller.get(f"{LABELS}/judgements"))["items"]
    assert [(row["verdict"] in "ab", row["annotator"], row["external_id"]) for row in own] == [
        (True, None, None)
    ]
    reader = api(researcher)
    every = said(reader.get(f"{LABELS}/judgements?limit=1"))
    rest = said(reader.get(f"{LABELS}/judgements?limit=1&cursor={every['next']}"))
    assert [row["annotator"]["name"] for row in (*every["items"], *rest["items"])] == ["anna", "bert"]
    assert rest["next"] is None
    assert every["items"][0]["id"] == own[0]["id"]
    since = own[0]["id"]
    assert [row["id"] > since for row in said(reader.get(f"{LABELS}/judgements?since={since}"))["items"]] == [
        True
    ]
    history = said(reader.get(f"{LABELS}/judgements?superseded=true&annotator={annotator.pk}"))["items"]
    assert [row["retraction"] for row in history] == [False, False, True, False]
    levels = said(caller.get(f"{LABELS}/levels"))["items"]
    assert {row["level"] for row in levels} == {"good", "bad"}
    assert levels[0]["external_id"] is None
    assert "model-" not in str(own) + str(levels)

    # Pages tell where labels come from.
    pages = client_of(researcher)
    assert "3 by API" in pages.get("/p/capitals/").content.decode().replace("\n        ", "")
    assert pages.get(f"/p/capitals/pairs/{pair.pk}/").content.decode().count("by API</span>") == 4


def test_answers_that_wait_or_are_refused(
    pair: Pair, api: Callable[..., Api], annotator: User, admin: User
) -> None:
    caller = api(annotator)
    [card] = said(caller.post(f"{LABELS}/cards/next", {}))["cards"]
    path = f"{LABELS}/cards/{card['key']}"
    wrong = said(caller.post(path, answer_of(card, strength=1, verdict="tie", levels={"left": "good"})), 422)
    assert {error["field"] for error in wrong["errors"]} == {"strength", "levels.right"}
    assert said(caller.post(path, answer_of(card, verdict="a")), 422)["errors"][0]["field"] == "verdict"
    assert (
        said(caller.post(path, answer_of(card, reasons={"left": ["new"]})), 422)["errors"][0]["field"]
        == "reasons"
    )

    twisted = answer_of(card, levels={"left": "bad", "right": "good"})
    asked = said(caller.post(path, twisted), 409)
    assert asked["asks"] == "contradiction"
    assert "A" in asked["detail"]
    assert said(caller.post(path, {**twisted, "keep": asked["keep"]}))["kept"]
    assert Judgement.objects.get().contradiction_kept

    # Another tab has answered meanwhile: the revision that was shown is old.
    newer = said(caller.post(path, answer_of(card)), 409)
    assert (newer["asks"], newer["revision"]) == ("answered", 1)
    assert "better" in newer["detail"]
    assert said(caller.post(path, answer_of(card, revision=newer["revision"])))["kept"]
    assert said(caller.get(path))["said"]["levels"] == {"left": "good", "right": "bad"}

    # Two wanted judgements; the third person finds none, and the key of somebody else's card leads nowhere.
    said(api(admin).post(f"{LABELS}/cards/next", {"count": 10}))
    said(api(admin).get(path), 404)
    pair.project.archived_at = pair.created_at
    pair.project.save()
    said(caller.post(path, answer_of(card, revision=2, verdict="right")), 409)


def test_the_overlap_holds_and_single_responses_are_asked_about(
    make_prompt: Callable[..., Prompt], make_user: Callable[..., User], api: Callable[..., Api]
) -> None:
    """One label is wanted: while one person holds the card, the next one is told so; levels and skips are stored."""
    lone = Project.objects.create(slug="lone", name="Lone", overlap=1, asks=Project.Asks.LEVELS)
    make_prompt(lone, "p1", ["Paris"], pairs=False)
    first, second = (api(make_user(name, lone, "annotator")) for name in ("ada", "bea"))
    [card] = said(first.post("/projects/lone/cards/next", {"count": 10}))["cards"]
    assert card["kind"] == "response"
    assert card["asks"]["levels"]
    assert card["left"] is None
    assert said(second.post("/projects/lone/cards/next", {}))["nothing"] == "busy"
    path = f"/projects/lone/cards/{card['key']}"
    said(first.post(path, {"comment": "x"}), 422)
    assert said(first.post(path, {"verdict": "skip"}))["level"]
    [card] = said(second.post("/projects/lone/cards/next", {}))["cards"]
    assert said(second.post(f"/projects/lone/cards/{card['key']}", {"level": "good", "comment": "x"}))["kept"]
    assert said(second.post("/projects/lone/cards/next", {}))["nothing"] == "done"
    assert QualityLabel.objects.current().get().source == "api"


class Sent:
    """An answer as httpx gives it."""

    def __init__(self, answer: Any) -> None:
        self.status_code, self._answer = answer.status_code, answer

    def json(self) -> Any:
        return self._answer.json()

    def raise_for_status(self) -> "Sent":
        assert self.status_code < 400, self._answer.content
        return self


def test_the_front_end_of_the_docs_works(
    pair: Pair, api: Callable[..., Api], annotator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/api.md's program, run as it stands there against the API in this process."""
    text = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    [program] = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "cards/next" in part]
    for name, value in {"URL": "http://here", "PROJECT": "capitals", "TOKEN": "made below"}.items():
        monkeypatch.setenv(f"CALIPER_{name}", value)
    caller = api(annotator)

    class Client:
        def __init__(self, *, base_url: str, headers: dict[str, str]) -> None:
            assert (base_url, {*headers}) == ("http://here/api/v1/projects/capitals", {"Authorization"})

        def post(self, path: str, json: Any) -> Sent:
            return Sent(caller.post(LABELS + path, json))

    monkeypatch.setattr(httpx, "Client", Client)
    exec(compile(program, "docs/api.md", "exec"), {})
    judgement = Judgement.objects.get()
    texts = {"a": pair.response_a.text, "b": pair.response_b.text}
    assert texts[judgement.verdict] == "Paris"
