"""On SQLite an import is written in batches: nothing of it is asked before it is whole, and a killed one goes."""

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import Import, Pair, Project, Response
from webapp.corpus.services import project_save
from webapp.importing import services
from webapp.importing.services import import_run
from webapp.jobs import JobFailed, State
from webapp.labels.models import Judgement
from webapp.snapshots import reading
from webapp.snapshots.services import snapshot_take
from workers.housekeeping import imports_settle, jobs_reap


def rows_of(prompt: str, verdict: str, *names: str) -> list[dict[str, Any]]:
    level = {"type": "level", "response": f"{prompt}-0", "annotator": names[0]}
    ends = {"a": f"{prompt}-0", "b": f"{prompt}-1"}
    return [
        {"type": "prompt", "id": prompt, "text": f"{prompt}?"},
        *({"type": "response", "id": f"{prompt}-{n}", "prompt": prompt, "text": f"{n}."} for n in range(3)),
        *({"type": "vote", "annotator": name, "verdict": verdict, **ends} for name in names),
        {**level, "level": "good" if verdict == "a" else "bad"},
    ]


def confirmed(project: Project, rows: list[dict[str, Any]]) -> Import:
    row = Import.objects.create(project=project, file_name="a", folder=f"imports/{len(rows)}", dry_run=False)
    folder = row.error_file().parent
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return row


def run_and_die(row: Import, patch: Callable[[], None]) -> None:
    """The job in a process of its own that kills itself where `patch` says."""
    connections.close_all()
    if not (child := os.fork()):
        patch()
        try:
            import_run(row)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def state_of(project: Project) -> list[Any]:
    pairs = project.pairs.order_by("external_id").values_list("external_id", "judged", "wanted", "reserved")
    responses = project.responses.order_by("external_id").values_list("external_id", "labelled", "wanted")
    users = User.objects.order_by("username").values_list("username", flat=True)
    return [*pairs, *responses, *users, Judgement.objects.count(), snapshot_take(project=project).digest]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="elsewhere an import is one transaction")
@pytest.mark.django_db(transaction=True)
def test_a_killed_import_is_taken_back_before_it_is_whole_and_goes_on_after(
    project: Project,
    admin: User,
    client_of: Callable[[User], Client],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = rows_of("p1", "a", "kim")
    second = [*rows_of("p1", "b", "kim", "lee"), *rows_of("p2", "a", "kim", "lee", "max")]
    import_run(confirmed(project, first))
    before = state_of(project)
    row = confirmed(project, second)

    run_and_die(row, lambda: setattr(services.LabelWriter, "write_counters", die))
    row.refresh_from_db()
    assert (row.state, row.phase) == (State.RUNNING, Import.IN_BATCHES)
    # All is stored, and nothing of it is open or told.
    assert Judgement.objects.filter(origin=row).count() == 5
    project.overlap = 3
    project_save(project=project)
    assert not Pair.objects.filter(origin=row, wanted__gt=0).exists()
    assert Pair.objects.get(external_id="p1-0:p1-1").wanted == 3
    project.overlap = 2
    project_save(project=project)
    monkeypatch.setattr(reading, "LONGEST_IMPORT_SECONDS", 0)
    with pytest.raises(JobFailed, match="is being written"):
        snapshot_take(project=project)
    typed = {"prompt_text": "p2?", "text_a": "0.", "text_b": "2."}
    refused = client_of(admin).post(f"/p/{project.slug}/pairs/new/", typed)
    assert "An import is being written" in refused.content.decode()
    settings.JOB_LOST_AFTER_SECONDS = 0
    assert imports_settle() == 0
    assert jobs_reap() == 1
    assert imports_settle() == 1
    assert state_of(project) == before

    row.refresh_from_db()
    assert row.requeue()
    run_and_die(row, lambda: setattr(services, "import_open", die))
    assert jobs_reap() == 1
    # Whoever comes first does it: here somebody who tries again.
    row.refresh_from_db()
    assert row.requeue()
    import_run(row)
    row.refresh_from_db()
    assert (row.state, row.phase, row.report["counts"]["votes"]["changed"]) == (State.DONE, "", 1)
    whole = state_of(project)

    # As one transaction would have left it.
    other = Project.objects.create(slug="other", name="Other", overlap=2, methods=["oprm"])
    for rows in (first, second):
        row = confirmed(other, rows + [{}])
        services.import_files(
            project=other, sources=services.sources_in(row.error_file().parent), format_name="caliper", dry_run=False,
            folder=row.error_file().parent, origin=lambda report, row=row: row,
        )  # fmt: skip
    assert [each for each in state_of(other) if isinstance(each, tuple)] == [
        each for each in whole if isinstance(each, tuple)
    ]
    assert Response.objects.of(other).count() == 6
