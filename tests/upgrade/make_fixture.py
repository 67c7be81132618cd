"""A populated database and data folder, made by the services of an older commit.

    python -m tests.upgrade.make_fixture COMMIT OUT.tar.gz

checks the commit out into a temporary git worktree, fills an installation there (people in every role, an import, a
project judged by simulated annotators and by hand, one finished training a method, one interrupted, exports), and packs
the SQLite database with the data folder. Nothing secret goes in: no signing key, no sessions, no passwords.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# The same on every machine, since runs remember where their base model was. It is not there when the test runs.
PLACE = Path("/tmp/caliper-upgrade-fixture")
PROMPTS = 14
LEFT_BEHIND = ("secret_key", "sign-ins.txt", "redis", "logs", "lock", "static", "base", "celerybeat-schedule")
SECRET_TABLES = ("django_session",)


def main() -> int:
    if sys.argv[1:] == ["populate"]:
        populate()
        return 0
    if sys.argv[1:] == ["interrupt"]:
        interrupt()
        return 0
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    commit, out = sys.argv[1], Path(sys.argv[2]).resolve()
    # Exclusive: a folder that somebody else made here is refused.
    PLACE.mkdir(mode=0o700)
    try:
        tree, data = PLACE / "tree", PLACE / "data"
        data.mkdir()
        git("worktree", "add", "--detach", str(tree), commit)
        environment = {
            **{
                key: value for key, value in os.environ.items() if not key.startswith(("REDIS_", "DATABASE_"))
            },
            "CALIPER_DATA_DIR": str(data),
            "CALIPER_CACHE_DIR": str(PLACE / "cache"),
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "PYTHONPATH": str(tree),
            "CALIPER_BASE_MODEL_DIRS": str(PLACE / "base"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        for step in ("populate", "interrupt"):
            subprocess.run(
                [sys.executable, str(Path(__file__).resolve()), step], cwd=tree, env=environment, check=True
            )
        pack(data, out)
    finally:
        subprocess.run(
            ["git", "worktree", "remove", "--force", str(PLACE / "tree")], cwd=REPOSITORY, check=False
        )
        shutil.rmtree(PLACE)
    print(f"{out}: {out.stat().st_size / 1024:,.0f} KB")
    return 0


def git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=REPOSITORY, check=True)


def pack(data: Path, out: Path) -> None:
    for name in LEFT_BEHIND:
        path = data / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with closing(sqlite3.connect(data / "db.sqlite3")) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in SECRET_TABLES:
            database.execute(f"DELETE FROM {table}")
        database.commit()
        counts = {
            table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in sorted(tables)
            if table.startswith(("accounts_", "corpus_", "labels_", "snapshots_", "training_", "ratings_"))
        }
        database.execute("VACUUM")
    (data / "fixture.json").write_text(json.dumps({"rows": counts}, indent=1) + "\n")
    with tarfile.open(out, "w:gz", compresslevel=9) as archive:
        for path in sorted(data.iterdir()):
            archive.add(path, path.name, filter=_nobodys)


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


# ---- in the older commit's own tree


def set_up() -> None:
    import django

    django.setup()
    from webapp import celery

    # No broker is asked: every job is carried out here, in turn.
    celery.app.send_task = lambda *words, **named: None


def populate() -> None:
    set_up()
    from django.conf import settings
    from django.core.management import call_command

    from webapp.accounts.models import User
    from webapp.corpus.models import Membership, Project
    from webapp.corpus.services import invitation_accept, invitation_create, membership_add, project_create

    assert Path.cwd() in Path(settings.BASE_DIR).parents or Path(settings.BASE_DIR) == Path.cwd()
    call_command("migrate", verbosity=0)
    corpus = demo_corpus(Path(settings.BASE_DIR) / "webapp/corpus/demo/corpus.jsonl")
    people = {name: User.objects.create_user(name) for name in ("ada", "rita", "anna", "amir", "stan")}
    people["ada"].is_staff = True
    people["ada"].save()
    project = Project(
        slug="plants",
        name="Plants & planets",
        description="A project of an older version",
        guidelines="# What you do here\n\n**Say which answer helps more.**",
        overlap=3,
        min_judgements=10,
        methods=["oprm", "bt"],
        base_model=f"folder:{make_encoder(corpus).name}",
    )
    project_create(project=project, created_by=people["ada"])
    membership_add(project=project, user=people["rita"], role=Membership.Role.RESEARCHER)
    membership_add(project=project, user=people["anna"], role=Membership.Role.ANNOTATOR)
    used = invitation_create(project=project, role="annotator", note="for Amir", created_by=people["ada"])
    invitation_accept(invitation=used, user=people["amir"])
    invitation_create(project=project, role="researcher", note="still open", created_by=people["ada"])
    project_create(
        project=Project(slug="levels", name="Levels only", asks="levels", overlap=1), created_by=people["ada"]
    )
    for slug in ("plants", "levels"):
        import_through_pages(Project.objects.get(slug=slug), corpus, people["ada"])
    call_command("simulate", project="plants", annotators=3, judgements=90, verbosity=0)
    for person in ("anna", "amir"):
        judge_by_hand(Project.objects.get(slug="plants"), people[person])
    judge_by_hand(Project.objects.get(slug="levels"), people["ada"], level=True)
    make_starter(project, corpus)
    for method in ("bt", "clf", "oprm", "rgft", "haf"):
        train(project, method)
    export_data(project, people["rita"])
    export_models(project, people["rita"])


def demo_corpus(path: Path) -> list[dict[str, Any]]:
    """The first prompts of the demonstration, their responses and pairs, and one line that no import takes."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = [row["id"] for row in rows if row["type"] == "prompt"][:PROMPTS]

    def wanted(row: dict[str, Any]) -> bool:
        if row["type"] == "pair":
            return row["a"].rsplit("-r", 1)[0] in names
        return row.get("prompt", row["id"]) in names

    return [*filter(wanted, rows), {"type": "response", "id": "orphan", "prompt": "nowhere", "text": "lost"}]


