"""Exports and snapshots over the API. That a stream is an export's file, tests/snapshots/test_streaming.py shows."""

import json
from collections.abc import Callable

import pytest

from tests.api.conftest import Api, said
from tests.snapshots.conftest import judge, labelled  # noqa: F401
from webapp.accounts.models import User
from webapp.corpus.models import AuditEntry, Import, Project
from webapp.snapshots.exporting import export_run
from webapp.snapshots.models import Export

EXPORTS = "/projects/capitals/exports"


def test_an_export_streams_and_its_card_tells_the_rest(
    labelled: Project,  # noqa: F811
    api: Callable[..., Api],
    researcher: User,
) -> None:
    caller = api(researcher)
    formats = {made["name"]: made for made in said(caller.get(EXPORTS))}
    assert formats["trl-explicit"]["file_types"] == ["parquet", "jsonl", "csv"]
    answer = caller.get(f"{EXPORTS}/trl-explicit?aggregation=vote")
    lines = b"".join(answer.streaming_content).splitlines()
    assert answer["Content-Type"] == "application/jsonl"
    assert answer["Content-Disposition"] == 'attachment; filename="capitals-trl-explicit.jsonl"'
    assert {*json.loads(lines[0])} == {"prompt", "chosen", "rejected"}
    card = said(caller.get(f"{EXPORTS}/trl-explicit/card?aggregation=vote"))
    assert card["rows"] == len(lines) == 4
    assert card["left_out"] == {"skip": 1, "tie": 2, "both_bad": 1}
    assert "2 × ties" in card["left_out_words"]
    assert card["labels"] == answer["Caliper-Labels"]
    csv = b"".join(caller.get(f"{EXPORTS}/judgements?file_type=csv").streaming_content).decode()
    assert csv.startswith("judgement_id,")
    assert AuditEntry.objects.filter(action="export-downloaded").count() == 2

    said(caller.get(f"{EXPORTS}/nothing"), 404)
    assert said(caller.get(f"{EXPORTS}/arena?file_type=csv"), 422)["errors"][0]["field"] == "file_type"
    assert said(caller.get(f"{EXPORTS}/predictions?version=oprm-9"), 422)["errors"][0]["field"] == "version"
    said(caller.get(f"{EXPORTS}/judgements?file_type=parquet"), 422)
    Import.objects.create(project=labelled, file_name="x", folder="x", phase=Import.IN_BATCHES)
    said(caller.get(f"{EXPORTS}/judgements"), 409)


def test_a_job_makes_files_and_a_snapshot(
    labelled: Project,  # noqa: F811
    api: Callable[..., Api],
    researcher: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Export, "enqueue", lambda self: None)
    caller = api(researcher)
    wrong = said(caller.post(f"{EXPORTS}/jobs", {"format": "arena", "file_type": "csv"}), 422)
    assert wrong["errors"][0]["field"] == "file_type"
    job = said(caller.post("/projects/capitals/snapshots"), 202)
    assert (job["state"], job["format"], job["file_type"]) == ("queued", "judgements", "parquet")
    export_run(Export.objects.get(pk=job["id"]))
    job = said(caller.get(f"{EXPORTS}/jobs/{job['id']}"))
    assert (job["state"], job["rows"]) == ("done", 8)
    assert [{**said(caller.get(f"{EXPORTS}/jobs"))["items"][0], "waiting": ""}] == [job]
    for name, start in ((job["files"][0], b"PAR1"), (job["archive"], b"PK")):
        answer = caller.get(f"{EXPORTS}/jobs/{job['id']}/files/{name}")
        assert b"".join(answer.streaming_content).startswith(start)
    said(caller.get(f"{EXPORTS}/jobs/{job['id']}/files/../secret_key"), 404)
    [snapshot] = said(caller.get("/projects/capitals/snapshots"))["items"]
    assert snapshot["digest"] == job["snapshot"]
    whole = said(caller.get(f"/projects/capitals/snapshots/{snapshot['id']}"))
    assert whole["manifest"]["tables"]["judgements"]["rows"] == snapshot["counts"]["judgements"]
