"""Every page that shows a text shows all of it: turns, tool calls, source views, and plain words in lists."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.conversations import answer_text
from webapp.corpus.models import Pair, Project, Prompt, Response, messages_digest, text_digest
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit

CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
TURNS: list[dict[str, Any]] = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": "7 C"},
    {"role": "assistant", "content": "It is **7** degrees. ![map](https://pictures.example/map.png)"},
]


@pytest.fixture
def pair(project: Project) -> Pair:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "**Weather** in Oslo?"},
    ]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    prompt = Prompt.objects.create(
        project=project,
        external_id="p",
        messages=messages,
        tools=tools,
        digest=messages_digest(messages, tools),
    )
    first, second = (
        Response.objects.create(
            project=project,
            prompt=prompt,
            external_id=name,
            text=text,
            messages=turns,
            digest=text_digest(text),
        )
        for name, text, turns in (("a", answer_text(TURNS), TURNS), ("b", "It is `8` degrees.", None))
    )
    return Pair.objects.create(
        project=project, external_id="x", response_a=first, response_b=second, wanted=2
    )


@pytest.fixture
def get(client_of: Callable[[User], Client], admin: User) -> Callable[[str], Any]:
    return lambda path: client_of(admin).get(f"/p/capitals/{path}")


def page_of(answer: Any) -> str:
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def test_pages_of_texts_show_turns_and_tool_calls(get: Callable[[str], Any], pair: Pair) -> None:
    for path in ("annotate/", f"pairs/{pair.pk}/", f"responses/{pair.response_a_id}/"):
        page = page_of(get(path))
        assert '<p class="role">system</p>' in page, path
        assert "1 tool offered: weather" in page, path
        assert "calls weather" in page, path
        assert "result of weather" in page, path
        assert "<strong>7</strong>" in page, path
        assert "{\\&quot;city\\&quot;:\\&quot;Oslo\\&quot;}" in page.replace('"', "&quot;"), path
        assert "data-source" in page, path


def test_lists_show_plain_words(get: Callable[[str], Any], pair: Pair, admin: User, project: Project) -> None:
    [card] = assignments_for(project=project, annotator=admin, count=1)
    judgement_submit(key=card.key, annotator=admin, verdict="skip")
    for path in ("pairs/", "responses/", "history/", f"responses/{pair.response_b_id}/"):
        page = page_of(get(path))
        assert "[call] weather" in page, path
        if path != f"responses/{pair.response_b_id}/":
            assert "It is 8 degrees." in page, path
            assert "Weather in Oslo?" in page, path


@pytest.mark.parametrize("loads", [False, True])
def test_the_policy_allows_pictures_of_others_where_the_project_loads_them(
    get: Callable[[str], Any], client_of: Callable[[User], Client], admin: User, pair: Pair, loads: bool
) -> None:
    Project.objects.update(load_images=loads)
    for path in ("annotate/", f"pairs/{pair.pk}/", f"responses/{pair.response_a_id}/"):
        answer = get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert ("img-src 'self' data: https:;" in policy + ";") == loads, policy
        assert ('<img src="https://pictures.example/map.png"' in answer.content.decode()) == loads
    assert "https:" not in client_of(admin).get("/").headers["Content-Security-Policy"]
