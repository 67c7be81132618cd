"""A caller of the API with a token, as a program is."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from tests.ratings.conftest import make_version as make_version  # a fixture
from webapp.accounts.models import ApiToken, User
from webapp.api.tokens import token_make
from webapp.corpus.models import Project, Prompt
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit
from webapp.training.models import ModelVersion

ROOT = "/api/v1"


class Api:
    """`api.get("/projects")`: JSON in and out. Its token counts as seen a moment ago, so that it costs no UPDATE."""

    def __init__(self, secret: str = "") -> None:
        self.client = Client()
        self.headers = {"Authorization": f"Bearer {secret}"} if secret else {}

    def send(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Any:
        """`body` is sent as JSON; a dict under “multipart” as a form, its bytes as files."""
        more = {**self.headers, **(headers or {})}
        if isinstance(body, dict) and "multipart" in body:
            form = {
                name: SimpleUploadedFile("a.jsonl", value) if isinstance(value, bytes) else value
                for name, value in body["multipart"].items()
            }
            return self.client.post(ROOT + path, form, headers=more)
        data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else ""
        return self.client.generic(method, ROOT + path, data, content_type="application/json", headers=more)

    def get(self, path: str, **options: Any) -> Any:
        return self.send("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.send("POST", path, body, **options)

    def patch(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.send("PATCH", path, body, **options)

    def put(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.send("PUT", path, body, **options)

    def delete(self, path: str, **options: Any) -> Any:
        return self.send("DELETE", path, **options)


ALL = ("read", "write", "train", "score")


@pytest.fixture
def api(db: None) -> Callable[..., Api]:
    """api(user) has every scope; api(user, "read") that one alone; api() no token."""

    def make(user: User | None = None, *scopes: str, **options: Any) -> Api:
        if user is None:
            return Api()
        token, secret = token_make(user=user, name="test", scopes=scopes or ALL, actor=user, **options)
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=timezone.now())
        return Api(secret)

    return make


# What annotators never learn: who wrote a response, what others said of it, what a model thinks of it.
AUTHOR, COMMENT, SCORE = "model-1", "said by somebody else", 7.3125


@pytest.fixture
def world(
    project: Project,
    admin: User,
    make_prompt: Callable[..., Prompt],
    make_version: Callable[..., ModelVersion],
) -> Project:
    """A pair that an admin has judged and a version has rated."""
    prompt = make_prompt(project, "p1", ["Paris", "Lyon"])
    make_version(project, dict.fromkeys(prompt.responses.all(), SCORE), method="bt")
    [card] = assignments_for(project=project, annotator=admin, count=1)
    levels = {card.pair.response_a_id: "good", card.pair.response_b_id: "bad"}
    judgement_submit(key=card.key, annotator=admin, verdict="a", levels=levels, comment=COMMENT)
    return project


def said(response: HttpResponse, status: int = 200) -> Any:
    """The JSON of an answer, once its status is the expected one."""
    body = json.loads(response.content)
    assert response.status_code == status, (response.status_code, body)
    if status >= 400:
        assert response["Content-Type"] == "application/problem+json"
    return body
