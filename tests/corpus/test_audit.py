"""The audit log: what is written down, by whom, that it stays, and who reads it."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import transaction
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus import services
from webapp.corpus.audit import audit
from webapp.corpus.models import AuditEntry, Import, Invitation, Project
from webapp.snapshots.models import Export
from webapp.training.models import ModelExport, ModelVersion, TrainingRun
from webapp.training.services import version_promote

from .test_pages import settings_of

ClientOf = Callable[[User], Client]


def log(project: Project) -> list[tuple[str, str]]:
    """(who, what), oldest first."""
    return list(AuditEntry.objects.of(project).order_by("pk").values_list("actor_name", "action"))


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.celery.app.send_task", lambda *args, **kwargs: None)


def test_changed_settings_tell_from_what_to_what(project: Project, admin: User, client_of: ClientOf) -> None:
    client = client_of(admin)
    client.post("/p/capitals/settings/", settings_of(project, overlap=5, guidelines="Be fair. " * 100))
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.address) == (admin, "settings-changed", "127.0.0.1")
    assert entry.detail["overlap"] == {"from": 2, "to": 5}
    # The form strips its texts.
    assert entry.detail["guidelines"]["to"]["length"] == 899
    assert set(entry.detail) == {"overlap", "guidelines"}
    project.refresh_from_db()
    client.post("/p/capitals/settings/", settings_of(project))
    assert AuditEntry.objects.count() == 1, "what did not change is not told"


def test_people_and_invitations(
    project: Project, admin: User, stranger: User, make_user: Callable[..., User], client_of: ClientOf
) -> None:
    client, mate = client_of(admin), make_user("mo", project, "annotator")
    invite = {"invitation-role": "researcher", "invitation-note": "Bo", "invite": ""}
    client.post("/p/capitals/people/", invite)
    client_of(stranger).post(f"/join/{Invitation.objects.get().token}/")
    client.post("/p/capitals/people/", invite)
    open_one = Invitation.objects.get(used_at=None)
    client.post(f"/p/capitals/people/invitations/{open_one.pk}/withdraw/")
    client.post("/p/capitals/people/", {"role-username": "mo", "role-role": "researcher", "give-role": ""})
    client.post("/p/capitals/people/remove/", {"user": mate.pk, "role": "researcher"})
    assert log(project) == [
        ("adam", "invitation-made"),
        ("stan", "role-given"),
        ("stan", "invitation-used"),
        ("adam", "invitation-made"),
        ("adam", "invitation-withdrawn"),
        ("adam", "role-given"),
        ("adam", "role-taken"),
    ]
    tokens = list(Invitation.objects.values_list("token", flat=True))
    assert not any(token in str(entry.detail) for token in tokens for entry in AuditEntry.objects.all())


def test_exports_and_downloads(project: Project, researcher: User, client_of: ClientOf) -> None:
    client = client_of(researcher)
    choice = {"format": "trl-explicit", "file_type": "jsonl", "aggregation": "majority"}
    client.post("/p/capitals/exports/", choice)
    export = Export.objects.get()
    Export.objects.update(state="done", report={"files": [{"name": "README.md", "bytes": 1}]})
    export.folder.mkdir(parents=True)
    (export.folder / "README.md").write_text("x")
    assert client.get(f"/p/capitals/exports/{export.pk}/README.md").status_code == 200
    assert log(project) == [("rita", "export-started"), ("rita", "export-downloaded")]
    assert AuditEntry.objects.latest("pk").detail == {"export": export.pk, "file": "README.md"}


def test_promotion_and_rolling_back(project: Project, admin: User, client_of: ClientOf) -> None:
    def version(number: int) -> ModelVersion:
        run = TrainingRun.objects.create(project=project, method="bt", config={}, state="done")
        (run.folder / "model").mkdir(parents=True)
        (run.folder / "model" / "reward_config.json").write_text("{}")
        return ModelVersion.objects.create(
            project=project, run=run, method="bt", number=number, kind="scalar", gate_passed=True
        )

    first, second = version(1), version(2)
    version_promote(version=first)
    client_of(admin).post(f"/p/capitals/versions/{second.pk}/promote/")
    client_of(admin).post(f"/p/capitals/versions/{first.pk}/promote/")
    assert log(project) == [
        ("Caliper", "version-promoted"),
        ("adam", "version-promoted"),
        ("adam", "version-rolled-back"),
    ]
    assert AuditEntry.objects.latest("pk").detail["instead_of"] == 2


def test_an_act_that_is_undone_leaves_no_entry(project: Project, admin: User) -> None:
    with transaction.atomic():
        services.invitation_create(project=project, role="annotator", note="", created_by=admin)
        transaction.set_rollback(True)
    assert not AuditEntry.objects.exists()


def test_the_log_is_only_added_to(project: Project, admin: User) -> None:
    entry = audit(project=project, actor=admin, action="role-given")
    for change in (
        entry.save,
        entry.delete,
        AuditEntry.objects.all().delete,
        lambda: AuditEntry.objects.update(actor_name="x"),
    ):
        with pytest.raises(TypeError, match="only added to"):
            change()
    with pytest.raises(ValueError, match="no-such-act"):
        audit(project=project, actor=admin, action="no-such-act")
    admin.delete()
    Project.objects.all().delete()
    [kept] = AuditEntry.objects.all()
    assert (kept.actor_name, kept.actor_id, kept.project_id) == ("adam", None, None)


@pytest.mark.parametrize("path", ["/p/capitals/audit/", "/p/capitals/audit/log.jsonl"])
def test_only_admins_read_it(
    path: str, admin: User, annotator: User, researcher: User, stranger: User, client_of: ClientOf
) -> None:
    asked = [(admin, 200), (annotator, 403), (researcher, 403), (stranger, 404)]
    assert [client_of(user).get(path).status_code for user, _ in asked] == [status for _, status in asked]
    assert Client().get(path).status_code == 302


def test_the_page_is_paged_narrowed_and_cheap(
    project: Project, admin: User, client_of: ClientOf, django_assert_max_num_queries: Any
) -> None:
    client = client_of(admin)
    assert "Nothing was written down yet" in client.get("/p/capitals/audit/").content.decode()
    other = Project.objects.create(slug="other", name="Other")
    audit(project=other, actor=admin, action="role-given", detail={"user": "elsewhere"})
    for index in range(60):
        audit(project=project, actor=admin, action="role-given", detail={"user": f"<b>person-{index}</b>"})
    audit(project=project, actor=None, action="version-promoted")
    with django_assert_max_num_queries(8):
        page = client.get("/p/capitals/audit/").content.decode()
    assert "person-59" in page
    assert "&lt;b&gt;person-59" in page
    assert "person-5&" not in page
    assert "elsewhere" not in page
    assert "person-5&" in client.get("/p/capitals/audit/?page=2").content.decode()
    narrowed = client.get("/p/capitals/audit/?action=version-promoted").content.decode()
    assert "person" not in narrowed.partition("<tbody>")[2]
    assert "no such entry" in client.get("/p/capitals/audit/?action=role-taken").content.decode()


def test_as_json_lines(project: Project, admin: User, client_of: ClientOf) -> None:
    audit(project=None, actor=None, action="project-created", detail={"name": "everywhere"})
    audit(project=project, actor="manage.py", action="export-started", detail={"rows": 3})
    answer = client_of(admin).get("/p/capitals/audit/log.jsonl")
    [row] = [json.loads(line) for line in answer.getvalue().splitlines()]
    assert (row["actor"], row["action"], row["detail"]) == ("manage.py", "export-started", {"rows": 3})
    out = StringIO()
    call_command("audit_log", project="capitals", stdout=out)
    assert [json.loads(line)["project"] for line in out.getvalue().splitlines()] == ["capitals"]
    out = StringIO()
    call_command("audit_log", stdout=out)
    assert len(out.getvalue().splitlines()) == 2


def test_new_projects_imports_and_trainings(make_user: Callable[..., User], client_of: ClientOf) -> None:
    client = client_of(make_user("sid", is_staff=True))
    client.post("/new/", {"name": "Rivers", "slug": "rivers", "asks": "pairs", "overlap": 2})
    rivers = Project.objects.get(slug="rivers")
    upload = SimpleUploadedFile("a.jsonl", b'{"type": "prompt", "id": "p", "text": "x"}')
    client.post("/p/rivers/imports/", {"uploads": [upload], "format": "auto"})
    row = Import.objects.get()
    client.post(f"/p/rivers/imports/{row.pk}/cancel/")
    client.post(f"/p/rivers/imports/{row.pk}/retry/")
    Import.objects.update(state="done")
    client.post(f"/p/rivers/imports/{row.pk}/confirm/")
    run = TrainingRun.objects.create(project=rivers, method="bt", config={}, state="queued")
    client.post(f"/p/rivers/runs/{run.pk}/cancel/")
    client.post(f"/p/rivers/runs/{run.pk}/resume/")
    client.post(f"/p/rivers/imports/{row.pk}/confirm/")
    assert log(rivers) == [
        ("sid", action)
        for action in (
            "project-created",
            "import-uploaded",
            "import-cancelled",
            "import-retried",
            "import-confirmed",
            "training-cancelled",
            "training-resumed",
        )
    ], "and nothing for the second click, which changed nothing"


def test_a_training_and_a_model_that_is_taken_away(
    project: Project, admin: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.training.services.run_refusal", lambda *args: "")
    client = client_of(admin)
    client.post("/p/capitals/runs/start/", {"method": "bt"})
    run = TrainingRun.objects.get()
    version = ModelVersion.objects.create(project=project, run=run, method="bt", number=1, kind="scalar")
    client.post(f"/p/capitals/versions/{version.pk}/exports/start/", {"format": "caliper"})
    export = ModelExport.objects.get()
    ModelExport.objects.update(state="done", report={"format": 2})
    export.archive.parent.mkdir(parents=True, exist_ok=True)
    export.archive.write_bytes(b"zip")
    assert client.get(f"/p/capitals/model-exports/{export.pk}.zip").status_code == 200
    assert [action for _, action in log(project)] == [
        "training-started",
        "model-export-started",
        "model-downloaded",
    ]
    assert AuditEntry.objects.earliest("pk").detail["trigger"] == "button"
