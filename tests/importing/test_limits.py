"""What a row may hold, how many imports of a project run, and what happens to one that takes too much memory."""

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.test import Client

from webapp.accounts.models import User
from webapp.celery import app
from webapp.corpus.models import Import, Project, Prompt
from webapp.importing import report as reporting
from webapp.importing import services
from webapp.importing.fields import RowError
from webapp.importing.reading import ImportRefused, Problem, Source
from webapp.importing.services import import_files, import_run
from webapp.importing.shapes import PARSERS, records
from webapp.jobs import State

HUGE = 10**400
VOTE = {"type": "vote", "a": "a", "b": "b", "annotator": "n", "verdict": "a"}
RESPONSE = {"type": "response", "id": "r", "prompt": "p", "text": "One."}
TRL = {"prompt": "p", "chosen": "a", "rejected": "b"}


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("format_name", "row", "field", "words"),
    [
        ("caliper", VOTE | {"strength": HUGE}, "strength", "more than 36 digits"),
        ("caliper", VOTE | {"propensity": HUGE}, "propensity", "more than 36 digits"),
        ("caliper", VOTE | {"reasons": ["r"] * 101}, "reasons", "101 reasons, of 100 allowed"),
        ("caliper", RESPONSE | {"metadata": {"n": HUGE}}, "metadata", "more than 36 digits"),
        ("caliper", RESPONSE | {"metadata": {"n": nested(50)}}, "metadata", "nested more than 50 deep"),
        ("caliper", RESPONSE | {"metadata": {"n": nested(900)}}, "metadata", "nested more than 50 deep"),
        ("caliper", RESPONSE | {"metadata": {"n": b"\x00"}}, "metadata", "binary data"),
        ("caliper", RESPONSE | {"text": "\u200b"}, "text", "only invisible characters"),
        ("caliper", RESPONSE | {"text": " \u2060\ufeff\u3164\n\u2800"}, "text", "only invisible characters"),
        ("trl", TRL | {"margin": HUGE}, "margin", "is a number"),
        ("trl", TRL | {"rejected": "\u200d"}, "rejected", "only invisible characters"),
        ("trl", TRL | {"prompt": [{"role": "user", "content": "x"}] * 1001}, "prompt", "1,001 messages, of 1,000"),
        ("trl", TRL | {"prompt": [{"role": "user", "content": "\u200b"}]}, "prompt", "no text in any message"),
        ("pandalm", {"instruction": "i", "response1": "\u00ad", "response2": "b"}, "response1", "only invisible"),
        (
            "ukp-convarg1",
            {
                "topic": "t", "prompt": "p", "response_a_id": "a", "response_b_id": "b", "pair_id": "q",
                "votes": [{"annotator": "n", "choice": "a"}] * 1001,
            },
            "votes",
            "1,001 votes, of 1,000 allowed",
        ),
    ],
)  # fmt: skip
def test_a_row_that_overflows_is_refused_by_field(
    format_name: str, row: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(RowError) as refused:
        PARSERS[format_name](row)
    assert refused.value.field == field
    assert words in refused.value.message


@pytest.mark.parametrize("text", ["a\u200bb", "\u200dx\u200d", "👩\u200d👩", "می\u200cخواهم", "…"])
def test_a_text_with_something_to_see_is_kept_as_it_is(text: str) -> None:
    assert PARSERS["caliper"](RESPONSE | {"text": text})[0].text == text  # type: ignore[union-attr]


def test_the_file_goes_on_after_a_row_that_overflows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (VOTE, VOTE | {"strength": HUGE}, VOTE)))
    found = [row for _, row in records(Source(path, "a.jsonl"), "caliper", lambda position: None)]
    assert [isinstance(row, Problem) for row in found] == [False, True, False]


