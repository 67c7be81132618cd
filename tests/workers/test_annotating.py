"""A round of questions to a machine, through the task, the child process and an endpoint that is real HTTP."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rewards.generative.openai_double import Double
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt
from webapp.jobs import State
from webapp.labels.machine_models import MachineAnnotator, MachineJob
from webapp.labels.machines import machine_ask, machine_enrol, machine_resume, open_pairs
from webapp.labels.models import Judgement
from workers import annotating
from workers.rewards import annotate
from workers.tasks import ask_machine

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]


@pytest.fixture
def double(settings: Any, tmp_path: Path) -> Iterator[Double]:
    """An endpoint that finds the longer response better."""
    with Double() as double:
        settings.ENDPOINTS_FILE = double.toml(tmp_path / "endpoints.toml", input_price=1.0, output_price=2.0)
        yield double


@pytest.fixture
def machine(
    double: Double, project: Project, admin: User, make_prompt: Callable[..., Prompt]
) -> MachineAnnotator:
    project.guidelines = "Prefer what is true."
    project.save()
    for name in ("p", "q", "r"):
        make_prompt(project, name, ["Short.", f"A response of {name} that goes on for rather longer."])
    return machine_enrol(project=project, endpoint="endpoint:local", actor=admin)


@pytest.fixture
def asked(machine: MachineAnnotator, admin: User) -> Callable[..., MachineJob]:
    """asked(token_limit=...) queues a round about all pairs and carries it to its end."""

    def ask(**fields: Any) -> MachineJob:
        job = machine_ask(job=MachineJob(machine=machine, which="any", **fields), actor=admin)
        return carried(job)

    return ask


def carried(job: MachineJob) -> MachineJob:
    ask_machine(job.pk)
    job.refresh_from_db()
    return job


def test_both_orders_are_asked_and_what_they_agree_on_is_stored(
    asked: Callable[..., MachineJob], machine: MachineAnnotator, double: Double
) -> None:
    job = asked()
    assert (job.state, job.error) == (State.DONE, "")
    prompts = [body["messages"][0]["content"] for body in double.seen]
    assert len(prompts) == len(set(prompts)) == 6
    assert all("Prefer what is true." in prompt for prompt in prompts)
    judgements = Judgement.objects.values_list("annotator", "verdict", "source", "policy", "propensity")
    assert list(judgements) == [(machine.user_id, "b", "machine", "machine-any", 1.0)] * 3
    answer = machine.answers.first()
    assert answer is not None
    a, b = answer.scores_ab or (0, 0)
    assert a < b
    assert "the longer, the better" in answer.text_ba
    assert (job.usage["requests"], job.usage["currency"]) == (6, "USD")
    assert job.usage["cost"] == pytest.approx((job.usage["tokens_in"] + 2 * job.usage["tokens_out"]) / 1e6)
    assert not Pair.objects.exclude(judged=0, reserved=0).exists()
    assert not job.folder.exists()


@pytest.fixture
def in_process(settings: Any, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's program runs in this process, which spares the start of an interpreter."""

    def run(job: MachineJob, command: list[str], *, folder: Path, also: Any, **more: Any) -> int:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            status = annotate.main(command[3:])
        assert job.beat(**also())
        (folder / "log.txt").write_text(said.getvalue())
        return status

    monkeypatch.setattr(annotating, "supervise_job", run)
    monkeypatch.setattr(annotate.Stop, "listening", annotate.Stop)
    monkeypatch.setenv("CALIPER_ENDPOINTS", str(settings.ENDPOINTS_FILE))


@pytest.mark.usefixtures("in_process")
def test_a_budget_that_is_spent_stops_and_a_higher_one_goes_on_without_asking_again(
    asked: Callable[..., MachineJob], double: Double, admin: User
) -> None:
    job = asked(token_limit=3500)
    assert job.state == State.FAILED
    assert "The budget is spent" in job.error
    assert "press Resume" in job.error
    before = len(double.seen)
    assert 0 < before < 6
    assert job.usage["tokens_in"] > 0
    assert machine_resume(job=job, actor=admin, cost_limit=1.0, token_limit=None)
    assert carried(job).state == State.DONE
    assert len(double.seen) == 6
    assert (job.answers.count(), job.usage["requests"]) == (3, 6)


@pytest.mark.usefixtures("in_process")
def test_what_the_endpoint_refuses_is_said_and_the_key_stays_where_it_is(
    asked: Callable[..., MachineJob], double: Double
) -> None:
    double.always = "401"
    job = asked()
    assert job.state == State.FAILED
    assert "endpoint:local refuses" in job.error
    written = b"".join(path.read_bytes() for path in job.folder.rglob("*") if path.is_file())
    assert b"refused: endpoint:local" in written
    assert double.key.encode() not in written + job.error.encode() + json.dumps(job.usage).encode()


@pytest.mark.usefixtures("in_process")
def test_what_is_not_in_the_form_is_kept_as_unread(
    asked: Callable[..., MachineJob], machine: MachineAnnotator, double: Double
) -> None:
    double.always = "cut"
    job = asked(pairs=1)
    assert job.state == State.DONE
    answer = machine.answers.get()
    assert (answer.outcome, answer.scores_ab) == ("unread", None)
    assert "cut off" in answer.reason_ab
    assert not Judgement.objects.exists()


def test_one_round_at_a_time(machine: MachineAnnotator) -> None:
    other = MachineJob.objects.create(project=machine.project, machine=machine, state=State.RUNNING)
    user = User.objects.create(username="~second", kind=User.Kind.MACHINE)
    second = MachineAnnotator.objects.create(
        project=machine.project, user=user, endpoint=machine.endpoint, model="judge-2"
    )
    job = MachineJob.objects.create(project=machine.project, machine=second, which="any")
    assert (carried(job).state, job.waits_for) == (State.QUEUED, other.pk)
    MachineJob.objects.filter(pk=other.pk).update(state=State.DONE)
    assert carried(job).state == State.FAILED
    assert "now serves judge-1, and judge-2 was enrolled" in job.error


@pytest.mark.usefixtures("in_process")
def test_a_line_that_a_killed_process_left_unfinished_is_asked_again(
    asked: Callable[..., MachineJob], double: Double, admin: User
) -> None:
    double.plan.extend([""] * 3)
    double.always = "401"
    job = asked()
    assert job.state == State.FAILED
    stored, answers = job.answers.count(), job.folder / "answers.jsonl"
    whole = answers.read_bytes()
    answers.write_bytes(whole[:-9])
    double.always = ""
    assert machine_resume(job=job, actor=admin, cost_limit=None, token_limit=None)
    assert carried(job).state == State.DONE
    assert (stored < 3, job.answers.count()) == (True, 3)


@pytest.mark.usefixtures("in_process")
def test_a_pair_that_the_endpoint_failed_on_stays_open(
    asked: Callable[..., MachineJob], machine: MachineAnnotator, double: Double
) -> None:
    double.plan.extend([""] * 5)
    double.always = "400"
    job = asked()
    assert (job.state, job.usage["unanswered"], machine.answers.count()) == (State.DONE, 1, 2)
    assert open_pairs(machine, "any").count() == 1
