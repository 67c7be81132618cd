"""Importing into a project: what is written, what is there already, what is left out, and nothing by halves."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from tests.conftest import shared_data
from webapp.accounts.models import User
from webapp.corpus.models import Import, Pair, Project, Prompt, Response
from webapp.importing import labels as label_importing
from webapp.importing.names import safe_name
from webapp.importing.reading import ImportRefused, Source
from webapp.importing.report import Report
from webapp.importing.services import import_confirm, import_files, import_retry, import_run
from webapp.jobs import ProgressFile, State
from webapp.labels.models import Judgement, QualityLabel

BASE: list[dict[str, Any]] = [
    {"type": "prompt", "id": "p1", "text": "Why?", "group": "g"},
    {"type": "response", "id": "r1", "prompt": "p1", "text": "One.", "author": "m1"},
    {"type": "response", "id": "r2", "prompt": "p1", "text": "Two."},
    {"type": "response", "id": "r3", "prompt": "p1", "text": "Three."},
    {"type": "pair", "id": "q", "a": "r1", "b": "r2"},
]


def vote(annotator: str, verdict: str, **fields: Any) -> dict[str, Any]:
    where = {} if "a" in fields else {"pair": "q"}
    return {"type": "vote", **where, "annotator": annotator, "verdict": verdict, **fields}


@pytest.fixture
def project(project: Project) -> Project:
    """No pairs are made beside those of the files: the prompt of BASE has its one."""
    project.pairing_limit = 1
    project.save()
    return project


class Importer:
    """Writes lines into files and imports them into a project."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder, self.count = project, folder, 0

    def source(self, lines: list[Any]) -> Source:
        self.count += 1
        path = self.folder / f"{self.count}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return Source(path, path.name)

    def __call__(self, lines: list[Any], *more: list[Any], dry_run: bool = False) -> Report:
        return import_files(
            project=self.project,
            sources=[self.source(part) for part in (lines, *more)],
            format_name="auto",
            dry_run=dry_run,
            folder=self.folder / "work",
        )

    def row(self, lines: list[Any], **fields: Any) -> Import:
        row = Import.objects.create(project=self.project, file_name="a.jsonl", folder="imports/x", **fields)
        folder = row.error_file().parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return row


@pytest.fixture
def bring(project: Project, tmp_path: Path) -> Importer:
    return Importer(project, tmp_path)


def check_counters(project: Project) -> None:
    """Pair.judged and Response.labelled equal a recount."""
    for pair in Pair.objects.of(project):
        assert pair.judged == Judgement.objects.verdicts().filter(pair=pair).count()
        assert pair.wanted >= pair.judged
    for response in Response.objects.of(project):
        assert response.labelled == QualityLabel.objects.current().filter(response=response).count()


def test_writes_everything_in_any_order(bring: Importer, project: Project) -> None:
    lines = [
        vote(
            "kim",
            "a",
            strength=2,
            comment="clear",
            reasons=["short"],
            left="b",
            created_at="2026-01-02T03:04:05Z",
        ),
        vote("lee", "tie"),
        vote("max", "skip"),
        {"type": "level", "response": "r1", "annotator": "kim", "level": "good"},
        *reversed(BASE),
    ]
    report = bring(lines)
    assert report.left_out == 0
    assert {kind: counts["new"] for kind, counts in report.counts.items()} == {
        "prompts": 1, "responses": 3, "pairs": 1, "annotators": 3, "votes": 3, "levels": 1,
    }  # fmt: skip
    pair = Pair.objects.get(external_id="q")
    assert (pair.judged, pair.wanted) == (2, project.overlap)
    kim = Judgement.objects.get(annotator__username="capitals:kim")
    assert (kim.verdict, kim.strength, kim.comment, kim.reasons, kim.left) == (
        "a",
        2,
        "clear",
        ["short"],
        "b",
    )
    assert kim.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert kim.source == "import"
    user = kim.annotator
    assert (user.kind, user.is_active, user.has_usable_password()) == (User.Kind.IMPORTED, False, False)
    assert Prompt.objects.get().group == "g"
    check_counters(project)