def test_parquet_metadata_becomes_json_or_costs_its_row(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=datetime.UTC)
    metadata = pa.StructArray.from_arrays(
        [
            pa.array([moment, None, None], pa.timestamp("us", "UTC")),
            pa.array([Decimal("1.10"), None, None], pa.decimal128(5, 2)),
            pa.array([datetime.date(2026, 1, 31), None, None]),
            pa.array([datetime.timedelta(minutes=1, microseconds=1), None, None]),
            pa.array([None, b"\xff", None], pa.binary()),
        ],
        ["at", "price", "day", "took", "raw"],
    )
    table = pa.table({name: [value] * 3 for name, value in RESPONSE.items()} | {"metadata": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    found = [row for _, row in records(Source(tmp_path / "a.parquet", "a"), "caliper", lambda position: None)]
    assert found[0][0].metadata == {  # type: ignore[union-attr]
        "at": "2026-01-31T12:00:00.000005+00:00",
        "price": "1.10",
        "day": "2026-01-31",
        "took": "P0DT00H01M00.000001S",
        "raw": None,
    }
    assert isinstance(found[1], Problem)
    assert (found[1].row, found[1].field, found[1].message) == (2, "metadata", "holds binary data.")
    assert not isinstance(found[2], Problem)


def test_the_list_of_rows_left_out_ends_and_says_so(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MAX_ERRORS_BYTES", 500)
    path = tmp_path / "a.jsonl"
    good = {"type": "prompt", "id": "p", "text": "Why?"}
    path.write_text(json.dumps(good) + "\n" + "0\n" * 20)
    options: dict[str, Any] = {
        "project": project, "sources": [Source(path, "a.jsonl")], "format_name": "caliper", "dry_run": True,
        "folder": tmp_path / "work",
    }  # fmt: skip
    assert import_files(**options).left_out == 20
    *_, last = (tmp_path / "work" / "errors.jsonl").read_text().splitlines()
    assert json.loads(last)["message"].startswith("The list ends here")
    monkeypatch.setattr(reporting, "MAX_LEFT_OUT", 19)
    with pytest.raises(
        ImportRefused, match=r"More than 19 rows had to be left out, up to row 21 of a\.jsonl"
    ):
        import_files(**options)


# Jobs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_import(project: Project, data_dir: Path) -> Callable[..., Import]:
    def make(name: str, **fields: Any) -> Import:
        row = Import.objects.create(
            **{"project": project, "file_name": "a.jsonl", "folder": f"imports/{name}", "dry_run": False}
            | fields
        )
        row.error_file().parent.mkdir(parents=True)
        line = json.dumps({"type": "prompt", "id": name, "text": "Why?"})
        row.error_file().with_name("a.jsonl").write_text(line + "\n")
        return row

    return make


def test_a_second_import_of_a_project_waits_for_the_first(
    project: Project,
    admin: User,
    client_of: Callable[[User], Client],
    make_import: Callable[..., Import],
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    first, second, third = make_import("first"), make_import("second"), make_import("third")
    other = make_import("other", project=Project.objects.create(slug="beta", name="Beta"))
    assert first.claim()
    import_run(second)
    second.refresh_from_db()
    assert second.state == State.QUEUED
    page = client_of(admin).get(f"/p/{project.slug}/imports/{second.pk}/")
    assert f"Waits for import {first.pk} of this project" in page.content.decode()
    import_run(other)
    assert Import.objects.get(pk=other.pk).state == State.DONE, "another project's import doesn't wait"
    # The database decides where two claims come at once and neither sees the other.
    monkeypatch.setattr(Import, "waits_for", None)
    assert not Import.objects.get(pk=second.pk).claim()
    monkeypatch.undo()
    sent: list[Any] = []
    monkeypatch.setattr(app, "send_task", lambda task, args, **_: sent.append((task, args)))
    Import.objects.filter(pk=first.pk).update(state=State.QUEUED)
    with django_capture_on_commit_callbacks(execute=True):
        import_run(Import.objects.get(pk=first.pk))
    assert sent == [("workers.tasks.import_file", [second.pk])], "the one that waited longest"
    import_run(second)
    import_run(third)
    assert Prompt.objects.filter(project=project).count() == 3


def test_an_import_that_takes_too_much_memory_fails_with_words(
    make_import: Callable[..., Import], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.JOB_MEMORY_BYTES = 64 * 2**20
    row = make_import("large")
    kept: list[bytearray] = []

    def take(*_: Any, **__: Any) -> None:
        while len(kept) < 40:
            kept.append(bytearray(16 * 2**20))

    with monkeypatch.context() as patch:
        patch.setattr(services, "_walk", take)
        import_run(row)
    # Some of what the process freed before is used again first, so it is more than the four that fit in the limit.
    assert len(kept) < 20
    row.refresh_from_db()
    assert row.state == State.FAILED
    assert row.error == (
        "It needed more memory than a job may take (CALIPER_JOB_MEMORY_MB). Nothing was imported. Split the files."
    )
    assert bytearray(128 * 2**20), "the process itself is as free as before"
    row.requeue()
    import_run(row)
    assert Import.objects.get(pk=row.pk).state == State.DONE


def test_housekeeping_has_a_queue_of_its_own() -> None:
    from webapp.embedded import WORKERS
    from webapp.health import OPTIONAL_QUEUES, QUEUES

    assert app.conf.beat_schedule["tick"]["options"]["queue"] == "housekeeping"
    reads = {name: options[1] for name, options in WORKERS}
    assert reads == {
        "worker": "default",
        "train": "train",
        "score": "score",
        "housekeeping": "housekeeping",
    }
    assert {*QUEUES, *OPTIONAL_QUEUES} == set(reads.values())
