"""What all routes share: problems, pages, keys of repeated writes, bodies, queries."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.api.conftest import Api, said
from webapp.accounts.models import User
from webapp.api.idempotency import calls_sweep
from webapp.api.models import IdempotentCall
from webapp.corpus.models import Pair, Project, Prompt
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit

MakeApi = Callable[..., Api]
MakePrompt = Callable[..., Prompt]

PAIR = {"prompt_text": "Which?", "text_a": "one", "text_b": "two"}


# --- Problems ---


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, ""),
        (b"\xff", 400, ""),
        (b'{"overlap": NaN}', 400, ""),
        (b'{"overlap": ' + b"9" * 5000 + b"}", 400, ""),
        (b"[" * 100_000, 400, ""),
        (b'{"name": ' + b"[" * 70 + b"]" * 70 + b"}", 422, "name.0.0"),
        (b'{"name": "a\\u0000"}', 422, "name"),
        (b'{"name": "\\ud800"}', 422, "name"),
        (b'{"\\ud800": 1}', 422, "name of a field"),
        (b'{"overlap": 1e999}', 422, "overlap"),
        (b'{"overlap": 9223372036854775808}', 422, "overlap"),
        (b'{"overlap": "many"}', 422, "overlap"),
        (b'{"nonsense": 1}', 422, "nonsense"),
        (b'{"overlap": 0}', 422, "overlap"),
        (b'{"methods": ["magic"]}', 422, "methods"),
        (b'{"reason_tags": ["one\\ntwo"]}', 422, "reason_tags"),
        (b'{"base_model": "/etc"}', 422, "base_model"),
        (b"[]", 422, "body"),
    ],
)
def test_a_bad_body_is_refused_by_its_field(
    project: Project, admin: User, api: MakeApi, body: bytes, status: int, field: str
) -> None:
    problem = said(api(admin).patch("/projects/capitals", body), status)
    assert problem["status"] == status
    assert [error["field"] for error in problem["errors"]] == ([field] if field else []), problem
    assert all(error["message"] for error in problem["errors"])
    assert Project.objects.get().overlap == 2


def test_errors_before_and_behind_the_routes_are_problems_too(
    project: Project, admin: User, api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = api(admin)
    said(caller.get("/nothing"), 404)
    said(caller.get("/projects/capitals/pairs/99999"), 404)
    said(caller.get(f"/projects/capitals/pairs/{'9' * 30}"), 404)
    said(caller.get("/projects/capitals/prompts?q=%00"), 422)
    answer = caller.delete("/me")
    said(answer, 405)
    assert answer["Allow"] == "GET"
    large = caller.client.post(
        "/api/v1/projects",
        b"x",
        content_type="application/json",
        CONTENT_LENGTH=10**8,
        headers=caller.headers,
    )
    said(large, 413)
    monkeypatch.setattr("webapp.api.routes.me.me.__code__", (lambda request: 1 / 0).__code__)
    caller.client.raise_request_exception = False
    assert "in its log" in said(caller.get("/me"), 500)["detail"]


def test_an_archived_project_says_so(project: Project, admin: User, api: MakeApi) -> None:
    caller = api(admin)
    assert said(caller.post("/projects/capitals/archive"))["archived_at"]
    for answer in (
        caller.patch("/projects/capitals", {"overlap": 3}),
        caller.post("/projects/capitals/pairs", PAIR),
    ):
        assert "An admin can take it out of the archive" in said(answer, 409)["detail"]
    assert said(caller.post("/projects/capitals/unarchive"))["archived_at"] is None
    said(caller.post("/projects/capitals/pairs", PAIR), 201)


# --- Settings ---


def test_settings_are_those_of_the_page(
    project: Project, make_user: Callable[..., User], admin: User, annotator: User, api: MakeApi
) -> None:
    boss = api(make_user("boss", is_staff=True))
    made = said(boss.post("/projects", {"name": "Rivers", "slug": "rivers", "asks": "pairs"}), 201)
    assert (made["roles"], made["settings"]["overlap"], made["settings"]["methods"]) == (
        ["admin"],
        3,
        ["oprm"],
    )
    assert said(boss.post("/projects", {"name": "Rivers", "slug": "rivers"}), 422)["errors"] == [
        {
            "field": "slug",
            "message": "Another project has this address.",
            "remedy": "Choose another one.",
        }
    ]
    change = {"overlap": 5, "reason_tags": ["false", "too long"], "reliability": False, "votes": "majority"}
    changed = said(boss.patch("/projects/rivers", change))["settings"]
    assert changed == {**made["settings"], **change}
    again = said(boss.patch("/projects/rivers", {"reliability": None, "load_images": True}))["settings"]
    assert again == {**changed, "reliability": None, "load_images": True}
    mine = said(api(annotator).get("/projects/capitals"))
    assert mine["settings"] is None
    assert mine["roles"] == ["annotator"]


# --- Pages of a list ---


def test_lists_come_in_pages_whatever_is_added_meanwhile(
    project: Project, admin: User, api: MakeApi, make_prompt: MakePrompt
) -> None:
    prompts = [make_prompt(project, f"p{number}", ["one", "two"]).pk for number in range(5)]
    caller, cursor, found = api(admin), "", []
    while True:
        page = said(caller.get(f"/projects/capitals/prompts?limit=2{cursor}"))
        assert len(page["items"]) <= 2
        found += [each["id"] for each in page["items"]]
        make_prompt(project, f"later{len(found)}", ["one", "two"])
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == prompts[::-1]
    for wrong in ("nonsense", "MTI", "%FF", "YWZ0ZXIgLTE"):
        problem = said(caller.get(f"/projects/capitals/prompts?cursor={wrong}"), 400)
        assert problem["errors"][0]["field"] == "cursor"
    said(caller.get("/projects/capitals/prompts?limit=201"), 422)
    said(caller.get("/projects/capitals/prompts?limit=0"), 422)


@pytest.mark.parametrize("rows", [2, 50])
def test_queries_of_lists_don_t_grow(
    project: Project, admin: User, api: MakeApi, make_prompt: MakePrompt, rows: int
) -> None:
    """One for the token, one for the project with the role, one for the page, one for what people said."""
    for number in range(rows):
        make_prompt(project, f"p{number}", ["one", "two"])
    caller = api(admin)
    for path, queries in (
        ("/me", 2),
        ("/projects", 3),
        ("/projects/capitals", 2),
        ("/projects/capitals/prompts", 3),
        ("/projects/capitals/responses", 4),
        ("/projects/capitals/pairs", 4),
    ):
        with CaptureQueriesContext(
            connection,
        ) as captured:
            said(caller.get(path))
        assert len(captured) == queries, (path, [query["sql"][:90] for query in captured])


# --- Corpus ---


def test_filters_and_what_people_said(
    project: Project, admin: User, annotator: User, api: MakeApi, make_prompt: MakePrompt
) -> None:
    first, second = (
        make_prompt(project, "p1", ["Paris", "Lyon"]),
        make_prompt(project, "p2", ["Rome", "Oslo"]),
    )
    [card] = assignments_for(project=project, annotator=annotator, count=1)
    pair = card.pair
    judgement_submit(
        key=card.key,
        annotator=annotator,
        verdict="a",
        levels={pair.response_a_id: "good", pair.response_b_id: "bad"},
        comment="clear",
    )
    caller = api(admin)

    def ids(path: str) -> list[int]:
        return [each["id"] for each in said(caller.get(f"/projects/capitals/{path}"))["items"]]

    whole = said(caller.get(f"/projects/capitals/pairs/{pair.pk}"))
    assert whole["votes"] == {"a": 1, "b": 0, "tie": 0, "both_bad": 0}
    assert (whole["a"]["levels"]["good"], whole["b"]["levels"]["bad"]) == (1, 1)
    assert whole["a"]["author"] == "model-1"
    assert ids("pairs?judged=true") == [pair.pk]
    assert pair.pk not in ids("pairs?judged=false")
    assert len(ids("pairs?open=true")) == 2
    assert ids("pairs?open=false") == []
    assert ids(f"pairs?prompt={second.pk}") == [second.responses.first().pairs_as_a.get().pk]
    assert ids(f"pairs?response={pair.response_b_id}") == [pair.pk]
    assert ids("responses?author=model-2&external_id=p2-r2") == [second.responses.last().pk]
    assert len(ids(f"responses?prompt={first.pk}")) == 2
    assert ids("prompts?q=Question p1") == [first.pk]
    assert said(caller.get(f"/projects/capitals/prompts/{first.pk}"))["messages"] == first.messages


def test_a_pair_by_hand_is_stored_character_by_character(
    project: Project, admin: User, api: MakeApi, make_prompt: MakePrompt
) -> None:
    caller = api(admin)
    text = " Lines\r\nof a program\rand\ttabs \u2028\U0001f4a9 "
    made = said(caller.post("/projects/capitals/pairs", {**PAIR, "text_a": text, "author_a": "me"}), 201)
    assert (made["a"]["text"], made["a"]["author"], made["wanted"]) == (text, "me", 2)
    again = said(caller.post("/projects/capitals/pairs", {**PAIR, "text_a": text, "author_a": "me"}))
    assert again["id"] == made["id"]
    prompt = make_prompt(project, "p1", ["Paris", "Lyon"], pairs=False)
    paris, lyon = prompt.responses.order_by("pk")
    told = {"prompt": prompt.pk, "a": paris.pk, "b": lyon.pk}
    assert said(caller.post("/projects/capitals/pairs", told), 201)["response_a"] == paris.pk
    for body, field in (
        ({**PAIR, "text_b": "one"}, "text_b"),
        ({**PAIR, "prompt_text": ""}, "prompt_text"),
        ({**PAIR, "prompt": prompt.pk}, "prompt_text"),
        ({**PAIR, "prompt": 10**17, "prompt_text": ""}, "prompt"),
        ({**PAIR, "a": paris.pk}, "prompt"),
        ({**told, "a": made["a"]["id"]}, "a"),
        ({**told, "text_a": "typed"}, "text_a"),
        ({**PAIR, "text_a": "x" * 300_000}, "text_a"),
    ):
        assert said(caller.post("/projects/capitals/pairs", body), 422)["errors"][0]["field"] == field


# --- Keys of repeated writes ---


def test_a_write_with_a_key_is_done_once(
    project: Project, admin: User, researcher: User, api: MakeApi
) -> None:
    caller, headers = api(admin), {"Idempotency-Key": "3f1c"}
    first = caller.post("/projects/capitals/pairs", PAIR, headers=headers)
    second = caller.post("/projects/capitals/pairs", PAIR, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert second["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first
    assert Pair.objects.count() == 1
    other = {**PAIR, "text_b": "three"}
    problem = said(caller.post("/projects/capitals/pairs", other, headers=headers), 422)
    assert "another address or body" in problem["detail"]
    said(api(admin, "read").post("/projects/capitals/pairs", PAIR, headers=headers), 403)
    # Another person's key is another key; and their refusal is kept as well.
    said(api(researcher).post("/projects/capitals/pairs", PAIR, headers=headers), 403)
    assert said(caller.post("/projects/capitals/pairs", PAIR), 200)["id"] == json.loads(first.content)["id"]
    for wrong in ("", "a b", "x" * 201, "ä"):
        said(caller.post("/projects/capitals/pairs", PAIR, headers={"Idempotency-Key": wrong}), 400)
    assert calls_sweep() == 0
    IdempotentCall.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert "Idempotency-Replayed" not in caller.post("/projects/capitals/pairs", other, headers=headers)
    assert calls_sweep() == 1
    assert IdempotentCall.objects.count() == 1


def test_an_error_of_ours_keeps_no_key(
    project: Project, admin: User, api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, headers = api(admin), {"Idempotency-Key": "k"}
    caller.client.raise_request_exception = False
    with monkeypatch.context() as broken:
        broken.setattr("webapp.api.routes.corpus._pair_whole", lambda pair: 1 / 0)
        said(caller.post("/projects/capitals/pairs", PAIR, headers=headers), 500)
    assert not Pair.objects.exists()
    said(caller.post("/projects/capitals/pairs", PAIR, headers=headers), 201)


@pytest.mark.django_db(transaction=True)
def test_of_many_with_one_key_one_writes(project: Project, admin: User, api: MakeApi) -> None:
    secret = api(admin).headers["Authorization"][7:]
    answers: list[Any] = []
    start = threading.Barrier(4)

    def send() -> None:
        start.wait()
        try:
            answers.append(
                Api(secret).post("/projects/capitals/pairs", PAIR, headers={"Idempotency-Key": "k"})
            )
        finally:
            connection.close()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer for answer in answers) == 1
    assert Pair.objects.count() == 1