def test_a_second_import_changes_nothing(bring: Importer, project: Project) -> None:
    lines = [*BASE, vote("kim", "a"), {"type": "level", "response": "r1", "annotator": "kim", "level": "bad"}]
    bring(lines)
    before = (
        list(Judgement.objects.values()),
        list(QualityLabel.objects.values()),
        list(Pair.objects.values()),
    )
    report = bring(lines)
    assert report.new == 0
    assert report.left_out == 0
    assert before == (
        list(Judgement.objects.values()),
        list(QualityLabel.objects.values()),
        list(Pair.objects.values()),
    )


def test_a_dry_run_says_the_same_and_writes_nothing(bring: Importer) -> None:
    lines = [*BASE, vote("kim", "a"), vote("lee", "b", a="r2", b="r3"), vote("lee", "wrong")]
    seen = bring(lines, dry_run=True)
    assert not Prompt.objects.exists()
    assert not User.objects.exists()
    done = bring(lines)
    assert seen.counts == done.counts
    assert [{**error, "file": ""} for error in seen.errors] == [
        {**error, "file": ""} for error in done.errors
    ]
    assert seen.preview == done.preview
    [first, *_] = seen.preview
    assert (first["pair"], first["prompt"]["messages"]) == ("q", [{"role": "user", "content": "Why?"}])
    assert [(side["id"], side["text"]) for side in first["sides"]] == [("r1", "One."), ("r2", "Two.")]
    assert first["votes"] == [{"annotator": "kim", "verdict": "a", "comment": ""}]


def test_a_pair_with_more_votes_than_wanted_is_complete(bring: Importer, project: Project) -> None:
    bring([*BASE, *(vote(f"w{n}", "a") for n in range(5))])
    pair = Pair.objects.get()
    assert (pair.judged, pair.wanted, pair.reserved) == (5, 5, 0)
    bring([vote("w9", "b")])
    pair.refresh_from_db()
    assert (pair.judged, pair.wanted) == (6, 6)


def test_the_reverse_of_a_pair_is_the_pair(bring: Importer, project: Project) -> None:
    bring([*BASE, vote("kim", "a")])
    report = bring(
        [
            {"type": "pair", "id": "reverse", "a": "r2", "b": "r1"},
            vote("lee", "a", pair="reverse", left="a"),
            vote("max", "b", a="r2", b="r1"),
            vote("kim", "b", a="r2", b="r1"),
        ]
    )
    assert report.left_out == 0
    assert Pair.objects.count() == 1
    assert report.counts["votes"] == {"found": 3, "new": 2, "present": 1, "changed": 0}
    verdicts = dict(Judgement.objects.values_list("annotator__username", "verdict"))
    assert verdicts == {"capitals:kim": "a", "capitals:lee": "b", "capitals:max": "a"}
    assert Judgement.objects.get(annotator__username="capitals:lee").left == "b"
    check_counters(project)


def test_another_verdict_supersedes_and_an_older_one_does_not(bring: Importer, project: Project) -> None:
    bring([*BASE, vote("kim", "a", created_at="2026-01-02T00:00:00Z"), vote("lee", "a")])
    report = bring(
        [vote("kim", "b", created_at="2026-01-03T00:00:00Z"), vote("lee", "skip")],
    )
    assert report.counts["votes"]["changed"] == 2
    old, new = Judgement.objects.filter(annotator__username="capitals:kim").order_by("pk")
    assert (old.is_current, new.is_current, new.supersedes, new.verdict) == (False, True, old, "b")
    assert Pair.objects.get().judged == 1
    report = bring([*BASE, vote("kim", "tie", created_at="2026-01-01T00:00:00Z")])
    assert report.left_out == 1
    assert "newer word" in report.errors[0]["message"]
    check_counters(project)


