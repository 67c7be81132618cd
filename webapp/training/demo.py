"""The demonstration project: its corpus, its simulated annotators, its first models. Made once per installation."""

import secrets
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.db import transaction

from webapp.accounts.models import User
from webapp.corpus.models import Import, Membership, Method, Pair, Project
from webapp.importing.services import import_run
from webapp.labels.models import Judgement
from webapp.labels.simulation import simulate
from webapp.training.models import TrainingRun
from webapp.training.services import run_start

SLUG = "demo"
CORPUS = Path(__file__).resolve().parent.parent / "corpus" / "demo" / "corpus.jsonl"
SIMULATED_ANNOTATORS = 6
# What the simulated annotators leave for people to try.
SHARE_JUDGED = 0.8

# A head on a frozen encoder takes seconds, so that no page stays empty; the tuned models that follow are better by far
# and pass the gate before the visitor's eyes (held-out accuracy .64 -> .88 for OPRM).
_FROZEN = {"tuning": "frozen"}
FIRST_RUNS: list[tuple[Method, dict[str, str] | None]] = [
    (Method.OPRM, _FROZEN),
    (Method.BT, _FROZEN),
    (Method.RGFT, _FROZEN),
    (Method.CLF, _FROZEN),
    (Method.OPRM, None),
    (Method.HAF, None),
    (Method.BT, None),
    (Method.RGFT, None),
    (Method.CLF, None),
]

GUIDELINES = """
# What you do here

You see a question and two answers. **Say which answer helps the asker more**, and how good each one is on its own.

- **good**: correct, complete enough, a pleasure to read. You would send it yourself.
- **normal**: usable, but something is missing, vague or clumsy.
- **bad**: wrong, off the topic, empty, rude or unsafe.

Length is not quality. Code must work. A wrong answer in a fine style is still *bad*.
Take *tie* when both help equally, *both bad* when neither does, *skip* when you cannot tell.
"""


def sign_ins_path() -> Path:
    return settings.DATA_DIR / "sign-ins.txt"


def _people_create(project: Project) -> None:
    """An admin, an annotator and a researcher with passwords drawn for this installation."""
    people = {
        "admin": [Membership.Role.ADMIN],
        "annotator": [Membership.Role.ANNOTATOR],
        "researcher": [Membership.Role.RESEARCHER],
    }
    lines = []
    for name, roles in people.items():
        password = "-".join(secrets.token_hex(2) for _ in range(3))
        user = User.objects.create_user(
            name, password=password, is_staff=name == "admin", is_superuser=name == "admin"
        )
        for role in roles:
            Membership.objects.create(project=project, user=user, role=role)
        lines.append(f"{name:<12}{password}\n")
    path = sign_ins_path()
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text("".join(lines))


def demo_seed(*, say: Callable[[str], None] = lambda text: None, train: bool = True) -> bool:
    """Make what is missing of the demonstration; False if nothing was.

    Each step is skipped when its result is there, so that an interrupted first start goes on where it stopped.
    An installation that has people but no demonstration does not get one.
    """
    project = Project.objects.filter(slug=SLUG).first()
    if project is None:
        if User.objects.filter(kind=User.Kind.PERSON).exists():
            return False
        with transaction.atomic():
            project = Project.objects.create(
                slug=SLUG,
                name="Demonstration",
                description="Everyday questions with answers of clearly different quality, "
                "judged by simulated annotators.",
                guidelines=GUIDELINES.strip(),
                methods=[Method.OPRM.value, Method.BT.value],
                retrain_after_labels=50,
                # Every installation's demonstration has the same test set, so its figures can be compared.
                split_salt=SLUG,
            )
            _people_create(project)
    if TrainingRun.objects.filter(project=project).exists():
        return False
    if not Pair.objects.of(project).exists():
        say("importing the demonstration's prompts and responses")
        _corpus_import(project)
    wanted = round(SHARE_JUDGED * Pair.objects.of(project).count() * project.overlap)
    missing = wanted - Judgement.objects.verdicts().filter(pair__project=project).count()
    if missing > 0:
        say(f"{SIMULATED_ANNOTATORS} simulated annotators judge it ({missing} judgements)")
        simulate(project=project, annotators=SIMULATED_ANNOTATORS, judgements=missing, sharpness=0.7)
    if train:
        say("queueing the first trainings: quick heads for every page, then better models")
        for method, config in FIRST_RUNS:
            run_start(
                project=project, method=method.value, trigger=TrainingRun.Trigger.COMMAND, config=config
            )
    return True


def _corpus_import(project: Project) -> None:
    row = Import.objects.create(
        project=project, file_name=CORPUS.name, folder="", format=Import.Format.CALIPER, dry_run=False
    )
    row.folder = f"imports/{row.pk}"
    row.save(update_fields=["folder"])
    folder = settings.DATA_DIR / row.folder
    folder.mkdir(parents=True)
    (folder / CORPUS.name).write_bytes(CORPUS.read_bytes())
    import_run(row)
    row.refresh_from_db()
    if row.error:
        raise RuntimeError(f"the demonstration could not be imported: {row.error}")
