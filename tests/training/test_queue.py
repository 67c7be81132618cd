"""The queue told: place, what is ahead, estimates, one percentage, the next retrain, and starting again."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webapp.accounts.models import User
from webapp.corpus.models import Method, Project
from webapp.jobs import State
from webapp.training import phases
from webapp.training.models import TrainingRun
from webapp.training.queue import crossfit_costs, places, seconds_per_label
from webapp.training.triggers import next_trainings

Make = Callable[..., Any]
ClientOf = Callable[[User], Client]


def url(name: str, *keys: int) -> str:
    return reverse(name, args=["capitals", *keys])


def words(client: Client, name: str, *keys: int, query: str = "") -> str:
    page = client.get(url(name, *keys) + query).content.decode()
    return re.sub(r"\s+", " ", strip_tags(page))


@pytest.fixture
def past(make_run: Make) -> Make:
    """past(project, method, seconds, labels): a run that has ended well."""

    def make(project: Project, method: str, seconds: float, labels: int, **fields: Any) -> TrainingRun:
        ended = timezone.now() - timedelta(hours=1)
        times = {"started_at": ended - timedelta(seconds=seconds), "finished_at": ended}
        run: TrainingRun = make_run(project, method, State.DONE, labels_seen=labels, **times, **fields)
        return run

    return make


# --- The queue ---


def test_place_what_is_ahead_and_when(
    labelled: Project, make_run: Make, past: Make, researcher: User, admin: User, client_of: ClientOf
) -> None:
    elsewhere = Project.objects.create(slug="secret", name="Secret plans", methods=["bt"])
    for seconds in (10, 40, 20):
        past(elsewhere, "bt", seconds, 10)
    past(labelled, "oprm", 60, 20)
    now = timezone.now()
    times = {"started_at": now - timedelta(seconds=30), "heartbeat_at": now}
    running = make_run(elsewhere, "bt", State.RUNNING, labels_seen=60, **times)
    first = make_run(labelled, "oprm", queued_at=now - timedelta(seconds=3), labels_seen=20)
    own = make_run(labelled, "oprm", queued_at=now, labels_seen=40, overrides={"seed": 1})
    assert seconds_per_label("bt", "tuned", "all-MiniLM-L6-v2") == 2.0
    place = places([own], admin)[own.pk]
    assert (place.position, [each.run.pk for each in place.waiting]) == (2, [first.pk])
    assert [each.shown for each in (*place.running, *place.waiting)] == [False, True]
    # 60 labels of 2 s less the 30 s that it has run, then 20 labels of 3 s.
    assert place.begins is not None
    assert place.begins.total_seconds() == pytest.approx(150, abs=5)
    assert place.takes == timedelta(seconds=120)
    page = words(client_of(researcher), "training:run", own.pk)
    assert "Number 2 in the queue" in page
    method = running.get_method_display()
    ahead = (
        f"1 running now ({method}) and 1 waiting before it ({first.get_method_display()}, run {first.pk})."
    )
    assert ahead in page
    assert f"run {running.pk}" not in page
    assert "It should take about 2 min 0 s." in page
    assert "secret" not in page.lower()
    listed = words(client_of(admin), "training:runs")
    assert "Number 1 in the queue" in listed
    assert "Number 2 in the queue" in listed


def test_without_past_runs_there_is_no_estimate(
    labelled: Project, make_run: Make, admin: User, client_of: ClientOf
) -> None:
    run = make_run(labelled, "oprm", labels_seen=20)
    page = words(client_of(admin), "training:run", run.pk)
    assert "Number 1 in the queue" in page
    assert "Nothing is ahead of it." in page
    assert "No estimate yet of how long it takes: no training of this method, tuning and base model" in page
    assert places([make_run(labelled, "oprm", State.DONE)], admin) == {}


# --- One percentage ---


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    said=st.lists(
        st.tuples(
            st.sampled_from(
                [*phases.FROZEN, "starting", "storing predictions", "building the starter model"]
            ),
            st.integers(0, 50),
            st.integers(0, 40),
        )
    ),
    tuning=st.sampled_from(["frozen", "tuned"]),
)
def test_a_phase_stands_for_a_percentage(said: list[tuple[str, int, int]], tuning: str) -> None:
    shares = phases.fixed_shares(tuning)
    for phase, step, total in said:
        assert 0 <= phases.overall(phase, step, total, shares) <= phases.MOST
        if total and phase in shares and phase != "evaluating":
            assert phases.overall(phase, total, total, shares) >= phases.overall(phase, step, total, shares)


def test_it_never_falls_on_the_row(labelled: Project, make_run: Make) -> None:
    """The phases as a frozen run says them: the evaluation after the first saving, in passes of its own."""
    run = make_run(labelled, "oprm", overrides={"tuning": "frozen"})
    assert run.percent is None
    assert run.claim()
    told = [("loading", 0, 0), ("embedding", 9, 9), ("training", 1, 4), ("training", 4, 4), ("scoring", 3, 3)]
    told += [("evaluating", 0, 0), ("saving", 0, 0), ("evaluating", 3, 10), ("evaluating", 10, 10)]
    told += [("evaluating", 1, 12), ("cross-fitting", 1, 2), ("saving", 1, 1), ("storing predictions", 0, 0)]
    seen = []
    for phase, step, total in told:
        assert run.beat(phase=phase, step=step, total=total)
        seen.append(TrainingRun.objects.get(pk=run.pk).percent)
    assert seen == [0, 41, 46, 60, 62, 62, 62, 65, 72, 72, 90, 99, 99]
    assert run.finish()
    assert run.percent == 100


def test_a_phase_is_worth_what_it_took_last_time(labelled: Project, past: Make, make_run: Make) -> None:
    before = past(labelled, "oprm", 100, 20)
    before.folder.mkdir(parents=True)
    start = timezone.now()
    said = [
        ("loading", 0),
        ("training", 10),
        ("training", 30),
        ("evaluating", 40),
        ("saving", 80),
        ("evaluating", 90),
    ]
    lines = [
        json.dumps({"phase": phase, "time": (start + timedelta(seconds=after)).isoformat()})
        for phase, after in [*said, ("saving", 100)]
    ]
    (before.folder / "progress.jsonl").write_text("\n".join(lines))
    found = phases.shares_of(before.folder, phases.fixed_shares("tuned"))
    assert found == {
        "loading": 10,
        "embedding": 0,
        "training": 30,
        "scoring": 0,
        "evaluating": 50,
        "cross-fitting": 0,
        "saving": 10,
    }
    run = make_run(labelled, "oprm")
    assert run.claim()
    assert run.beat(phase="training", step=1, total=2)
    assert run.percent == 25
    (before.folder / "progress.jsonl").write_text("no json")
    assert phases.shares_of(before.folder, phases.fixed_shares("tuned")) == phases.fixed_shares("tuned")


# --- Cross-fitting of tuned models ---


def test_a_cross_fitted_training_counts_by_itself(
    labelled: Project, past: Make, make_run: Make, admin: User, client_of: ClientOf
) -> None:
    """Until one has ended it is taken for five plain ones, in the queue, on the form and on the progress bar."""
    past(labelled, "bt", 200, 100, overrides={"tuning": "tuned"})
    folded = make_run(labelled, "bt", overrides={"tuning": "tuned", "crossfit": 5})
    assert folded.folded
    assert not make_run(labelled, "oprm", overrides={"tuning": "frozen", "crossfit": 5}).folded
    assert seconds_per_label("bt", "tuned", "all-MiniLM-L6-v2") == 2.0
    assert seconds_per_label("bt", "tuned", "all-MiniLM-L6-v2", folded=True) == 10.0
    assert crossfit_costs(labelled, 6) == [("Bradley-Terry, all-MiniLM-L6-v2", timedelta(minutes=1))]
    assert "Here about: Bradley-Terry, all-MiniLM-L6-v2 3 min" in words(client_of(admin), "training:runs")
    shares = phases.fixed_shares("tuned", folded=True)
    assert phases.overall("training", 4, 4, shares) < 25
    assert phases.overall("cross-fitting", 5, 5, shares) > 95
    past(labelled, "bt", 1200, 100, overrides={"tuning": "tuned", "crossfit": 5})
    assert seconds_per_label("bt", "tuned", "all-MiniLM-L6-v2") == 2.0
    assert seconds_per_label("bt", "tuned", "all-MiniLM-L6-v2", folded=True) == 12.0


# --- The next training by itself ---


def test_when_the_next_training_comes(
    labelled: Project, make_run: Make, admin: User, client_of: ClientOf
) -> None:
    assert next_trainings(labelled) == []
    labelled.methods = ["oprm", "bt"]
    labelled.retrain_after_labels = 50
    labelled.save()
    [both] = next_trainings(labelled)
    assert both.methods == [str(Method.OPRM.label), str(Method.BT.label)]
    assert both.words == "after 30 more labels."
    for page in ("training:runs", "ratings:project"):
        assert "after 30 more labels." in words(client_of(admin), page)
    make_run(labelled, "oprm", State.DONE, labels_seen=15, queued_at=timezone.now() - timedelta(hours=5))
    first, second = next_trainings(labelled)
    assert (first.words, second.words) == ("after 45 more labels.", "after 30 more labels.")
    labelled.retrain_every_hours = 6
    labelled.save()
    assert next_trainings(labelled)[0].words.startswith(
        "after 45 more labels, or in 59 min "
    ) or next_trainings(labelled)[0].words.startswith("after 45 more labels, or in 1 h 0 min")
    labelled.retrain_every_hours = 4
    labelled.save()
    assert next_trainings(labelled)[0].words.endswith("or now: the schedule's time has come.")
    TrainingRun.objects.update(labels_seen=20, started_at=timezone.now())
    assert next_trainings(labelled)[0].words == "after 50 more labels, or as soon as a label changes."
    make_run(labelled, "bt")
    assert next_trainings(labelled)[1].words == "a training of it waits or runs already."
    labelled.methods, labelled.retrain_every_hours = ["rgft"], 0
    labelled.save()
    [refused] = next_trainings(labelled)
    assert "As things stand it would be refused: RgFT learns from quality levels" in refused.words


# --- Starting again ---


def test_a_failed_run_is_started_again_with_changes(
    labelled: Project, make_run: Make, admin: User, client_of: ClientOf
) -> None:
    labelled.training_options = {"hardening": 0.2}
    labelled.save()
    run = make_run(
        labelled,
        "bt",
        State.FAILED,
        error="The training failed.",
        overrides={"epochs": 3, "reliability": False},
    )
    client = client_of(admin)
    page = client.get(url("training:run", run.pk)).content.decode()
    link = f'href="{url("training:runs")}?from={run.pk}#start"'
    assert page.index(link) < page.index(">Resume<")
    response = client.get(url("training:runs"), {"from": run.pk})
    form = response.context["form"]
    shown = {
        name: form[name].value() for name in ("method", "epochs", "reliability", "base_model", "hardening")
    }
    assert shown == {
        "method": "bt",
        "epochs": 3,
        "reliability": "off",
        "base_model": "all-MiniLM-L6-v2",
        "hardening": 0.2,
    }
    assert form["seed"].value() == 0
    assert form["learning_rate"].value() == ""
    assert "<details open>" in response.content.decode()
    # Another project's run, or nonsense, fills nothing in.
    other = Project.objects.create(slug="other", name="Other", methods=["bt"])
    for key in (str(make_run(other, "bt").pk), "x", ""):
        assert client.get(url("training:runs"), {"from": key}).context["form"].earlier is None


# --- Base models that can't be ---


@pytest.mark.parametrize(
    ("folder", "data", "field", "text"),
    [
        (
            "bert",
            {"method": "haf"},
            "base_model",
            "HaF-RM needs a causal language model, and folder:bert is a text",
        ),
        ("bert", {"method": "bt", "tuning": "lora"}, "tuning", "choose frozen or tuned instead of lora"),
        (
            "gpt",
            {"method": "bt", "tuning": "frozen"},
            "tuning",
            "folder:gpt is a causal language model: choose",
        ),
    ],
)
def test_an_impossible_base_model_is_refused_at_the_form(
    folder: str, data: dict[str, str], field: str, text: str, labelled: Project, admin: User,
    client_of: ClientOf, tmp_path: Path, settings: LazySettings,
) -> None:  # fmt: skip
    for name, config in (("bert", {"model_type": "bert"}), ("gpt", {"model_type": "gpt2"})):
        (tmp_path / "bases" / name).mkdir(parents=True)
        (tmp_path / "bases" / name / "config.json").write_text(json.dumps(config))
    settings.BASE_MODEL_DIRS = [tmp_path / "bases"]
    response = client_of(admin).post(url("training:run-start"), {"base_model": f"folder:{folder}", **data})
    assert response.status_code == 400
    assert text in " ".join(response.context["form"].errors[field])
    assert TrainingRun.objects.count() == 0


def test_a_hub_id_is_known_once_a_version_was_made_from_it(
    labelled: Project, make_version: Make, admin: User, client_of: ClientOf
) -> None:
    version = make_version(labelled, 1)
    version.run.config["base_model"] = "org/encoder"
    version.run.save()
    (version.path / "reward_config.json").write_text('{"backbone": "encoder"}')
    response = client_of(admin).post(
        url("training:run-start"), {"method": "haf", "base_model": "org/encoder"}
    )
    assert "needs a causal language model" in " ".join(response.context["form"].errors["base_model"])
