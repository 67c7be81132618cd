"""Exports streamed over the API: the same bytes as an export's file, a batch at a time, without pyarrow."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from webapp.accounts.models import User
from webapp.corpus.models import Project, Response
from webapp.labels.models import Judgement, Source
from webapp.ratings.models import Prediction
from webapp.snapshots import reading
from webapp.snapshots.exporting import ExportRefused, export_write
from webapp.snapshots.formats import FORMATS
from webapp.snapshots.streaming import export_stream, stream_check
from webapp.training.models import ModelVersion, TrainingRun


@pytest.fixture
def version(labelled: Project) -> ModelVersion:
    """A serving version with a prediction of each response but one; and a machine's judgement beside the people's."""
    run = TrainingRun.objects.create(
        project=labelled, method="oprm", trigger="command", config={}, config_digest="c"
    )
    version = ModelVersion.objects.create(
        project=labelled, run=run, method="oprm", number=1, kind="ordinal", digest="d", is_serving=True
    )
    for response in list(Response.objects.of(labelled))[1:]:
        Prediction.objects.create(
            version=version, response=response, score=5.0, expected=5.0, spread=1.0, p=[0, 0, 0, 0, 1, 0, 0, 0, 0],
            percentile=50.0, split="held_out",
        )  # fmt: skip
    machine = User.objects.create(username="~capitals:m (machine)", kind=User.Kind.MACHINE, is_active=False)
    pair = labelled.pairs.first()
    Judgement.objects.create(
        pair=pair, annotator=machine, verdict="b", source=Source.MACHINE, client_key="machine:1"
    )
    return version


def _written(project: Project, folder: Path, **asked: Any) -> tuple[bytes, dict[str, Any]]:
    report = export_write(project=project, folder=folder, **asked)
    return (folder / report["files"][0]["name"]).read_bytes(), report


@pytest.mark.one_database
def test_a_stream_is_the_file_of_the_export(
    labelled: Project, version: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every format, as JSONL and CSV; in batches of two rows it comes in more pieces, and says the same."""
    monkeypatch.setattr(reading, "BATCH", 2)
    seen = 0
    for name, made in FORMATS.items():
        for file_type in set(made.file_types) - {"parquet"}:
            for aggregation in ("vote", "majority") if made.aggregates else ("majority",):
                asked = {"format": name, "file_type": file_type, "aggregation": aggregation}
                asked["superseded"] = asked["safe_for_spreadsheets"] = aggregation == "majority"  # type: ignore[assignment]
                file, report = _written(labelled, tmp_path / str(seen), **asked)
                streamed = export_stream(project=labelled, **asked)  # type: ignore[arg-type]
                assert b"".join(streamed.chunks) == file, asked
                assert streamed.rows == report["rows"]
                assert dict(+streamed.left_out) == report["left_out"]
                assert dict(+streamed.changed) == report["changed"]
                seen += 1
    assert seen > 20
    pieces = list(
        export_stream(project=labelled, format="judgements", file_type="jsonl", aggregation="vote").chunks
    )
    # A piece a batch, so memory is a batch's; batches part no pair.
    assert sum(map(bool, pieces)) == 3
    assert max(piece.count(b"\n") for piece in pieces) <= 5


def test_what_cannot_be_streamed(labelled: Project) -> None:
    for asked, words in (
        ({"format": "nothing", "file_type": "jsonl"}, "no format"),
        ({"format": "judgements", "file_type": "parquet"}, "no stream"),
        ({"format": "arena", "file_type": "csv"}, "nested"),
        ({"format": "predictions", "file_type": "csv"}, "No version"),
    ):
        with pytest.raises(ExportRefused, match=words):
            stream_check(labelled, version="", **asked)


@pytest.mark.one_database
def test_the_web_process_needs_no_pyarrow() -> None:
    """Its image has none: every view is made, and its types are told, without an import of it."""
    code = """
import django, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
django.setup()
sys.modules["pyarrow"] = None
import io
from webapp.corpus.models import Project
from webapp.snapshots.formats import FORMATS, Choice
from webapp.snapshots.writing import text_sink
for made in FORMATS.values():
    if made.versions is None:
        for rich in (False, True):
            view = made.view(Choice(Project(), rich=rich))
            text_sink(io.BytesIO(), view.schema, is_csv=False)
print("fine")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.strip() == "fine", said.stderr
