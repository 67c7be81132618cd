"""An old version measured again on rows that came after it: a tiny trained model, a worker's ends, the page."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.test import Client

from tests.rewards.conftest import BAD, GOOD, NORMAL, _quiet, tiny_encoder  # noqa: F401 - fixtures
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.jobs import State
from webapp.labels.models import Judgement
from webapp.snapshots.services import snapshot_take
from webapp.training.models import ModelVersion, Remeasurement, TrainingRun
from webapp.training.remeasuring import measurement_start, measurements_start
from webapp.training.services import VersionRefused
from workers import child, remeasuring, runs
from workers.rewards.measure import measure_again
from workers.rewards.training.loop import train
from workers.rewards.training.progress import Stop

ClientOf = Callable[[User], Client]


def place(salt: str, name: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{salt}:{name}".encode()).digest()[:8]) / 2**64


@pytest.fixture
def grown(
    project: Project,
    make_prompt: Callable[..., Prompt],
    annotator: User,
    admin: User,
    tiny_encoder: Path,  # noqa: F811
    sent: list[Any],
) -> tuple[ModelVersion, ModelVersion]:
    """(v1, v2): v2 was trained when three prompts had joined the eight of v1; p1 and p9 are held out, and no other."""
    names = [f"p{number}" for number in range(1, 12)]
    project.split_salt = next(
        salt
        for salt in map(str, range(10_000))
        if {name for name in names if place(salt, name) < 0.2} == {"p1", "p9"}
    )
    project.min_judgements = 1
    project.save()

    def trained() -> ModelVersion:
        config = {
            "method": "rgft",
            "base_model": str(tiny_encoder),
            "tuning": "frozen",
            "epochs": 5,
            "crossfit": 0,
        }
        run = TrainingRun.objects.create(
            project=project, method="rgft", trigger="command", config=config, config_digest=str(len(sent)),
        )  # fmt: skip
        assert run.claim()
        run.snapshot = snapshot_take(project=project)
        assert run.beat(snapshot=run.snapshot)
        runs.folder_write(run, resumed=False)
        train(run.folder)
        return runs._publish(run)

    def grow(some: list[str]) -> None:
        for name in some:
            texts = [f"{text} {name[1:]}" for text in (GOOD, NORMAL, BAD)]
            make_prompt(project, name, texts)
            for pair in Pair.objects.filter(external_id__startswith=f"{name}-"):
                for person, verdict in ((annotator, "a"), (admin, "b" if name == "p9" else "a")):
                    Judgement.objects.create(
                        pair=pair,
                        annotator=person,
                        verdict=verdict,
                        left="a",
                        client_key=f"{pair.pk}-{person.pk}",
                    )
                Pair.objects.filter(pk=pair.pk).update(judged=2)
            Response.objects.get(external_id=f"{name}-r1").quality_labels.create(
                annotator=annotator, level="good", client_key=f"level-{name}"
            )

    grow(names[:8])
    first = trained()
    grow(names[8:])
    return first, trained()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's work without the seconds that a child takes to load PyTorch."""

    def supervise(command: list[str], *, each_second: Callable[..., bool], **_: Any) -> int:
        assert each_second({"phase": "scoring", "step": 1, "total": 2})
        model, snapshot, folder = map(Path, command[-3:])
        measure_again(model, snapshot, folder, Stop())
        return 0

    monkeypatch.setattr(child, "supervise", supervise)