def test_levels_supersede_as_well(bring: Importer, project: Project) -> None:
    level = {"type": "level", "response": "r1", "annotator": "kim", "level": "good"}
    bring([*BASE, level])
    report = bring([{**level, "level": "bad"}, {**level, "response": "r9"}])
    assert report.counts["levels"]["changed"] == 1
    assert report.errors[0]["field"] == "response"
    assert QualityLabel.objects.current().get().level == "bad"
    check_counters(project)


def test_imports_never_overrule_people(bring: Importer, project: Project, annotator: User) -> None:
    bring(BASE)
    pair = Pair.objects.get()
    Judgement.objects.create(pair=pair, annotator=annotator, verdict="a", client_key="x")
    Pair.objects.update(judged=1)
    report = bring([*BASE, vote("anna", "b")])
    assert report.left_out == 1
    assert "don't overrule people" in report.errors[0]["message"]
    assert bring([vote("anna", "a")]).counts["votes"]["present"] == 1
    assert Judgement.objects.count() == 1


@pytest.mark.parametrize(
    ("line", "row", "message"),
    [
        (
            {"type": "response", "id": "r9", "prompt": "nope", "text": "x"},
            6,
            "neither in the files nor in the project",
        ),
        ({"type": "pair", "a": "r1", "b": "r9"}, 6, "response “r9”"),
        ({"type": "pair", "a": "r1", "b": "r1"}, 6, "same response"),
        ({"type": "pair", "id": "q", "a": "r1", "b": "r3"}, 6, "another responses"),
        (vote("kim", "a", pair="zz"), 6, "pair “zz”"),
        (vote("kim", "a", a="r1", b="r9"), 6, "response “r9”"),
        ({"type": "response", "id": "r1", "prompt": "p1", "text": "Other."}, 6, "another text"),
        (
            {"type": "response", "id": "r1", "prompt": "p1", "text": "One.", "author": "m2"},
            6,
            "another author",
        ),
        ({"type": "prompt", "id": "p1", "text": "How?"}, 6, "another messages"),
        ({"type": "prompt", "id": "p1", "text": "Why?", "group": "h"}, 6, "another group"),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_contradictions_are_left_out(
    bring: Importer, line: Any, row: int, message: str, before: bool
) -> None:
    """In the same file, and against what an earlier import wrote."""
    if before:
        bring(BASE)
        row = 1
    report = bring([line, vote("ok", "a")] if before else [*BASE, line, vote("ok", "a")])
    assert report.left_out == 1
    assert report.errors[0]["row"] == row
    assert message in report.errors[0]["message"]
    assert report.errors[0]["remedy"]
    assert Judgement.objects.get().annotator.username == "capitals:ok"
    listed = [json.loads(line) for line in (bring.folder / "work" / "errors.jsonl").read_text().splitlines()]
    assert listed == report.errors


def test_a_row_that_relies_on_a_left_out_one_names_it(bring: Importer) -> None:
    report = bring(
        [
            *BASE,
            {"type": "response", "id": "r8", "prompt": "nope", "text": "x"},
            {"type": "pair", "a": "r1", "b": "r8"},
        ]
    )
    assert "which was left out" in report.errors[1]["message"]
    assert "row 6" in report.errors[1]["remedy"]


def test_two_verdicts_of_one_annotator_in_a_file(bring: Importer) -> None:
    lines = [*BASE, vote("kim", "a"), vote("kim", "b"), vote("kim", "a")]
    for _ in range(2):
        report = bring(lines)
        assert report.left_out == 1
        assert "row 6" in report.errors[0]["message"]
        assert Judgement.objects.get().verdict == "a"


def test_a_new_pair_counts_and_wants_only_the_votes_that_were_taken(
    bring: Importer, project: Project
) -> None:
    bring(
        [*BASE, vote("kim", "a"), vote("kim", "b"), vote("lee", "skip"), vote("max", "tie", a="r2", b="r1")]
    )
    assert Pair.objects.values_list("judged", "wanted").get() == (2, project.overlap)
    check_counters(project)


def test_several_files_and_an_id_that_clashes_with_a_made_one(bring: Importer) -> None:
    report = bring(
        BASE,
        [{"type": "pair", "id": "r1:r3", "a": "r2", "b": "r3"}, {"type": "pair", "a": "r1", "b": "r3"}],
    )
    assert report.left_out == 0
    assert Pair.objects.count() == 3
    assert [file["rows"] for file in report.files] == [5, 2]


def test_problems_may_quote_what_no_database_keeps(bring: Importer) -> None:
    report = bring([*BASE, {"type": "x\x00\ud800"}, {"type": "pair", "a": "r1", "b": "r2", "\ud800\x00": 1}])
    assert report.left_out == 2
    row = bring.row([*BASE, {"type": "x\x00\ud800"}], dry_run=True)
    import_run(row)
    row.refresh_from_db()
    assert row.state == State.DONE


def test_nothing_usable_fails_the_whole(bring: Importer, project: Project) -> None:
    with pytest.raises(ImportRefused, match="no row is in the format"):
        bring([{"type": "pair"}, {"type": "vote"}])
    with pytest.raises(ImportRefused, match="every row has a problem"):
        bring([{"type": "pair", "a": "x", "b": "y"}])
    assert not Pair.objects.exists()


def test_a_crash_while_writing_leaves_nothing(bring: Importer, monkeypatch: Any) -> None:
    def crash(*args: Any) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(label_importing.LabelWriter, "write_counters", crash)
    row = bring.row([*BASE, vote("kim", "a")], dry_run=False)
    import_run(row)
    row.refresh_from_db()
    assert row.state == State.FAILED
    assert "power cut" in row.error
    assert not Prompt.objects.exists()
    assert not User.objects.exists()


# The row


def test_preview_then_confirm(bring: Importer, project: Project) -> None:
    row = bring.row([*BASE, vote("kim", "a")])
    import_run(row)
    row.refresh_from_db()
    assert (row.state, row.dry_run, row.report["counts"]["votes"]["new"]) == (State.DONE, True, 1)
    assert not Prompt.objects.exists()
    assert import_confirm(import_row=row)
    assert not import_confirm(import_row=row)
    row.refresh_from_db()
    assert row.state == State.QUEUED
    import_run(row)
    row.refresh_from_db()
    assert (row.state, row.dry_run, row.report["dry_run"]) == (State.DONE, False, False)
    assert Judgement.objects.count() == 1
    assert not ProgressFile(row.error_file().with_name("progress.json")).path.exists()


def test_a_claimed_row_is_left_alone(bring: Importer) -> None:
    row = bring.row(BASE, dry_run=False)
    assert Import.objects.get(pk=row.pk).claim()
    import_run(row)
    assert not Prompt.objects.exists()


def test_a_cancelled_import_stops_and_can_be_tried_again(bring: Importer) -> None:
    row = bring.row(BASE, dry_run=False)
    Import.objects.filter(pk=row.pk).update(cancel_requested=True)
    import_run(row)
    row.refresh_from_db()
    assert row.state == State.CANCELLED
    assert not Prompt.objects.exists()
    assert import_retry(import_row=row)
    import_run(row)
    row.refresh_from_db()
    assert row.state == State.DONE


def test_a_row_given_up_as_lost_while_writing_rolls_back(bring: Importer, monkeypatch: Any) -> None:
    """The reaper and the writer agree: LOST means that nothing was written."""
    row = bring.row(BASE, dry_run=False)
    original = label_importing.LabelWriter.write_counters

    def lose(self: Any) -> None:
        original(self)
        Import.objects.filter(pk=row.pk).update(state=State.LOST)

    monkeypatch.setattr(label_importing.LabelWriter, "write_counters", lose)
    import_run(row)
    assert not Prompt.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_same_file_imported_twice_at_once(project: Project, tmp_path: Path) -> None:
    lines = [*BASE, *(vote(f"w{n}", "a") for n in range(20))]
    outcomes: list[Any] = []

    def run(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            outcomes.append(Importer(project, folder)(lines))
        except Exception as error:
            outcomes.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(outcome, Report) for outcome in outcomes), outcomes
    assert sorted(outcome.counts["votes"]["new"] for outcome in outcomes) == [0, 20]
    assert Judgement.objects.count() == 20
    check_counters(project)


# The command and real data


def test_the_command(project: Project, tmp_path: Path, capsys: Any) -> None:
    path = bring_file(tmp_path, [*BASE, vote("kim", "a"), {"type": "nonsense"}])
    call_command("import_data", path, project="capitals", dry_run=True)
    assert "would be imported" in capsys.readouterr().out
    assert not Import.objects.exists()
    call_command("import_data", path, project="capitals")
    out = capsys.readouterr().out
    assert "1 new" in out
    assert "1 rows left out" in out
    row = Import.objects.get()
    assert row.error_file().is_file()


def bring_file(folder: Path, lines: list[Any]) -> str:
    path = folder / "given.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_the_command_fails_with_one_message_and_leaves_nothing(project: Project, tmp_path: Path) -> None:
    path = bring_file(tmp_path, [{"question": 1}])
    with pytest.raises(CommandError, match="not recognised"):
        call_command("import_data", path, project="capitals")
    with pytest.raises(CommandError, match=r"no project “other”\. Projects: capitals"):
        call_command("import_data", path, project="other")
    with pytest.raises(CommandError, match="no file"):
        call_command("import_data", "missing.jsonl", project="capitals")
    assert not Import.objects.exists()


def test_ukp_needs_both_files(project: Project, tmp_path: Path) -> None:
    pairs = shared_data("ukp_convarg1", "pairs.jsonl.gz")
    responses = shared_data("ukp_convarg1", "responses.jsonl.gz")
    for path, other in ((pairs, "responses"), (responses, "pairs")):
        with pytest.raises(CommandError, match=rf"Add {other}\.jsonl\.gz"):
            call_command("import_data", path, project="capitals", dry_run=True)


@pytest.mark.slow
def test_the_whole_of_ukp_in_bounded_time(project: Project, tmp_path: Path) -> None:
    started = timezone.now()
    names = ("pairs.jsonl.gz", "responses.jsonl.gz")
    call_command("import_data", *(shared_data("ukp_convarg1", name) for name in names), project="capitals")
    assert (timezone.now() - started).total_seconds() < 120
    assert Pair.objects.count() == 16_927
    assert Judgement.objects.count() == 84_445
    assert Prompt.objects.count() == 32
    assert len(set(Prompt.objects.values_list("group", flat=True))) == 16
    assert User.objects.count() == 3_815
    votes = {verdict: Judgement.objects.filter(verdict=verdict).count() for verdict in ("a", "b", "tie")}
    assert votes == {"a": 32_849, "b": 32_491, "tie": 19_105}
    assert sum(Pair.objects.values_list("judged", flat=True)) == 84_445
    assert Judgement.objects.exclude(comment="").count() > 80_000


def test_safe_names() -> None:
    assert safe_name("../../etc/passwd") == "passwd"
    assert safe_name("C:\\x\\my file.jsonl.gz") == "my-file.jsonl.gz"
    assert safe_name("errors.jsonl") == "2-errors.jsonl"
    assert safe_name("a.json", taken=["A.json"]) == "2-a.json"
    assert safe_name("..") == "file"
    assert safe_name(".hidden") == "hidden"
    assert len(safe_name("x" * 500 + ".jsonl")) == 100
