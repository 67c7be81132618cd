"""Taking an import back, throwing a preview away, pairs made from responses, pairs by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import AuditEntry, Import, Pair, Project, Prompt, Response
from webapp.importing.reading import Source
from webapp.importing.services import import_confirm, import_files, import_run
from webapp.importing.undoing import UndoRefused, import_discard, import_undo
from webapp.labels.models import Judgement, QualityLabel
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit

VOTE = {"type": "vote", "pair": "x", "annotator": "kim", "verdict": "a"}
LINES: list[dict[str, Any]] = [
    {"type": "prompt", "id": "p", "text": "q"},
    {"type": "response", "id": "a", "prompt": "p", "text": "A"},
    {"type": "response", "id": "b", "prompt": "p", "text": "B"},
    {"type": "pair", "id": "x", "a": "a", "b": "b"},
    VOTE,
    {"type": "level", "response": "a", "annotator": "kim", "level": "good"},
]


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.jobs.enqueue", lambda task, pk, queue: None)


def carried_out(
    project: Project, lines: list[dict[str, Any]], *, name: str = "one", real: bool = True
) -> Import:
    row = Import.objects.create(
        project=project, file_name=f"{name}.jsonl", folder=f"imports/{name}", format="auto"
    )
    row.error_file().parent.mkdir(parents=True)
    row.error_file().with_name(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    import_run(row)
    row.refresh_from_db()
    if real:
        assert import_confirm(import_row=row)
        row.refresh_from_db()
        import_run(row)
        row.refresh_from_db()
        assert row.state == "done", row.error
    return row


def test_an_import_is_taken_back_whole(
    project: Project, admin: User, client_of: Callable[[User], Client]
) -> None:
    row = carried_out(project, LINES)
    client = client_of(admin)
    url = f"/p/capitals/imports/{row.pk}/undo/"
    assert "1 " in client.get(url).content.decode()
    assert client.post(url).status_code == 302
    for model in (Prompt, Response, Pair, Judgement, QualityLabel):
        assert not model.objects.exists()
    assert not User.objects.filter(kind=User.Kind.IMPORTED).exists()
    row.refresh_from_db()
    assert row.undone_at is not None
    assert AuditEntry.objects.filter(action="import-undone").count() == 1
    with pytest.raises(UndoRefused, match="undone before"):
        import_undo(import_row=row)
    # The same file can be imported again.
    carried_out(project, LINES, name="again")
    assert Judgement.objects.count() == 1


def test_what_a_correction_had_replaced_counts_again(project: Project) -> None:
    carried_out(project, [*LINES[:4], {**VOTE, "created_at": "2026-01-01T00:00:00Z"}])
    second = carried_out(
        project, [{**VOTE, "verdict": "b", "created_at": "2026-01-02T00:00:00Z"}], name="two"
    )
    assert Judgement.objects.current().get().verdict == "b"
    import_undo(import_row=second)
    assert Judgement.objects.get().verdict == "a"
    assert Judgement.objects.get().is_current
    assert Pair.objects.get().judged == 1


def test_nothing_that_a_person_judged_is_taken_back(project: Project, annotator: User) -> None:
    row = carried_out(project, LINES)
    [card] = assignments_for(project=project, annotator=annotator, count=1)
    assert card.pair is not None
    levels = {card.pair.response_a_id: "bad", card.pair.response_b_id: "good"}
    judgement_submit(key=card.key, annotator=annotator, verdict="b", levels=levels)
    with pytest.raises(UndoRefused, match="judge"):
        import_undo(import_row=row)
    assert Judgement.objects.count() == 2


def test_nothing_that_another_import_relies_on_is_taken_back(project: Project) -> None:
    first = carried_out(project, LINES)
    second = carried_out(project, [{"type": "response", "id": "c", "prompt": "p", "text": "C"}], name="two")
    with pytest.raises(UndoRefused, match=f"Undo import {second.pk} first"):
        import_undo(import_row=first)
    import_undo(import_row=second)
    import_undo(import_row=first)
    assert not Prompt.objects.exists()


def test_a_preview_is_thrown_away(project: Project, admin: User, client_of: Callable[[User], Client]) -> None:
    row = carried_out(project, LINES, real=False)
    folder = settings.DATA_DIR / row.folder
    assert folder.is_dir()
    assert client_of(admin).post(f"/p/capitals/imports/{row.pk}/discard/").status_code == 302
    assert not Import.objects.exists()
    assert AuditEntry.objects.filter(action="import-discarded").count() == 1
    done = carried_out(project, LINES, name="two")
    assert not import_discard(import_row=done)


# --- Pairs from responses ---


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


def test_a_project_that_asks_for_levels_gets_no_pairs(project: Project, tmp_path: Path) -> None:
    Project.objects.update(asks="levels")
    project.refresh_from_db()
    bring(project, tmp_path, [LINES[0], *responses(3)])
    assert not Pair.objects.exists()


def test_a_pair_by_hand(project: Project, admin: User, client_of: Callable[[User], Client]) -> None:
    client = client_of(admin)
    typed = {"prompt_text": "Why?", "text_a": " One. ", "text_b": "Two.\n", "author_a": "", "author_b": "me"}
    assert client.post("/p/capitals/pairs/new/", typed).status_code == 302
    pair = Pair.objects.get()
    assert pair.response_a.prompt.messages == [{"role": "user", "content": "Why?"}]
    assert pair.wanted == project.overlap
    assert AuditEntry.objects.filter(action="pair-added").count() == 1
    client.post("/p/capitals/pairs/new/", typed)
    assert Pair.objects.count() == 1
    refused = client.post("/p/capitals/pairs/new/", {**typed, "text_b": ""})
    assert refused.status_code == 400
    page = client.get(f"/p/capitals/pairs/new/?prompt={pair.response_a.prompt_id}").content.decode()
    assert "Why?" in page


def test_what_is_put_together_is_counted(project: Project, tmp_path: Path) -> None:
    again = {"type": "response", "id": "a", "prompt": "p", "text": "A", "metadata": {"k": 2}}
    lines = [LINES[0], {**LINES[1], "metadata": {"k": 1}}, again, *LINES[2:], VOTE, VOTE]
    report = bring(project, tmp_path, lines)
    assert report.notes == {
        "verdicts that repeat what an earlier row says, counted once": 2,
        "responses that came again with other metadata, of which the first is kept": 1,
    }
    assert Response.objects.get(external_id="a").metadata == {"k": 1}
