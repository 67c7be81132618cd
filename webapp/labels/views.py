"""The annotator's pages: the deck of cards, storing and taking back an answer, and what one has judged so far."""

import uuid
from collections.abc import Iterable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from webapp.accounts.models import User
from webapp.corpus.access import ProjectArchived, project_for
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.labels import queue, services
from webapp.labels.cards import (
    CONTRADICTIONS,
    Answers,
    Card,
    Former,
    answers_save,
    cards_for,
    form_errors,
    keys_in,
)
from webapp.labels.counters import Standing, standing, subject_of, with_numbers
from webapp.labels.histories import (
    STRENGTHS,
    Counts,
    entry_of,
    in_words,
    own_counts,
    own_judgements,
    own_levels,
)
from webapp.labels.models import Assignment, Judgement, QualityLabel
from webapp.labels.names import labellers_and_members

_AHEAD = 3
"""Cards a page holds: the one in sight and the next two, so that two answers may be on their way."""

_PAGE = 25

_CHOICES = {
    # value of the form, label, the same on a phone, key
    "verdict_keys": [
        ("left", "A is better", "A", "a"),
        ("tie", "Tie", "Tie", "t"),
        ("both_bad", "Both bad", "Both bad", "x"),
        ("right", "B is better", "B", "b"),
    ],
    "strengths": [("", "not said"), *((str(value), word) for value, word in STRENGTHS.items())],
    "level_digits": [("bad", 1), ("normal", 2), ("good", 3)],
    "contradictions": CONTRADICTIONS,
}

RECEIPT_HEADER = "Caliper-Receipt"
"""Tells the page's script that an answer was dealt with: a sign-in page that a proxy sends instead is no receipt."""


def _standing(
    numbers: Standing, last: uuid.UUID | None, cards: Iterable[Any], project: Project, user: User
) -> dict[str, Any]:
    """What every answer of the annotate page says: how far one is, what an undo takes back (a card's key), and why
    there is no card where there is none.
    """
    said: dict[str, Any] = {
        **_CHOICES,
        "counts": Counts(judged=numbers.judged, skipped=numbers.skipped),
        "open_count": numbers.open,
        "last": last,
    }
    if not cards and (not numbers.held or project.archived_at is not None):
        # An empty project, all done, or others hold the last places.
        said |= {
            "nothing": True,
            "is_empty": not subject_of(project).of(project).exists(),
            "busy": queue.busy_count(project=project, annotator=user),
        }
    return said


def _undoable(project: Project, user: User) -> uuid.UUID | None:
    newest = services.undoable(project=project, annotator=user)
    return newest.assignment.key if newest and newest.assignment else None


