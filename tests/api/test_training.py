"""Runs and versions over the API, what a reward server asks, predictions, and evaluation sets."""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.api import makers
from tests.api.conftest import Api, said
from tests.training.conftest import judge, labelled, sent  # noqa: F401
from webapp.accounts.models import User
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.corpus.models import Project, Response
from webapp.jobs import State
from webapp.labels.models import QualityLabel
from webapp.ratings.models import Prediction
from webapp.training.models import ModelVersion, TrainingRun

P = "/projects/capitals"


@pytest.fixture
def project(labelled: Project) -> Project:  # noqa: F811
    return labelled


def test_a_run_is_started_followed_cancelled_and_resumed(
    project: Project,
    api: Callable[..., Api],
    admin: User,
    sent: list[Any],  # noqa: F811
    django_capture_on_commit_callbacks: Any,
) -> None:
    caller = api(admin)
    for options, field in (
        ({"epochs": "many"}, "options.epochs"),
        ({"region": "flood"}, "options.region"),
        ({"base_model": "/etc"}, "options.base_model"),
        ({"base_model": {"a": 1}}, "options.base_model"),
        ({"colour": 1}, ""),
    ):
        wrong = said(caller.post(f"{P}/runs", {"method": "oprm", "options": options}), 422)
        assert [error["field"] for error in wrong["errors"]] == ([field] if field else [""]), wrong
        assert wrong["detail"]
    assert said(caller.post(f"{P}/runs", {"method": "magic"}), 422)["errors"][0]["field"] == "method"
    with django_capture_on_commit_callbacks(execute=True):
        run = said(caller.post(f"{P}/runs", {"method": "oprm", "options": {"epochs": 3}}), 202)
    assert sent == [("workers.tasks.train_run", run["id"], "train")]
    assert (run["state"], run["config"]["epochs"], run["created_by"], run["position"]) == (
        "queued",
        3,
        "adam",
        1,
    )
    assert (
        said(caller.post(f"{P}/runs", {"method": "oprm", "options": {"epochs": 3}}), 202)["id"] == run["id"]
    )

    row = TrainingRun.objects.get(pk=run["id"])
    said(caller.get(f"{P}/runs/{row.pk}/log"), 404)
    assert row.claim()
    row.beat(phase="training", step=2, total=9, loss=0.5)
    row.folder.mkdir(parents=True)
    (row.folder / "log.txt").write_text(f"read {row.folder}/config.json\n")
    now = datetime.now().astimezone().isoformat()
    lines = [
        {"phase": "training", "step": step, "total": 9, "loss": 1 / step, "time": now} for step in (1, 2, 3)
    ]
    (row.folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    progress = said(caller.get(f"{P}/runs/{row.pk}/progress?after=1"))
    assert (progress["state"], progress["step"], progress["loss"]) == ("running", 2, 0.5)
    assert [point["step"] for point in progress["losses"]] == [2, 3]
    log = b"".join(caller.get(f"{P}/runs/{row.pk}/log").streaming_content).decode()
    assert log == "read …/config.json\n"
    said(caller.post(f"{P}/runs/{row.pk}/resume"), 409)
    assert said(caller.post(f"{P}/runs/{row.pk}/cancel"))["cancel_requested"]
    row.stop()
    said(caller.post(f"{P}/runs/{row.pk}/cancel"), 409)
    wrong = said(caller.post(f"{P}/runs/{row.pk}/resume", {"cost_limit": 1}), 422)
    assert wrong["errors"][0]["field"] == "cost_limit"
    assert said(caller.post(f"{P}/runs/{row.pk}/resume"))["state"] == "queued"
    assert [found["id"] for found in said(caller.get(f"{P}/runs"))["items"]] == [row.pk]


def test_versions_serve_and_their_files_are_fetched(
    project: Project, api: Callable[..., Api], admin: User, researcher: User
) -> None:
    caller, server = api(admin), api(researcher, "score")
    said(server.get(f"{P}/serving"), 404)
    old = makers.version(project, admin, metrics={"annotators": {"anna": 1}, "held_out": {}})
    new = makers.version(project, admin)
    said(caller.post(f"{P}/versions/{old.pk}/promote"))
    first = server.get(f"{P}/serving?method=oprm")
    etag = first["ETag"]
    served = said(first)
    assert (served["version"]["name"], served["folder"]) == ("oprm-1", f"runs/{old.run_id}/model")
    assert served["ask_back"] is None
    same = server.get(f"{P}/serving?method=oprm", headers={"If-None-Match": etag})
    assert (same.status_code, same.content, same["ETag"]) == (304, b"", etag)
    assert said(caller.post(f"{P}/versions/{new.pk}/promote"))["is_serving"]
    assert server.get(f"{P}/serving", headers={"If-None-Match": etag}).status_code == 200
    rows = said(caller.get(f"{P}/versions"))["items"]
    assert [(row["name"], row["is_serving"]) for row in rows] == [("oprm-2", True), ("oprm-1", False)]
    whole = said(caller.get(f"{P}/versions/{old.pk}"))
    assert "annotators" not in whole["metrics"]
    assert whole["base_model_name"] == "version:oprm-1"

    files = said(server.get(f"{P}/versions/{old.pk}/files"))
    assert files == served["files"]
    for file in files:
        answer = server.get(f"{P}/versions/{old.pk}/files/{file['name']}")
        data = b"".join(answer.streaming_content)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
        assert answer["ETag"] == f'"{file["sha256"]}"'
    weights = f"{P}/versions/{old.pk}/files/model.safetensors"
    rest = server.get(weights, headers={"Range": "bytes=3-"})
    assert (rest.status_code, rest["Content-Range"], rest["Content-Length"]) == (206, "bytes 3-6/7", "4")
    assert b"".join(rest.streaming_content) == b"ghts"
    for headers in (
        {"Range": "bytes=7-"},
        {"Range": "bytes=0-2"},
        {"Range": "bytes=3-", "If-Range": '"old"'},
    ):
        whole_file = server.get(weights, headers=headers)
        assert (whole_file.status_code, b"".join(whole_file.streaming_content)) == (200, b"weights")
    for name in ("../config.json", "..%2f..%2fsecret_key", "base/config.json", "log.txt"):
        said(server.get(f"{P}/versions/{old.pk}/files/{name}"), 404)
    assert "score” or" not in said(api(admin, "write").get(weights), 403)["detail"]

    # An artifact of an old version may tell a path of this server, and a model may be gone.
    artifact = {**new.artifact, "base_model": "/srv/models/secret"}
    (new.path / "reward_config.json").write_text(json.dumps(artifact))
    told = b"".join(server.get(f"{P}/versions/{new.pk}/files/reward_config.json").streaming_content)
    assert b"/srv" not in told
    (old.path / "reward_config.json").unlink()
    said(server.get(f"{P}/versions/{old.pk}/files"), 409)
    said(caller.post(f"{P}/versions/{old.pk}/promote"), 409)


def test_predictions_stand_beside_people(
    project: Project, api: Callable[..., Api], admin: User, researcher: User
) -> None:
    version = makers.version(project, admin, is_serving=True)
    responses = list(Response.objects.of(project).order_by("pk"))
    for response, split in zip(responses, ("train", "held_out", "crossfit"), strict=True):
        Prediction.objects.create(
            version=version, response=response, score=5.5, expected=5.5, spread=1.0, p=[0, 0, 0, 0, 0.5, 0.5, 0, 0, 0],
            percentile=50.0, split=split,
        )  # fmt: skip
    QualityLabel.objects.create(response=responses[0], annotator=admin, level="good", client_key="x")
    caller = api(researcher)
    first = said(caller.get(f"{P}/versions/{version.pk}/predictions?limit=2"))
    rest = said(caller.get(f"{P}/versions/{version.pk}/predictions?limit=2&cursor={first['next']}"))
    rows = [*first["items"], *rest["items"]]
    assert [row["split"] for row in rows] == ["train", "held_out", "crossfit"]
    assert rows[0]["people"] == {"bad": 0, "normal": 0, "good": 1}
    assert rows[0]["split_words"] == "trained on this response's labels"
    assert sum(rows[0]["p"]) == 1
    fair = said(caller.get(f"{P}/versions/{version.pk}/predictions?split=held_out"))["items"]
    assert [row["external_id"] for row in fair] == [responses[1].external_id]
    one = said(caller.get(f"{P}/responses/{responses[0].pk}/predictions"))
    assert (one["people"]["good"], one["predictions"][0]["version_name"]) == (1, "oprm-1")


def test_evaluation_sets(
    project: Project, api: Callable[..., Api], researcher: User, admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EvaluationSet, "enqueue", lambda self: None)
    monkeypatch.setattr(Measurement, "enqueue", lambda self: None)
    caller = api(researcher)
    upload = {"multipart": {"name": "Bench", "files": b"{}"}}
    row = said(caller.post(f"{P}/evaluation-sets", upload), 202)
    assert "here already" in said(caller.post(f"{P}/evaluation-sets", upload), 422)["detail"]
    assert said(caller.post(f"{P}/evaluation-sets", {"multipart": {"name": "x" * 81, "files": b"{}"}}), 422)
    path = f"{P}/evaluation-sets/{row['id']}"
    version = makers.version(project, admin)
    said(caller.post(f"{path}/measurements", {"version": version.pk}), 409)
    EvaluationSet.objects.update(state=State.DONE)
    wrong = said(caller.post(f"{path}/measurements", {"version": 10**17}), 422)
    assert wrong["errors"][0]["field"] == "version"
    measured = said(caller.post(f"{path}/measurements", {"version": version.pk}), 202)
    assert said(caller.get(f"{path}/measurements"))["items"] == [measured]
    assert said(caller.post(f"{path}/measurements/{measured['id']}/cancel"))["state"] == "cancelled"
    assert said(caller.post(f"{path}/measurements", {"version": version.pk}), 202)["state"] == "queued"
    assert [found["id"] for found in said(caller.get(f"{P}/evaluation-sets"))["items"]] == [row["id"]]
    assert caller.delete(path).status_code == 204
    said(caller.get(path), 404)
    assert not ModelVersion.objects.filter(measurements__isnull=False).exists()


def test_lists_ask_as_much_for_many_rows_as_for_few(
    project: Project, api: Callable[..., Api], admin: User, django_assert_max_num_queries: Any
) -> None:
    """The token, the project, the page, and what a page shows beside its rows: never a query a row."""
    caller = api(admin)
    version = makers.version(project, admin)
    row = makers.evaluation_set(project, admin)
    for response in Response.objects.of(project):
        Prediction.objects.create(version=version, response=response, score=1, percentile=1, split="train")
        QualityLabel.objects.create(
            response=response, annotator=admin, level="good", client_key=f"q{response.pk}"
        )
    for number in range(3):
        EvaluationSet.objects.create(
            project=project, name=f"{number}", folder="x", digest=f"{number}", created_by=admin
        )
        more = makers.version(project, admin)
        Measurement.objects.create(evaluation_set=row, version=more)
        makers.preview(project, admin)
        makers.export(project, admin)
        makers.snapshot(project, admin, digest=f"{number}")
    for path, most in {
        "judgements": 4, "levels": 3, "imports": 3, "exports/jobs": 3, "snapshots": 3, "runs": 3, "versions": 3,
        f"versions/{version.pk}/predictions": 5, "evaluation-sets": 3, f"evaluation-sets/{row.pk}/measurements": 4,
    }.items():  # fmt: skip
        with django_assert_max_num_queries(most):
            assert len(said(caller.get(f"{P}/{path}"))["items"]) >= 3, path
