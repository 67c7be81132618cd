"""The page of rollouts: what is asked back, rewards over time beside what people said, the newest pairs."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from webapp.corpus.access import project_for
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.labels.summaries import Votes
from webapp.ratings.pictures import votes_bar
from webapp.rollouts import services
from webapp.rollouts.charts import agreement_picture, rewards_picture
from webapp.rollouts.models import RolloutPair, RolloutSettings, RolloutWindow
from webapp.rollouts.monitor import RULE
from webapp.rollouts.reports import overview, votes_of

_PAGE = 10


class SettingsForm(forms.ModelForm):
    """What an admin sets; the share drawn at random is what the other two leave."""

    class Meta:
        model = RolloutSettings
        fields = ("on", "per_hour", "sample", "window_seconds", "uncertain", "moved")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if not self.errors and data["uncertain"] + data["moved"] > 90:
            self.add_error(
                "moved",
                "The two shares are more than 90 %. What they leave is drawn at random, and only that says something "
                "about all rollouts: lower one of them.",
            )
        return data


def _context(request: HtmxHttpRequest, project: Project) -> dict[str, Any]:
    chosen = services.settings_of(project)
    found = overview(project)
    pairs = RolloutPair.objects.of(project)
    page = Paginator(pairs.with_names().order_by("-pk"), _PAGE).get_page(request.GET.get("page"))
    votes = votes_of([row.pair_id for row in page])
    return {
        "chosen": chosen,
        "why_not": services.why_not(project, chosen),
        "found": found,
        "pictures": [
            picture
            for picture in (rewards_picture(found.points), agreement_picture(found.points))
            if picture is not None
        ],
        "rule": RULE,
        "page": page,
        "rows": [_row(row, votes[row.pair_id][0] if row.pair_id in votes else Votes()) for row in page],
        "windows": RolloutWindow.objects.filter(project=project).with_versions()[:_PAGE],
        "address": request.build_absolute_uri(f"/p/{project.slug}/"),
    }


def _row(row: RolloutPair, votes: Votes) -> dict[str, Any]:
    return {"row": row, "votes": votes, "bar": votes_bar(votes)}


@require_safe
def rollouts(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "read")
    context = _context(request, project)
    return render(
        request, "rollouts/rollouts.html", {**context, "form": SettingsForm(instance=context["chosen"])}
    )


@require_POST
def settings_save(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "admin")
    form = SettingsForm(request.POST, instance=services.settings_of(project))
    if form.is_valid():
        services.settings_save(settings=form.instance, actor=request.user)
        messages.success(request, "Saved. Servers follow within a minute.")
        return redirect("rollouts:rollouts", slug)
    return render(request, "rollouts/rollouts.html", {**_context(request, project), "form": form}, status=422)