@never_cache
@require_GET
def annotate(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """The card to judge now, with the next ones behind it."""
    project = project_for(request, slug, "annotate")
    cards: list[Card] = []
    if project.archived_at is None:
        reserved, numbers = queue.cards_and_standing(project=project, annotator=request.user, count=_AHEAD)
        cards = cards_for(reserved)
    else:
        numbers = standing(project=project, annotator=request.user)
    if cards:
        cards[0].shown_at = timezone.now()
    last = _undoable(project, request.user)
    context = {"cards": cards, **_standing(numbers, last, cards, project, request.user)}
    return render(request, "labels/annotate.html", context)


@never_cache
@require_http_methods(["GET", "POST"])
def submit(request: HtmxHttpRequest, slug: str, key: uuid.UUID) -> HttpResponse:
    """POST stores the answer on one card; GET shows an answered card again, to correct it.

    An answer that can't be stored comes back as 422, one that is asked about once more as 409; both are the card.
    """
    project = project_for(request, slug, "annotate")
    own = Assignment.objects.of(project, request.user).with_said().with_heads()
    assignment = get_object_or_404(with_numbers(own), key=key)
    assignment.project, assignment.annotator = project, request.user
    if request.method == "GET":
        return _edit(request, project, assignment)
    answers = Answers.read(request.POST)
    editing = "editing" in request.POST
    held = keys_in(request.POST.get("holding", ""), limit=_AHEAD)
    known = {key, *held, *keys_in(request.POST.get("sending", ""), limit=_AHEAD)}
    ahead = services.Ahead(max(0, _AHEAD - len(held)), frozenset(known)) if request.htmx else None
    try:
        receipt = answers_save(assignment, answers, ahead=ahead)
    except (services.Refused, services.Asked) as reason:
        return _back(request, project, assignment, answers, reason, editing)
    except ProjectArchived as refusal:
        if not request.htmx:
            raise
        # The page's script shows this text on the card, which keeps its answer.
        return HttpResponse(str(refusal), status=423, content_type="text/plain; charset=utf-8")
    if not request.htmx:
        clock = timezone.localtime(receipt.saved_at).strftime("%H:%M:%S")
        word = "Skipped" if receipt.skipped else "Saved"
        text = f"{word} {clock}. {receipt.message}" if receipt.kept else receipt.message
        messages.add_message(request, messages.SUCCESS if receipt.kept else messages.WARNING, text.strip())
        return redirect("labels:history" if editing else "labels:annotate", slug=project.slug)
    assert ahead is not None
    return _receipt(request, project, assignment, receipt, ahead)


def _receipt(
    request: HtmxHttpRequest,
    project: Project,
    assignment: Assignment,
    receipt: services.Receipt,
    ahead: services.Ahead,
) -> HttpResponse:
    """For htmx: the receipt, the new standing, and as many new cards as the page lacks."""
    cards, numbers = list(receipt.cards), receipt.numbers
    if numbers is None or len(cards) < ahead.lacking:
        # Cards of another tab, places whose time is over, or pairs that others had locked just then.
        others = ahead.known | {card.key for card in cards}
        more, numbers = queue.cards_and_standing(
            project=project, annotator=request.user, count=ahead.lacking - len(cards), others=others
        )
        cards += more
    # This answer is the newest one, if it was not kept at all or was there before.
    new = receipt.kept and assignment.state != Assignment.State.DONE
    last = assignment.key if new else _undoable(project, request.user)
    shown = cards_for(cards)
    said = _standing(numbers, last, shown, project, request.user)
    context = {"receipt": receipt, "cards": shown, "ahead": True, **said}
    response = render(request, "labels/annotate.html#answer", context)
    response.headers[RECEIPT_HEADER] = "kept" if receipt.kept else "dropped"
    return response


def _back(
    request: HtmxHttpRequest,
    project: Project,
    assignment: Assignment,
    answers: Answers,
    reason: services.Refused | services.Asked,
    editing: bool,
) -> HttpResponse:
    """The card as it was answered, with what is wrong (422) or what has to be looked at once more (409)."""
    [card] = cards_for(Assignment.objects.filter(pk=assignment.pk).with_texts())
    card.answer(answers)
    status = 409
    if isinstance(reason, services.Refused):
        card.errors, status = form_errors(reason.errors, assignment), 422
    elif reason.former is not None:
        # What the page has asked about already needs no second question.
        card.former_said, card.keep = _former(card, reason.former, asks=True), answers.keep
    else:
        card.question, card.keep = reason.contradiction, answers.said
    context = {"cards": [card], "card": card, "editing": editing, **_CHOICES}
    if request.htmx:
        response = render(request, "labels/annotate.html#card", context, status=status)
        response.headers["HX-Retarget"] = f"#card-{card.assignment.key}"
        response.headers["HX-Reswap"] = "outerHTML"
        return response
    numbers = standing(project=project, annotator=request.user)
    context |= _standing(numbers, _undoable(project, request.user), [card], project, request.user)
    return render(request, "labels/annotate.html", context, status=status)


def _former(card: Card, row: Judgement | QualityLabel, *, asks: bool = False) -> Former:
    return Former(row.created_at, in_words(row, card.assignment.left), asks)


def _edit(request: HtmxHttpRequest, project: Project, assignment: Assignment) -> HttpResponse:
    """An answered card with its answer: on a page of its own, or for a deck that still held it blank."""
    if assignment.state != Assignment.State.DONE or project.archived_at is not None:
        return HttpResponse(status=204) if request.htmx else redirect("labels:annotate", slug=project.slug)
    [card] = cards_for(Assignment.objects.filter(pk=assignment.pk).with_texts())
    card.shown_at = timezone.now()
    if card.former is not None:
        card.former_said = _former(card, card.former)
    if request.htmx:
        return render(request, "labels/annotate.html#card", {"card": card, **_CHOICES})
    return render(request, "labels/annotate.html", {"cards": [card], "editing": True, **_CHOICES})


@require_POST
def undo(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Take the newest answer back; its card is the first of the deck again."""
    project = project_for(request, slug, "annotate")
    key = next(iter(keys_in(request.POST.get("key", ""), limit=1)), None)
    reopened = services.judgement_undo(project=project, annotator=request.user, key=key)
    if not request.htmx:
        messages.info(request, _undone(cards_for([reopened] if reopened else [])))
        return redirect("labels:annotate", slug=project.slug)
    reserved, numbers = queue.cards_and_standing(project=project, annotator=request.user, count=_AHEAD)
    if reopened is not None:
        reserved = [reopened, *(other for other in reserved if other.pk != reopened.pk)][:_AHEAD]
    cards = cards_for(reserved)
    context = {
        "cards": cards,
        "undone": _undone(cards if reopened else []),
        **_standing(numbers, _undoable(project, request.user), cards, project, request.user),
    }
    response = render(request, "labels/annotate.html#undone", context)
    response.headers[RECEIPT_HEADER] = "undone"
    return response


def _undone(cards: list[Card]) -> str:
    """What an undo did; the first of the cards is the one that came back."""
    if not cards:
        return "There is nothing to take back."
    if cards[0].skipped:
        return "Taken back: the card that you skipped is here again."
    return "Taken back: your answer is on the card again."


@never_cache
@require_GET
def history(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """One's own current answers, newest first, each with a link to correct it."""
    project = project_for(request, slug, "annotate")
    return render(request, "labels/history.html", _history(request, project, request.user))


def _history(request: HtmxHttpRequest, project: Project, annotator: User) -> dict[str, Any]:
    own: Any = own_judgements if project.asks_pairs else own_levels
    counts = own_counts(project=project, annotator=annotator)
    paginator = Paginator(own(project=project, annotator=annotator), _PAGE)
    paginator.count = counts.judged + counts.skipped
    page = paginator.get_page(request.GET.get("page"))
    return {"page": page, "entries": [entry_of(row) for row in page.object_list], "counts": counts}


@require_GET
def annotator(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """Somebody else's current answers, newest first, for those who see labels."""
    project = project_for(request, slug, "read")
    person = get_object_or_404(labellers_and_members(project), pk=pk)
    if person.kind == User.Kind.MACHINE:
        return redirect("labels:machine", slug, person.machine.pk)
    context = {**_history(request, project, person), "person": person}
    return render(request, "labels/annotator.html", context)