def words_of(corpus: list[dict[str, Any]]) -> list[str]:
    texts = [row.get("text", "") for row in corpus]
    texts += [message["content"] for row in corpus for message in row.get("messages", [])]
    return " ".join(texts).lower().split()


def make_encoder(corpus: list[dict[str, Any]]) -> Path:
    """A BERT of one layer over the corpus's commonest words."""
    from collections import Counter

    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = PLACE / "base" / "tiny"
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    common = [word for word, _ in Counter(words_of(corpus)).most_common(600) if word.isalpha()]
    vocabulary = list(dict.fromkeys([*special.values(), *"0123456789[].,:#?!\\", *common]))
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    return folder


def make_starter(project: Any, corpus: list[dict[str, Any]]) -> None:
    """The project's starter, smaller than a worker would make it."""
    from webapp.training.services import starter_path
    from workers.rewards.training.starter import build_starter_lm

    texts = [{"text": row["text"]} for row in corpus if row["type"] == "response"]
    target = starter_path(project)
    target.parent.mkdir(parents=True, exist_ok=True)
    build_starter_lm(texts, target, hidden_size=32, layers=1, vocabulary=400, epochs=1, seconds=5)


def import_through_pages(project: Any, corpus: list[dict[str, Any]], user: Any) -> None:
    """A preview, then the import itself, which leaves one row out."""
    from django.core.files.uploadedfile import SimpleUploadedFile

    from webapp.importing.services import import_confirm, import_run, import_start

    content = "".join(json.dumps(row) + "\n" for row in corpus).encode()
    if project.asks == "levels":
        content = "".join(json.dumps(row) + "\n" for row in corpus if row["type"] != "pair").encode()
    row = import_start(
        project=project, files=[SimpleUploadedFile("corpus.jsonl", content)], format="auto", created_by=user
    )
    import_run(row)
    row.refresh_from_db()
    assert import_confirm(import_row=row), row.error
    row.refresh_from_db()
    import_run(row)
    row.refresh_from_db()
    assert row.state == "done", row.error
    assert not row.dry_run
    left_alone = SimpleUploadedFile("nonsense.jsonl", b"{}\n")
    import_run(import_start(project=project, files=[left_alone], format="auto", created_by=user))


def judge_by_hand(project: Any, user: Any, *, level: bool = False) -> None:
    """Some answers, one corrected, one taken back; two cards stay open."""
    from webapp.labels.queue import assignments_for
    from webapp.labels.services import judgement_submit, judgement_undo, level_submit

    for number in range(6):
        card = assignments_for(project=project, annotator=user, count=2)[0]
        for attempt in range(2 if number == 1 else 1):
            if level:
                level_submit(key=card.key, annotator=user, level=("good", "bad")[attempt])
                continue
            assert card.pair is not None
            judgement_submit(
                key=card.key,
                annotator=user,
                verdict=("a", "tie")[attempt],
                comment="<b>clearer</b>",
                levels={card.pair.response_a_id: "good", card.pair.response_b_id: "bad"},
            )
    judgement_undo(project=project, annotator=user)
    assignments_for(project=project, annotator=user, count=2)


def start(project: Any, method: str, **options: Any) -> Any:
    from webapp.training.models import TrainingRun
    from webapp.training.services import run_start

    command = TrainingRun.Trigger.COMMAND
    return run_start(project=project, method=method, trigger=command, config=options, send=False)


def train(project: Any, method: str) -> None:
    from workers.runs import train as run_train

    run = start(project, method, epochs=2, max_length=64)
    run_train(run.pk)
    run.refresh_from_db()
    assert run.state == "done", f"{method}: {run.error}"


def export_data(project: Any, user: Any) -> None:
    from webapp.snapshots.exporting import export_run
    from webapp.snapshots.models import Export

    for format, file_type in (("judgements", "parquet"), ("caliper", "jsonl"), ("trl-explicit", "jsonl")):
        row = Export.objects.create(project=project, created_by=user, format=format, file_type=file_type)
        export_run(row)
        row.refresh_from_db()
        assert row.state == "done", row.error


def export_models(project: Any, user: Any) -> None:
    """The archive of one model, where that version can make them."""
    try:
        from webapp.training.models import ModelExport
        from workers.exports import export_model
    except ImportError:
        return
    from webapp.training.models import ModelVersion
    from webapp.training.services import model_export_start

    for format in ModelExport.Format.values:
        version = ModelVersion.objects.get(project=project, method="oprm")
        export = model_export_start(version=version, format=format, created_by=user)
        export_model(export.pk)
        export.refresh_from_db()
        assert export.state == "done", export.error


def interrupt() -> None:
    """A training that was stopped in its middle and left a checkpoint, as a worker that is shut down leaves it."""
    set_up()
    from webapp.corpus.models import Project
    from webapp.training.models import TrainingRun

    project = Project.objects.get(slug="plants")
    options = ["--project", "plants", "--method", "bt", "--base-model", "starter", "--epochs", "60"]
    command = [sys.executable, "manage.py", "train", *options, "--max-length", "64", "--inline"]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while (run := TrainingRun.objects.filter(project=project).latest("pk")).step < 5 or run.method != "bt":
        assert process.poll() is None, "the training to be interrupted has ended"
        assert time.monotonic() < deadline, "the training to be interrupted does not begin"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    run.refresh_from_db()
    assert run.state == "cancelled", (run.state, run.error)
    assert any((run.folder / "checkpoint").iterdir())


if __name__ == "__main__":
    raise SystemExit(main())
