"""Promoting and rolling back: asked once, and written where people look."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.training.models import ModelVersion
from webapp.training.services import version_promote

Make = Callable[..., Any]
ClientOf = Callable[[User], Client]


@pytest.fixture
def versions(labelled: Project, make_version: Make) -> tuple[ModelVersion, ModelVersion]:
    """v1 and v2, of which v2 serves: both passed the gate."""
    first, second = make_version(labelled, 1), make_version(labelled, 2)
    version_promote(version=first)
    version_promote(version=second)
    return first, second


def words(client: Client, name: str, *keys: int) -> str:
    page = client.get(reverse(f"training:{name}", args=["capitals", *keys])).content.decode()
    return re.sub(r"\s+", " ", strip_tags(page))


def promote(client: Client, version: ModelVersion) -> None:
    client.post(reverse("training:version-promote", args=["capitals", version.pk]))


def test_who_and_when_stand_on_the_run_and_in_the_list(
    versions: tuple[ModelVersion, ModelVersion], admin: User, client_of: ClientOf
) -> None:
    first, second = versions
    client = client_of(admin)
    page = words(client, "run", second.run_id)
    assert "Serves since now, let serve by Caliper, as it passed the gate, in place of v1." in page
    promote(client, first)
    page = words(client, "run", first.run_id)
    assert "Serves since now, when adam rolled back from v2." in page
    assert "v2 (newer, not serving)" in page
    assert "(before)" not in page
    page = words(client, "run", second.run_id)
    assert "Served until now, when adam rolled back to v1." in page
    listed = words(client, "runs")
    assert "Serves since now, when adam rolled back from v2." in listed
    assert "Served until now, when adam rolled back to v1." in listed
    promote(client, second)
    assert "Serves since now, let serve by adam, in place of v1." in words(client, "runs")
    assert "Served until now, when v2 was let serve by adam." in words(client, "runs")


def test_the_button_says_which_way_it_goes(
    versions: tuple[ModelVersion, ModelVersion],
    labelled: Project,
    make_version: Make,
    admin: User,
    client_of: ClientOf,
) -> None:
    first, second = versions
    make_version(labelled, 3, gate_passed=False, gate_reason="Accuracy 0.700 against 0.800.")
    client = client_of(admin)
    listed = words(client, "runs")
    assert "Roll back to v1…" in listed
    assert "Let v3 serve…" in listed
    assert "It was held at the gate: Accuracy 0.700 against 0.800." in listed
    promote(client, first)
    for page in (
        words(client, "runs"),
        words(client, "run", second.run_id),
        words(client, "run", first.run_id),
    ):
        assert "Let v2 serve again…" in page
        assert "Roll back to v2" not in page
    # It asks once: the form stands behind a summary, and says what it does.
    page = client.get(reverse("training:runs", args=["capitals"])).content.decode()
    assert page.count('<details class="ask">') == page.count("/promote/") == 2
    assert "in place of v1. Your name and the time are kept." in re.sub(r"\s+", " ", page)


def test_researchers_read_it_and_have_no_button(
    versions: tuple[ModelVersion, ModelVersion], researcher: User, client_of: ClientOf
) -> None:
    page = words(client_of(researcher), "runs")
    assert "let serve by Caliper, as it passed the gate" in page
    assert "Roll back" not in page


def test_what_served_before_the_log_began(
    labelled: Project, make_version: Make, admin: User, client_of: ClientOf
) -> None:
    make_version(labelled, 1, is_serving=True, promoted_at=timezone.now())
    assert "Serves since now." in words(client_of(admin), "runs")
