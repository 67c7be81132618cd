"""Exports of Argilla 2, Label Studio and Potato."""

import json
from pathlib import Path
from typing import Any

import pytest

from webapp.corpus.models import Project
from webapp.importing.fields import RowError
from webapp.importing.reading import Source
from webapp.importing.services import import_files
from webapp.importing.shapes import PARSERS, ResponseRecord, VoteRecord, format_of, recognise
from webapp.importing.shapes.tracking import ReadRow
from webapp.labels.models import Judgement

FIELDS = {"instruction": "q", "response_1": "x", "response_2": "y"}


def votes(name: str, row: dict[str, Any]) -> list[tuple[str, str]]:
    assert format_of(row) == name
    return [(r.annotator, r.verdict) for r in PARSERS[name](row) if isinstance(r, VoteRecord)]


def refused(name: str, row: dict[str, Any]) -> RowError:
    with pytest.raises(RowError) as caught:
        PARSERS[name](row)
    return caught.value


def argilla(**responses: Any) -> dict[str, Any]:
    return {
        "id": "1", "status": "completed", "_server_id": "s", "fields": FIELDS, "metadata": {}, "vectors": {},
        "suggestions": {"better": {"value": "response_2", "score": 0.9, "agent": "gpt"}}, "responses": responses,
    }  # fmt: skip


def test_argilla_labels_of_several_users() -> None:
    said = [
        {"value": value, "user_id": f"u{i}"}
        for i, value in enumerate(["response_1", "response_2", "tie", "1", "B"])
    ]
    row = ReadRow(argilla(better=said, comment=[{"value": "clear", "user_id": "u0"}]))
    found = votes("argilla", row)
    assert found == [("u0", "a"), ("u1", "b"), ("u2", "tie"), ("u3", "a"), ("u4", "b")]
    assert PARSERS["argilla"](row)[-5].comment == "clear"
    assert "suggestions of models: not used" in row.notes


def test_argilla_rankings_and_drafts() -> None:
    rank = [{"value": "response_1", "rank": 2}, {"value": "response_2", "rank": 1}]
    assert votes("argilla", argilla(order=[{"value": rank, "user_id": "u"}])) == [("u", "b")]
    even = [{"value": "response_1", "rank": 1}, {"value": "response_2", "rank": 1}]
    assert votes("argilla", argilla(order=[{"value": even, "user_id": "u"}])) == [("u", "tie")]
    columns = {"value": ["response_2", "response_1"], "rank": [2, 1]}
    assert votes("argilla", argilla(order=[{"value": columns, "user_id": "u"}])) == [("u", "a")]
    row = ReadRow(argilla(better=[{"value": "response_1", "user_id": "u", "status": "draft"}]))
    assert votes("argilla", row) == []
    assert len(row.notes) == 2


def test_argilla_flat_columns_of_to_datasets() -> None:
    row = {
        "id": "1", "status": "completed", "_server_id": "s", **FIELDS, "response_3": "z",
        "order.responses": [["response_3", "response_1", "response_2"], ["response_1"]],
        "order.responses.users": ["u", "v"], "order.responses.status": ["submitted", "discarded"],
        "order.suggestion": None,
    }  # fmt: skip
    assert votes("argilla", row) == [("u", "a"), ("u", "b"), ("u", "b")]


def test_argilla_rows_are_refused() -> None:
    row = argilla(better=[{"value": "response_1", "user_id": "u"}])
    assert refused("argilla", row | {"fields": {"response_1": "x", "response_2": "y"}}).field == "prompt"
    assert refused("argilla", row | {"fields": {"instruction": "q", "text": "x"}}).field == "response_1"
    assert refused("argilla", row | {"responses": {"better": ["x"]}}).field == "responses.better"


def task(*results: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    return {
        "id": 1, "data": {"prompt": "q", "answer1": "x", "answer2": "y"}, "predictions": [],
        "annotations": [
            {"id": 9, "completed_by": {"id": 3, "email": "kim@example.org"}, "created_at": "2026-01-31T12:00:00Z",
             "was_cancelled": False, "result": list(results), **annotation}
        ],
    }  # fmt: skip


def pairwise(side: str, to_name: str = "answer1,answer2") -> dict[str, Any]:
    return {"type": "pairwise", "value": {"selected": side}, "from_name": "pw", "to_name": to_name}


def test_label_studio() -> None:
    assert votes("label-studio", task(pairwise("left"))) == [("kim@example.org", "a")]
    assert votes("label-studio", task(pairwise("right"))) == [("kim@example.org", "b")]
    assert votes("label-studio", task(pairwise("left", "answer2,answer1"))) == [("kim@example.org", "b")]
    assert votes("label-studio", task(pairwise("left"), completed_by=7)) == [("7", "a")]
    assert votes("label-studio", task(was_cancelled=True)) == [("kim@example.org", "skip")]
    assert votes("label-studio", task({"type": "choices", "value": {"choices": ["tie"]}})) == [
        ("kim@example.org", "tie")
    ]
    comment = {"type": "textarea", "value": {"text": ["So."]}}
    vote = PARSERS["label-studio"](task(pairwise("left"), comment))[-1]
    assert (vote.comment, vote.created_at) == ("So.", "2026-01-31T12:00:00.000000+00:00")
    read = ReadRow(task())
    assert votes("label-studio", read) == []
    assert len(read.notes) == 1
    assert refused("label-studio", task(pairwise("up"))).field == "annotations[1].result"
    assert refused("label-studio", task() | {"data": {"prompt": "q", "text1": "x"}}).field == "response_1"


def potato(**labels: Any) -> dict[str, Any]:
    return {"id": "7", "user_id": "kim", "prompt": "q", "responses": ["x", "y"], "label_annotations": labels}


def test_potato_items_with_their_annotations() -> None:
    assert votes("potato", potato(better={"selection": "A"})) == [("kim", "a")]
    assert votes("potato", potato(better={"selection": "tie"})) == [("kim", "tie")]
    found = PARSERS["potato"](potato(scale={"scale_value": "-2"}, why={"text": "So."}))
    assert (found[-1].verdict, found[-1].strength, found[-1].comment) == ("a", 2, "So.")
    assert [r.text for r in found if isinstance(r, ResponseRecord)] == ["x", "y"]
    assert refused("potato", potato(better={"selection": "C"})).field == "selection"
    assert refused("potato", potato(free={"text": "x"})).field == "label_annotations"
    assert refused("potato", potato() | {"responses": ["x"]}).field == "responses"


@pytest.mark.django_db
def test_potato_items_and_annotations_in_two_files(project: Project, tmp_path: Path) -> None:
    items = [{"id": f"{i}", "question": f"q{i}", "left": "x", "right": "y"} for i in range(2)]
    said = [
        {"id": f"{i}", "displayed_text": "…", "label_annotations": {"b": {"selection": "AB"[i]}}}
        for i in range(2)
    ]
    sources = []
    for name, rows in (("items.jsonl", items), ("kim/annotated_instances.jsonl", said)):
        path = tmp_path / name.replace("/", "-")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append(Source(path, name))
    assert recognise(sources) == "potato"
    report = import_files(
        project=project, sources=sources, format_name="auto", dry_run=False, folder=tmp_path / "work"
    )
    assert (report.left_out, report.counts["votes"]["new"]) == (0, 2)
    assert sorted(Judgement.objects.values_list("verdict", flat=True)) == ["a", "b"]
    assert report.unused == {"displayed_text": 2}
