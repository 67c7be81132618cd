"""An archived project is read and exported and never written; a project is copied without its data."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import ProjectArchived
from webapp.corpus.models import AuditEntry, Import, Membership, Pair, Project, Prompt, Response
from webapp.corpus.services import project_archive, project_copy, project_save, project_unarchive
from webapp.importing.services import import_confirm, import_retry, import_run, import_start
from webapp.jobs import State
from webapp.labels.models import Judgement, QualityLabel
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit, judgement_undo, level_submit
from webapp.snapshots.models import Export
from webapp.training.models import ModelVersion, TrainingRun
from webapp.training.services import run_resume, run_start, version_promote
from webapp.training.triggers import retrain_all_due, retrain_due

ClientOf = Callable[[User], Client]
LEVELS = {"level_left": "good", "level_right": "bad"}


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.celery.app.send_task", lambda *args, **kwargs: None)


@pytest.fixture
def busy(project: Project, make_prompt: Callable[..., Prompt]) -> Project:
    """Three pairs, and labels enough for a training."""
    make_prompt(project, "p1", texts=["one", "two", "three"])
    project.min_judgements = 1
    project.save()
    return project


def _import(project: Project, **fields: Any) -> Import:
    return Import.objects.create(project=project, file_name="f.jsonl", folder="imports/1", **fields)


def _run(project: Project, **fields: Any) -> TrainingRun:
    return TrainingRun.objects.create(
        project=project, method="oprm", trigger="button", config={}, config_digest="1", **fields
    )


def _version(project: Project) -> ModelVersion:
    run = _run(project, state=State.DONE)
    (run.folder / "model").mkdir(parents=True)
    (run.folder / "model" / "reward_config.json").write_text("{}")
    return ModelVersion.objects.create(
        project=project, run=run, method="oprm", number=1, kind="ordinal", gate_passed=True
    )


WRITES: dict[str, Callable[[Project, User], Any]] = {
    "the next card": lambda project, user: assignments_for(project=project, annotator=user),
    "undo": lambda project, user: judgement_undo(project=project, annotator=user),
    "settings": lambda project, user: project_save(project=project, actor=user),
    "upload": lambda project, user: import_start(
        project=project, files=[SimpleUploadedFile("a.jsonl", b"{}")], format="auto", created_by=user
    ),
    "confirm an import": lambda project, user: import_confirm(import_row=_import(project, state=State.DONE)),
    "retry an import": lambda project, user: import_retry(import_row=_import(project, state=State.FAILED)),
    "start a training": lambda project, user: run_start(project=project, method="oprm", trigger="button"),
    "resume a training": lambda project, user: run_resume(run=_run(project, state=State.FAILED)),
    "promote": lambda project, user: version_promote(version=_version(project), actor=user),
}


@pytest.mark.parametrize("write", WRITES)
def test_every_write_is_refused(write: str, busy: Project, admin: User) -> None:
    assert project_archive(project=busy, actor=admin)
    with pytest.raises(ProjectArchived, match="“Capitals” is archived: it can be read and exported"):
        WRITES[write](busy, admin)


def test_an_open_card_is_not_stored(busy: Project, annotator: User, client_of: ClientOf) -> None:
    [card] = assignments_for(project=busy, annotator=annotator, count=1)
    project_archive(project=busy)
    with pytest.raises(ProjectArchived):
        judgement_submit(key=card.key, annotator=annotator, verdict="tie")
    client, path = client_of(annotator), f"/p/capitals/annotate/{card.key}/"
    answer = client.post(path, {"verdict": "tie", **LEVELS}, headers={"HX-Request": "true"})
    assert (answer.status_code, answer["Content-Type"]) == (423, "text/plain; charset=utf-8")
    assert "is archived" in answer.content.decode()
    assert client.post(path, {"verdict": "tie", **LEVELS}).status_code == 403
    assert not Judgement.objects.exists()
    # Out of the archive the same card can be saved.
    project_unarchive(project=busy)
    assert client.post(path, {"verdict": "left", **LEVELS, "revision": "0"}).status_code == 302
    assert Judgement.objects.get().verdict in ("a", "b")


def test_an_open_level_is_not_stored(busy: Project, annotator: User) -> None:
    busy.asks = Project.Asks.LEVELS
    project_save(project=busy)
    [card] = assignments_for(project=busy, annotator=annotator, count=1)
    project_archive(project=busy)
    with pytest.raises(ProjectArchived):
        level_submit(key=card.key, annotator=annotator, level="good")
    assert not QualityLabel.objects.exists()


def test_what_is_under_way_is_cancelled(busy: Project, admin: User) -> None:
    waiting, running = _import(busy), _run(busy, state=State.RUNNING, started_at=timezone.now())
    project_archive(project=busy, actor=admin)
    waiting.refresh_from_db()
    running.refresh_from_db()
    assert waiting.state == State.CANCELLED
    assert running.cancel_requested
    # Its worker is shut down and hands it back: nobody takes it up.
    assert running.hand_back()
    assert not running.claim()
    running.refresh_from_db()
    assert running.state == State.CANCELLED


def test_an_import_that_began_before_writes_nothing(busy: Project, data_dir: Any) -> None:
    row = _import(busy, state=State.QUEUED, dry_run=False)
    folder = data_dir / row.folder
    folder.mkdir(parents=True)
    (folder / "f.jsonl").write_text('{"prompt": "New?", "chosen": "Yes.", "rejected": "No."}\n')
    Project.objects.update(archived_at=timezone.now())
    import_run(row)
    row.refresh_from_db()
    assert row.state == State.FAILED
    assert "is archived" in row.error
    assert not Prompt.objects.exclude(external_id="p1").exists()


def test_nothing_retrains_by_itself(busy: Project, annotator: User) -> None:
    [card] = assignments_for(project=busy, annotator=annotator, count=1)
    pair = card.pair
    assert pair is not None
    levels = {pair.response_a_id: "good", pair.response_b_id: "bad"}
    judgement_submit(key=card.key, annotator=annotator, verdict="a", levels=levels)
    busy.retrain_after_labels = 1
    busy.save()
    stale = Project.objects.get(pk=busy.pk)
    project_archive(project=busy)
    assert retrain_all_due() == []
    assert retrain_due(stale) == []
    project_unarchive(project=busy)
    assert [run.method for run in retrain_all_due()] == ["oprm"]


@pytest.mark.parametrize(
    "command",
    [
        ("import_data", "--project", "capitals", "none.jsonl"),
        ("simulate", "--project", "capitals"),
        ("train", "--project", "capitals", "--method", "oprm"),
    ],
)
def test_commands_say_so(command: tuple[str, ...], busy: Project) -> None:
    project_archive(project=busy)
    with pytest.raises(CommandError, match="is archived"):
        call_command(*command, stdout=StringIO())


def test_everything_stays_readable_and_exportable(
    busy: Project, admin: User, annotator: User, client_of: ClientOf
) -> None:
    client = client_of(admin)
    response, pair = Response.objects.all()[0], Pair.objects.all()[0]
    pages = ["", "responses/", f"responses/{response.pk}/", "pairs/", f"pairs/{pair.pk}/", "runs/", "exports/",
             "imports/", "people/", "settings/", "guidelines/", "audit/", "history/", "annotate/"]  # fmt: skip
    answer = client.post("/p/capitals/archive/", follow=True)
    assert "is archived. Everything stays readable" in answer.content.decode()
    for page in pages:
        found = client.get(f"/p/capitals/{page}")
        assert found.status_code == 200, page
        assert "this project can be read and exported" in found.content.decode(), page
    choice = {"format": "caliper", "file_type": "jsonl", "aggregation": "majority"}
    assert client.post("/p/capitals/exports/", choice).status_code == 302
    assert Export.objects.count() == 1
    card = client_of(annotator).get("/p/capitals/annotate/").content.decode()
    assert "This project is archived" in card
    assert 'class="judge' not in card
    home = client.get("/").content.decode()
    assert "1 archived project, to read and to export" in home
    assert "/p/capitals/annotate/" not in home


def test_archiving_is_for_admins_and_audited(
    busy: Project, admin: User, researcher: User, annotator: User, stranger: User, client_of: ClientOf
) -> None:
    for act in ("archive", "unarchive"):
        for user, code in ((researcher, 403), (annotator, 403), (stranger, 404)):
            assert client_of(user).post(f"/p/capitals/{act}/").status_code == code
        assert client_of(admin).get(f"/p/capitals/{act}/").status_code == 405
    client = client_of(admin)
    for act in ("archive", "archive", "unarchive", "unarchive"):
        assert client.post(f"/p/capitals/{act}/").status_code == 302
    entries = AuditEntry.objects.order_by("pk").values_list("actor_name", "action")
    assert list(entries) == [("adam", "project-archived"), ("adam", "project-unarchived")]


def test_a_copy_has_the_settings_and_no_data(
    busy: Project, make_user: Callable[..., User], annotator: User, researcher: User, client_of: ClientOf
) -> None:
    staff = make_user("sid", busy, "admin", is_staff=True)
    ghost = make_user("capitals:ghost", busy, "annotator", kind=User.Kind.IMPORTED, is_active=False)
    busy.guidelines, busy.reason_tags, busy.methods = "Be *fair*.", ["wrong", "rude"], ["bt", "oprm"]
    busy.training_options, busy.overlap = {"hardening": 0.3}, 5
    busy.save()
    client = client_of(staff)
    assert 'href="/p/capitals/copy/"' in client.get("/p/capitals/settings/").content.decode()
    answer = client.post("/p/capitals/copy/", {"name": "Capitals, again", "slug": "again", "people": "on"})
    assert answer["Location"] == "/p/again/settings/"
    new = Project.objects.get(slug="again")
    for field in Project._meta.concrete_fields:
        if field.name == "split_salt":
            assert new.split_salt != busy.split_salt
        elif field.name not in ("id", "name", "slug", "created_at"):
            assert getattr(new, field.attname) == getattr(busy, field.attname), field.name
    assert not Response.objects.of(new).exists()
    assert not Membership.objects.filter(project=new, user=ghost).exists()
    roles = set(Membership.objects.filter(project=new).values_list("user__username", "role"))
    assert roles == {("sid", "admin"), ("anna", "annotator"), ("rita", "researcher")}
    made = AuditEntry.objects.of(new).get(action="project-created")
    assert (made.actor, made.detail["copy_of"]) == (staff, "capitals")
    assert AuditEntry.objects.of(busy).get(action="project-copied").detail["copy"] == "again"


def test_a_copy_of_an_archived_project_is_open_and_has_only_its_maker(
    busy: Project, annotator: User, make_user: Callable[..., User]
) -> None:
    staff = make_user("sid", busy, "admin", is_staff=True)
    project_archive(project=busy)
    new = project_copy(project=busy, name="Next", slug="next", people=False, actor=staff)
    assert new.archived_at is None
    assert list(Membership.objects.filter(project=new).values_list("user__username", "role")) == [
        ("sid", "admin")
    ]


def test_who_may_copy(
    busy: Project, admin: User, make_user: Callable[..., User], client_of: ClientOf
) -> None:
    assert client_of(admin).get("/p/capitals/copy/").status_code == 403, "only staff make projects"
    assert "/copy/" not in client_of(admin).get("/p/capitals/settings/").content.decode()
    other = make_user("otto", is_staff=True)
    assert client_of(other).get("/p/capitals/copy/").status_code == 404


@pytest.mark.parametrize(
    ("slug", "words"),
    [
        ("capitals", "Another project has this address."),
        ("so so", "An address has only letters, digits, hyphens"),
        ("", "This field is required."),
    ],
)
def test_addresses_are_refused_in_plain_words(
    slug: str, words: str, busy: Project, make_user: Callable[..., User], client_of: ClientOf
) -> None:
    client = client_of(make_user("sid", busy, "admin", is_staff=True))
    for path, more in (("/p/capitals/copy/", {}), ("/new/", {"asks": "both", "overlap": 3})):
        page = client.post(path, {"name": "N", "slug": slug, **more}).content.decode()
        assert words in page
        assert (
            "slug" not in page.split("</form>")[1].replace('name="slug"', "").replace("id_slug", "").lower()
        )
