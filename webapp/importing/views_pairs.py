"""A pair that an admin adds by hand: of two responses that are there, or of texts that are typed."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived, project_for
from webapp.corpus.audit import Action, audit
from webapp.corpus.counters import counters_forget
from webapp.corpus.models import Pair, Project, Prompt, Response, messages_digest, text_digest
from webapp.http import HtmxHttpRequest
from webapp.importing.fields import RowError, check_text, short_digest
from webapp.importing.reading import ImportRefused
from webapp.importing.writing import pair_id
from webapp.parameters import int_parameter

SHOWN_PROMPTS = 20
SHOWN_RESPONSES = 200


class TypedText(forms.CharField):
    """A text as it was typed: nothing is stripped, and line ends are what the keyboard made, not what forms send.

    `as_sent`: a program sent it, and its line ends are its own.
    """

    widget = forms.Textarea
    as_sent = False

    def __init__(self, **options: Any) -> None:
        super().__init__(strip=False, required=False, **options)

    def clean(self, value: Any) -> str:
        text: str = super().clean(value)
        if not self.as_sent:
            text = text.replace("\r\n", "\n")
        if not text:
            return ""
        try:
            return check_text("", text, limit=settings.MAX_TEXT_BYTES)
        except RowError as error:
            raise forms.ValidationError(f"This {error.message} {error.remedy}") from None


class PairForm(forms.Form):
    """A prompt and two of its responses; whatever is not chosen is typed."""

    prompt_text = TypedText(label="Prompt")
    a = forms.ModelChoiceField(
        Response.objects.none(), label="A", required=False, empty_label="type it below"
    )
    text_a = TypedText(label="Text of A")
    author_a = forms.CharField(label="Author of A", max_length=200, required=False)
    b = forms.ModelChoiceField(
        Response.objects.none(), label="B", required=False, empty_label="type it below"
    )
    text_b = TypedText(label="Text of B")
    author_b = forms.CharField(label="Author of B", max_length=200, required=False)

    def __init__(
        self, project: Project, prompt: Prompt | None, *args: Any, as_sent: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.project, self.prompt = project, prompt
        for typed in self.fields.values():
            if isinstance(typed, TypedText):
                typed.as_sent = as_sent
        for side in "ab":
            self.fields[f"text_{side}"].widget.attrs["rows"] = 5
            if prompt is None:
                del self.fields[side]
            else:
                field = self.fields[side]
                assert isinstance(field, forms.ModelChoiceField)
                field.queryset = prompt.responses.order_by("pk")
                field.label_from_instance = _label  # type: ignore[method-assign, assignment]
        self.fields["prompt_text"].widget.attrs["rows"] = 3
        if prompt is not None:
            del self.fields["prompt_text"]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if self.prompt is None and not data.get("prompt_text") and "prompt_text" not in self.errors:
            self.add_error("prompt_text", "Write the prompt, or choose one above.")
        for side in "ab":
            chosen, typed = data.get(side), data.get(f"text_{side}")
            if chosen and typed:
                self.add_error(f"text_{side}", "Either choose a response or type one, not both.")
            elif not chosen and not typed and not {side, f"text_{side}"} & set(self.errors):
                self.add_error(
                    f"text_{side}", "Type a response" + (", or choose one." if self.prompt else ".")
                )
        if self.errors:
            return data
        texts = [data[side].text if data.get(side) else data[f"text_{side}"] for side in "ab"]
        if texts[0] == texts[1]:
            self.add_error("b" if data.get("b") else "text_b", "A and B are the same text. A pair needs two.")
        return data


def _label(response: Any) -> str:
    text = response.text if len(response.text) <= 90 else response.text[:89] + "…"
    return f"{response.external_id}{f' ({response.author})' if response.author else ''}: {text}"


@transaction.atomic
def pair_add(*, form: PairForm, actor: User) -> tuple[Pair, bool]:
    """The pair of a valid form, and whether it is new. Texts that are there already are not stored twice.

    Raises ImportRefused while an import is there in part: it may be taken back, and what relies on it would go too.
    """
    data = form.cleaned_data
    project = Project.objects.select_for_update(no_key=True).get(pk=form.project.pk)
    check_not_archived(project)
    if project.imports.unfinished().exists():
        raise ImportRefused("An import is being written. Add the pair when it has ended.")
    prompt = form.prompt
    if prompt is None:
        turns = [{"role": "user", "content": data["prompt_text"]}]
        digest = messages_digest(turns)
        prompt = project.prompts.filter(digest=digest).order_by("pk").first() or Prompt.objects.create(
            project=project, external_id=f"hand-{digest[:16]}", messages=turns, digest=digest
        )
    a, b = (
        data.get(side) or _response(project, prompt, data[f"text_{side}"], data[f"author_{side}"].strip())
        for side in "ab"
    )
    found = project.pairs.filter(Q(response_a=a, response_b=b) | Q(response_a=b, response_b=a)).first()
    if found is not None:
        return found, False
    id = pair_id(a.external_id, b.external_id)
    if project.pairs.filter(external_id=id).exists():
        id = f"pair-{short_digest(a.external_id, b.external_id)}"
    pair = Pair.objects.create(
        project=project, external_id=id, response_a=a, response_b=b, wanted=project.overlap
    )
    counters_forget(project.pk)
    audit(project=project, actor=actor, action=Action.PAIR_ADDED, detail={"pair": pair.pk, "id": id})
    return pair, True


def _response(project: Project, prompt: Prompt, text: str, author: str) -> Response:
    digest = text_digest(text)
    same = prompt.responses.filter(digest=digest, author=author).order_by("pk").first()
    if same is not None:
        return same
    wanted = 0 if project.asks_pairs else project.overlap
    id = f"hand-{short_digest(prompt.external_id, author, text)}"
    return Response.objects.create(
        project=project, prompt=prompt, external_id=id, text=text, digest=digest, author=author, wanted=wanted
    )


@require_http_methods(["GET", "HEAD", "POST"])
def pair_new(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Choose a prompt or type one; then two responses."""
    project = project_for(request, slug, "admin")
    asked = int_parameter(request.GET, "prompt")
    prompt = project.prompts.with_key(asked)
    form = PairForm(project, prompt, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            pair, new = pair_add(form=form, actor=request.user)
        except ImportRefused as refusal:
            form.add_error(None, str(refusal))
        else:
            if new:
                messages.success(request, f"The pair {pair.external_id} was added. It is asked from now on.")
            else:
                messages.warning(
                    request, f"These two are a pair already: {pair.external_id}. Nothing was added."
                )
            return redirect("ratings:pair", project.slug, pair.pk)
    text = request.GET.get("q", "").replace("\x00", "").strip()[:200]
    found = project.prompts.search(text).annotate(number=Count("responses")).order_by("-pk")
    prompts = list(found[: SHOWN_PROMPTS + 1]) if prompt is None else []
    context = {
        "form": form,
        "prompt": prompt,
        "prompts": prompts[:SHOWN_PROMPTS],
        "more": len(prompts) > SHOWN_PROMPTS,
        "text": text,
        "responses": prompt.responses.order_by("pk")[:SHOWN_RESPONSES] if prompt else [],
    }
    return render(request, "importing/pair_new.html", context, status=400 if form.errors else 200)