@pytest.mark.usefixtures("in_process")
def test_rows_that_were_added_are_measured_and_what_was_measured_stays(
    grown: tuple[ModelVersion, ModelVersion],
    project: Project,
    admin: User,
    researcher: User,
    annotator: User,
    client_of: ClientOf,
    sent: list[Any],
    django_capture_on_commit_callbacks: Any,
) -> None:
    first, second = grown
    assert first.metrics["split"]["held_out"] == ["p1"]
    assert second.metrics["split"]["held_out"] == ["p1", "p9"]
    before = {row.pk: (row.score, row.percentile, row.split) for row in first.predictions.all()}
    then = ModelVersion.objects.get(pk=first.pk).metrics

    with django_capture_on_commit_callbacks(execute=True):
        [measurement] = measurements_start(second)
    assert (measurement.version, measurement.rows_of) == (first, second)
    assert sent[-1] == ("workers.tasks.measure_again", measurement.pk, "train")
    assert [each.pk for each in measurements_start(second)] == [measurement.pk], "it is on its way already"
    client = client_of(admin)
    page = client.get(f"/p/{project.slug}/runs/{first.run_id}/").content.decode()
    assert "measurements/?token=" in page
    remeasuring.measure_version(measurement.pk)
    measurement.refresh_from_db()
    assert (measurement.state, measurement.error) == (State.DONE, "")
    assert not measurement.folder.exists()

    first = ModelVersion.objects.get(pk=first.pk)
    assert first.metrics == then
    rows = {row.response.external_id: row for row in first.predictions.select_related("response__prompt")}
    assert {
        row.pk: (row.score, row.percentile, row.split) for row in rows.values() if row.pk in before
    } == before
    new = {name: row for name, row in rows.items() if row.pk not in before}
    assert {(name[:3], row.split) for name, row in new.items()} == {("p9-", "held_out")}
    assert len(new) == 3
    right = []
    for judgement in Judgement.objects.select_related("pair__response_a", "pair__response_b"):
        sides = [judgement.pair.response_a.external_id, judgement.pair.response_b.external_id]
        if sides[0].startswith(("p1-", "p9-")):
            apart = rows[sides[0]].score - rows[sides[1]].score
            right.append(0.5 + 0.5 * np.sign(apart) * (1 if judgement.verdict == "a" else -1))
    held_out = measurement.metrics["held_out"]
    assert held_out["pairs"]["n"] == 6
    assert held_out["pairs"]["groups"] == 2
    assert held_out["pairs"]["accuracy"]["n"] == len(right) == 12
    assert held_out["pairs"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert (measurement.metrics["responses"], measurement.metrics["left_out"]) == (6, 0)
    # Of the same rows the newer version was measured on as many.
    assert second.metrics["held_out"]["pairs"]["n"] == 6
    assert first.metrics["held_out"]["pairs"]["n"] == 3

    assert measurements_start(second) == [], "no row was added since"
    page = " ".join(client.get(f"/p/{project.slug}/runs/{first.run_id}/").content.decode().split())
    assert "Measured again on 6 pairs" in page
    assert "Measure again</button>" in page
    assert "measurements/?token=" not in page
    remeasuring.measure_version(measurement.pk)
    assert first.predictions.count() == len(rows), "a message that comes twice leaves"

    start = f"/p/{project.slug}/versions/{first.pk}/measurements/start/"
    for person, status in ((annotator, 403), (researcher, 403), (admin, 302)):
        assert client_of(person).post(start).status_code == status
    again = Remeasurement.objects.latest("pk")
    assert (again.created_by, again.version) == (admin, first)
    with pytest.raises(VersionRefused, match="was measured on these rows"):
        measurement_start(version=second, rows_of=second)


@pytest.mark.usefixtures("in_process")
def test_a_group_that_it_has_learnt_of_is_left_out(grown: tuple[ModelVersion, ModelVersion]) -> None:
    first, second = grown
    row = first.predictions.filter(split="held_out").first()
    assert row is not None
    first.predictions.filter(pk=row.pk).update(split="train")
    measurement = measurement_start(version=first, rows_of=second)
    remeasuring.measure_version(measurement.pk)
    measurement.refresh_from_db()
    assert measurement.metrics["left_out"] == 1
    assert measurement.metrics["held_out"]["pairs"]["n"] == 3, "p9 alone"


def test_it_fails_with_words_is_taken_up_again_and_handed_back(
    grown: tuple[ModelVersion, ModelVersion], settings: Any
) -> None:
    first, second = grown
    measurement = measurement_start(version=first, rows_of=second)
    settings.MEASURE_COMMAND = [sys.executable, "-c", "import sys; print('refused: no'); sys.exit(2)"]
    remeasuring.measure_version(measurement.pk)
    measurement.refresh_from_db()
    assert (measurement.state, measurement.error) == (
        State.FAILED,
        "This model can't be measured again: no.",
    )
    assert measurement_start(version=first, rows_of=second).pk == measurement.pk
    settings.MEASURE_COMMAND = [sys.executable, "-c", "import time; time.sleep(60)"]
    remeasuring.measure_version(measurement.pk, stopping=lambda: True)
    measurement.refresh_from_db()
    assert measurement.state == State.QUEUED
    assert not measurement.folder.exists()
    assert first.predictions.count() == 24
