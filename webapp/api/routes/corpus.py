"""Prompts, responses and pairs, with what people said of them: for researchers and admins, as the pages are."""

from datetime import datetime
from typing import Annotated, Any

from django.db.models import F, Q
from django.shortcuts import get_object_or_404
from ninja import Field, Query, Schema, Status

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem, form_refused, refused
from webapp.api.routers import ProjectRouter
from webapp.api.schemas import Given, Key, Message
from webapp.corpus.access import project_for
from webapp.corpus.models import Pair, Prompt, Response
from webapp.importing.reading import ImportRefused
from webapp.importing.views_pairs import PairForm, pair_add
from webapp.labels.summaries import level_counts, vote_counts

router = ProjectRouter(tags=["corpus"])

Search = Annotated[
    str, Query(max_length=200, description="Only prompts with this text in a message or in the id.")
]
OfPrompt = Annotated[Key | None, Query(description="Only those of this prompt.")]
ById = Annotated[str | None, Query(max_length=200, description="Only the one with this external id.")]


class PromptOut(Schema):
    id: int
    external_id: str
    messages: list[Message]
    tools: list[Any]
    group: str = Field(
        description="What is split between training and held-out; empty: the prompt by itself."
    )
    created_at: datetime


class LevelsOut(Schema):
    """How many people gave each level."""

    bad: int = 0
    normal: int = 0
    good: int = 0


class ResponseOut(Schema):
    id: int
    external_id: str
    prompt: int = Field(description="The id of the prompt that it answers.")
    text: str
    messages: list[Message] | None = Field(
        description="An answer of several turns; null: the text is all there is."
    )
    author: str = Field(description="The model or person that wrote it; annotators never see it.")
    metadata: dict[str, Any]
    levels: LevelsOut
    wanted: int = Field(description="Labels wanted, where responses are asked about by themselves.")
    labelled: int
    created_at: datetime


class VotesOut(Schema):
    """How many people judged so; skips aren't counted."""

    a: int = 0
    b: int = 0
    tie: int = 0
    both_bad: int = 0


class PairOut(Schema):
    id: int
    external_id: str
    prompt: int = Field(description="The id of the prompt of response_a.")
    response_a: int
    response_b: int
    wanted: int = Field(description="Judgements wanted, each from another person.")
    judged: int
    reserved: int = Field(description="Cards that somebody has open now.")
    votes: VotesOut
    created_at: datetime


class PairWhole(PairOut):
    a: ResponseOut
    b: ResponseOut


class PairNew(Given):
    """A pair of a prompt that is there (`prompt`) or is typed (`prompt_text`). Each side is a response of the prompt
    (`a`, `b`) or a new text (`text_a`, `text_b`) with its author.
    """

    prompt: Key | None = None
    prompt_text: str = ""
    a: Key | None = None
    text_a: str = ""
    author_a: str = Field("", max_length=200)
    b: Key | None = None
    text_b: str = ""
    author_b: str = Field("", max_length=200)


# --- Prompts ---


