"""Pairs that an import makes from responses alone, and what it puts together."""

import json
from pathlib import Path
from typing import Any

import pytest

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Response
from webapp.importing.reading import Source
from webapp.importing.services import import_files
from webapp.labels.queue import assignments_for

VOTE = {"type": "vote", "pair": "x", "annotator": "kim", "verdict": "a"}
LINES: list[dict[str, Any]] = [
    {"type": "prompt", "id": "p", "text": "q"},
    {"type": "response", "id": "a", "prompt": "p", "text": "A"},
    {"type": "response", "id": "b", "prompt": "p", "text": "B"},
    {"type": "pair", "id": "x", "a": "a", "b": "b"},
    VOTE,
    {"type": "level", "response": "a", "annotator": "kim", "level": "good"},
]


def bring(project: Project, tmp_path: Path, lines: list[dict[str, Any]]) -> Any:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return import_files(
        project=project,
        sources=[Source(path, path.name)],
        format_name="auto",
        dry_run=False,
        folder=tmp_path / "i",
    )


def responses(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"type": "response", "id": f"r{n}", "prompt": "p", "text": f"text {n}"}
        for n in range(first, first + count)
    ]


@pytest.mark.parametrize(
    ("pairing", "limit", "count", "made"),
    [
        ("all", 10, 3, 3),
        ("all", 4, 6, 4),
        ("ring", 1, 5, 5),
        ("ring", 2, 5, 10),
        ("random", 3, 6, 3),
        ("all", 10, 1, 0),
    ],
)
def test_responses_alone_make_pairs_that_can_be_judged_at_once(
    project: Project, annotator: User, tmp_path: Path, pairing: str, limit: int, count: int, made: int
) -> None:
    Project.objects.update(pairing=pairing, pairing_limit=limit)
    project.refresh_from_db()
    report = bring(project, tmp_path, [LINES[0], *responses(count)])
    assert report.counts.get("made", {"new": 0})["new"] == made == Pair.objects.count()
    assert len(assignments_for(project=project, annotator=annotator, count=2)) == min(2, made)
    again = bring(project, tmp_path, [LINES[0], *responses(count)])
    assert again.new == 0
    assert Pair.objects.count() == made


def test_a_file_that_names_pairs_gets_no_others(project: Project, tmp_path: Path) -> None:
    bring(project, tmp_path, [*LINES[:4], *responses(3)])
    assert Pair.objects.get().external_id == "x"
    # Responses that come later, without pairs, get some.
    bring(project, tmp_path, responses(1, first=7))
    assert (
        Pair.objects.filter(response_a__external_id="r7").exists()
        or Pair.objects.filter(response_b__external_id="r7").exists()
    )


def test_what_is_put_together_is_counted(project: Project, tmp_path: Path) -> None:
    again = {"type": "response", "id": "a", "prompt": "p", "text": "A", "metadata": {"k": 2}}
    lines = [LINES[0], {**LINES[1], "metadata": {"k": 1}}, again, *LINES[2:], VOTE, VOTE]
    report = bring(project, tmp_path, lines)
    assert report.notes == {
        "verdicts that repeat what an earlier row says, counted once": 2,
        "responses that came again with other metadata, of which the first is kept": 1,
    }
    assert Response.objects.get(external_id="a").metadata == {"k": 1}