@router.get("prompts", auth=token("read"), response=Page[PromptOut], summary="Prompts, newest first")
def prompts(
    request: ApiRequest,
    slug: str,
    q: Search = "",
    external_id: ById = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    rows = project.prompts.search(q)
    return paged(_by_id(rows, external_id), cursor, limit)


@router.get("prompts/{key:pk}", auth=token("read"), response=PromptOut, summary="One prompt")
def prompt(request: ApiRequest, slug: str, pk: int) -> Prompt:
    project = project_for(request, slug, "read")
    return get_object_or_404(project.prompts, pk=pk)


# --- Responses ---


@router.get("responses", auth=token("read"), response=Page[ResponseOut], summary="Responses, newest first")
def responses(
    request: ApiRequest,
    slug: str,
    prompt: OfPrompt = None,
    author: Annotated[
        str | None, Query(max_length=200, description="Only those that this author wrote.")
    ] = None,
    external_id: ById = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """With how many people gave each level."""
    project = project_for(request, slug, "read")
    rows = _by_id(Response.objects.of(project), external_id)
    if prompt is not None:
        rows = rows.filter(prompt=prompt)
    if author is not None:
        rows = rows.filter(author=author)
    return paged(rows, cursor, limit, shown=_responses)


@router.get("responses/{key:pk}", auth=token("read"), response=ResponseOut, summary="One response")
def response(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    return _responses([get_object_or_404(Response.objects.of(project), pk=pk)])[0]


def _responses(rows: list[Response]) -> list[dict[str, Any]]:
    levels = level_counts(row.pk for row in rows)
    own = ResponseOut.model_fields.keys() - {"prompt", "levels"}
    return [
        {
            **{name: getattr(row, name) for name in own},
            "prompt": row.prompt_id,
            "levels": levels[row.pk].counts if row.pk in levels else {},
        }
        for row in rows
    ]


# --- Pairs ---


@router.get("pairs", auth=token("read"), response=Page[PairOut], summary="Pairs, newest first")
def pairs(
    request: ApiRequest,
    slug: str,
    prompt: OfPrompt = None,
    response: Annotated[Key | None, Query(description="Only those in which this response stands.")] = None,
    judged: Annotated[bool | None, Query(description="Whether anybody has judged it.")] = None,
    open: Annotated[bool | None, Query(description="Whether it wants more judgements.")] = None,
    external_id: ById = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """With how many people judged how."""
    project = project_for(request, slug, "read")
    rows = _by_id(Pair.objects.of(project), external_id).select_related("response_a")
    if prompt is not None:
        rows = rows.filter(response_a__prompt=prompt)
    if response is not None:
        rows = rows.with_response(response)
    if judged is not None:
        rows = rows.filter(judged__gt=0) if judged else rows.filter(judged=0)
    if open is not None:
        wanting = Q(wanted__gt=F("judged"))
        rows = rows.filter(wanting if open else ~wanting)
    return paged(rows, cursor, limit, shown=_pairs)


@router.get("pairs/{key:pk}", auth=token("read"), response=PairWhole, summary="One pair with both texts")
def pair(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    return _pair_whole(get_object_or_404(Pair.objects.of(project).with_texts(), pk=pk))


@router.post(
    "pairs", auth=token("write"), response={200: PairWhole, 201: PairWhole}, summary="Add a pair by hand"
)
def pair_create(request: ApiRequest, slug: str, body: PairNew) -> Status[dict[str, Any]]:
    """For admins. Texts that are there already are not stored twice: 201 is a new pair, 200 one that was there."""
    project = project_for(request, slug, "admin")
    prompt = project.prompts.with_key(body.prompt)
    if prompt is None and body.prompt is not None:
        raise refused(
            [{"field": "prompt", "message": "There is no such prompt here.", "remedy": "See prompts."}]
        )
    if prompt is not None and body.prompt_text:
        raise refused(
            [{"field": "prompt_text", "message": "There is a prompt already.", "remedy": "Send one of both."}]
        )
    if prompt is None and (body.a is not None or body.b is not None):
        message = "A response is of a prompt."
        raise refused([{"field": "prompt", "message": message, "remedy": "Send the prompt that it answers."}])
    form = PairForm(project, prompt, body.dict(exclude_none=True), as_sent=True)
    if not form.is_valid():
        raise form_refused(form)
    try:
        pair, new = pair_add(form=form, actor=request.user)
    except ImportRefused as refusal:
        raise Problem(409, "Not now", str(refusal)) from None
    return Status(201 if new else 200, _pair_whole(pair))


def _pairs(rows: list[Pair]) -> list[dict[str, Any]]:
    votes = vote_counts(row.pk for row in rows)
    names = ("id", "external_id", "wanted", "judged", "reserved", "created_at")
    return [
        {
            **{name: getattr(row, name) for name in names},
            "prompt": row.response_a.prompt_id,
            "response_a": row.response_a_id,
            "response_b": row.response_b_id,
            "votes": votes.get(row.pk, {}),
        }
        for row in rows
    ]


def _pair_whole(pair: Pair) -> dict[str, Any]:
    a, b = _responses([pair.response_a, pair.response_b])
    return {**_pairs([pair])[0], "a": a, "b": b}


def _by_id(rows: Any, external_id: str | None) -> Any:
    return rows if external_id is None else rows.filter(external_id=external_id)
