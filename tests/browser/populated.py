"""A project with something on every page, as after weeks of work: no worker and no training is needed to make it."""

import json
import math
import uuid
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from tests.rollouts import story
from tests.workers import fake_train
from webapp.accounts.models import User
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.corpus.models import (
    Import,
    Membership,
    Pair,
    Project,
    Prompt,
    Response,
    messages_digest,
    text_digest,
)
from webapp.corpus.services import invitation_create
from webapp.events.models import Delivery
from webapp.events.services import webhook_add
from webapp.importing.services import import_run
from webapp.jobs import State
from webapp.labels.machine_models import MachineAnnotator, MachineJob
from webapp.labels.machines import Said, answer_store
from webapp.labels.models import Assignment
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit
from webapp.labels.simulation import simulate
from webapp.operations.disk import disk_measure
from webapp.ratings.models import Prediction
from webapp.ratings.services import percentiles
from webapp.rollouts.models import RolloutSettings
from webapp.snapshots.exporting import export_run
from webapp.snapshots.models import DataPush, Export
from webapp.snapshots.services import snapshot_take
from webapp.training.models import ModelExport, ModelVersion, Remeasurement, TrainingRun
from webapp.training.services import version_promote

TEXTS = [
    "The **capital** is Paris, and `x = 1` is code; see [a page](https://example.org/a-rather-long-address).",
    "# A heading\n\n1. one\n2. two\n\n> quoted\n\n- [x] done\n- [ ] open\n\n$\\int_0^1 x^2\\,dx$",
    "```python\ndef a_rather_long_name(first, second, third, fourth):  # a comment that makes the line long\n"
    "    return [value for value in range(1000) if value % 2 == 0 and value not in (first, second)]\n```",
    "| city | country | people | river | mountain | since |\n|---|---|---|---|---|---|\n"
    "| Paris | France | 2,100,000 | Seine | Montmartre | 52 |",
    "مرحبا بالعالم! ![a cat](https://example.org/cat.png)",
]


def populate(project: Project, admin: User, annotator: User) -> None:
    """Prompts, labels, versions with reports, runs in every state, imports, exports, invitations, an audit log."""
    project.guidelines = (
        "# What you do here\n\n- **good**: correct\n- *bad*: wrong\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    project.description, project.retrain_after_labels = "Questions about cities.", 50
    project.save()
    _corpus(project)
    simulate(project=project, annotators=3, judgements=24, seed=1)
    first, second = assignments_for(project=project, annotator=annotator, count=2)
    assert first.pair is not None
    levels = {first.pair.response_a_id: "good", first.pair.response_b_id: "bad"}
    judgement_submit(
        key=first.key, annotator=annotator, verdict="a", strength=2, levels=levels, comment="It is clear."
    )
    judgement_submit(key=second.key, annotator=annotator, verdict="skip")
    for note in ("Ann", "Bo"):
        invitation_create(project=project, role="annotator", note=note, created_by=admin)
    _runs(project, admin)
    _imports(project, admin)
    _evaluation_sets(project, admin)
    _machine(project, admin)
    _webhook(project, admin)
    RolloutSettings.objects.create(project=project, on=True, per_hour=1000)
    story.tell(project, list(project.versions.order_by("pk")[:2]))
    for format in ("judgements", "trl-explicit"):
        export = Export.objects.create(project=project, created_by=admin, format=format, file_type="jsonl")
        export_run(export)
    Export.objects.create(project=project, created_by=admin, state=State.FAILED, error="The disk was full.")
    sent = {"url": "https://hub.example/x", "commit": "0" * 40, "private": True, "files": 2, "bytes": 9}
    for number, (state, report) in enumerate([(State.DONE, sent), (State.FAILED, {}), (State.RUNNING, {})]):
        DataPush.objects.create(
            export=export, created_by=admin, address=f"hf://datasets/org/a-{number}", state=state, report=report,
            error="Somebody changed it." if state == State.FAILED else "",
        )  # fmt: skip
    disk_measure()


def _corpus(project: Project) -> None:
    for number in range(8):
        messages = [
            {"role": "system", "content": "Be brief. " * (60 if number == 0 else 1)},
            {"role": "user", "content": f"What is the capital of country {number}?"},
        ]
        prompt = Prompt.objects.create(
            project=project, external_id=f"p{number}", messages=messages, digest=messages_digest(messages)
        )
        made = [
            Response.objects.create(
                project=project, prompt=prompt, external_id=f"p{number}-r{index}", text=f"{text}\n\n{number}",
                digest=text_digest(f"{text}{number}"), author=f"model-{index}",
            )
            for index, text in enumerate(TEXTS[number % 3 : number % 3 + 3])
        ]  # fmt: skip
        for index, (a, b) in enumerate([(0, 1), (1, 2), (0, 2)]):
            Pair.objects.create(
                project=project, external_id=f"p{number}-{index}", response_a=made[a], response_b=made[b],
                wanted=project.overlap,
            )  # fmt: skip


def _metrics(ordinal: bool) -> dict[str, Any]:
    share = {"value": 0.78, "low": 0.73, "high": 0.82, "n": 182}
    lower = {"value": 0.61, "low": 0.53, "high": 0.69, "n": 182}
    calibration = fake_train.calibration(ordinal=ordinal)
    pairs = {
        "n": 61, "accuracy": share, "length_baseline": lower, "near_equal_length": lower, "human_ceiling": share,
        "nll": {"value": 0.56, "floor": 0.4, "n": 61}, "brier": {"value": 0.19, "floor": 0.13, "n": 61},
        "ece": calibration["before"]["ece"],
    }  # fmt: skip
    levels = {"n": 120, "accuracy": 0.63, "quadratic_kappa": 0.58, "rps": 0.14}
    people = [
        {
            "annotator": f"simulated-{number % 4}",
            "judgements": 5,
            "error_rate": number / 100,
            "left_share": 0.5,
        }
        for number in range(24)
    ]
    return {
        "format": 1,
        "held_out": {"pairs": pairs, "levels": levels, "calibration": calibration},
        "robustness": fake_train.robustness(ordinal=ordinal, hardening=0.0),
        "annotators": people,
        "annotator_count": 30,
        "base": {"a_left": 0.5, "a_right": 0.3, "tie": 0.1, "both_bad": 0.1},
        "early_stopping": fake_train.early_stopping(3),
        "training": {
            "steps": 40,
            "judgements": 24,
            "levels": 1,
            "responses": 24,
            "dropped": {},
            "truncated": 1,
        },
    }


def _version(project: Project, admin: User, method: str, number: int, **fields: Any) -> ModelVersion:
    ordinal = method == "oprm"
    run = _run(
        project, method, State.DONE, metrics=_metrics(ordinal), created_by=admin, loss=0.4, step=40, total=40
    )
    run.folder.mkdir(parents=True)
    (run.folder / "model").mkdir()
    (run.folder / "model" / "reward_config.json").write_text("{}")
    lines = [{"step": step, "total": 40, "loss": 1 / step, "phase": "training"} for step in range(1, 41)]
    (run.folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.folder / "log.txt").write_text("step by step\n" * 80)
    version = ModelVersion.objects.create(
        project=project, run=run, method=method, number=number, kind="ordinal" if ordinal else "scalar",
        digest=f"{number}" * 64, metrics=run.metrics, **fields,
    )  # fmt: skip
    responses = list(Response.objects.of(project))
    scores = [1 + 8 * index / len(responses) for index in range(len(responses))]
    splits = Prediction.Split.values
    for index, (response, score, percentile) in enumerate(
        zip(responses, scores, percentiles(scores), strict=True)
    ):
        weights = [math.exp(-((rating - score) ** 2) / 2) for rating in range(1, 10)]
        Prediction.objects.create(
            version=version, response=response, score=score, percentile=percentile, split=splits[index % len(splits)],
            **({"expected": score, "spread": 1.2, "p": [w / sum(weights) for w in weights]} if ordinal else {}),
        )  # fmt: skip
    return version


def _run(project: Project, method: str, state: str, **fields: Any) -> TrainingRun:
    now = timezone.now()
    times = {} if state == State.QUEUED else {"started_at": now, "heartbeat_at": now}
    if state not in (State.QUEUED, State.RUNNING):
        times["finished_at"] = now
    return TrainingRun.objects.create(
        project=project, method=method, trigger="button", state=state, config={"method": method, "seed": 0},
        config_digest=f"{TrainingRun.objects.count()}", snapshot=snapshot_take(project=project), **times, **fields,
    )  # fmt: skip


def _runs(project: Project, admin: User) -> None:
    passed = {
        "gate_passed": True,
        "gate_reason": "Held-out pair accuracy 0.780 against 0.770 of the serving v1.",
    }
    held = {
        "gate_passed": False,
        "gate_reason": "Held-out pair accuracy 0.600 against 0.780 of the serving v2.",
    }
    first = _version(project, admin, "oprm", 1, **passed)
    second = _version(project, admin, "oprm", 2, **passed)
    _version(project, admin, "oprm", 3, **held)
    packed = _version(project, admin, "bt", 1, packed_at=timezone.now(), **passed)
    scalar = _version(project, admin, "bt", 2, **passed)
    for version in (first, second, scalar):
        version_promote(version=version)
    version_promote(version=first, actor=admin)
    second.metrics["split"] = {"unit": "group", "held_out": ["p1", "p2"]}
    second.save(update_fields=["metrics"])
    measured = {"held_out": _metrics(True)["held_out"], "responses": 6, "left_out": 1}
    Remeasurement.objects.create(
        version=first, rows_of=second, state=State.DONE, finished_at=timezone.now(), metrics=measured
    )
    _run(project, "oprm", State.DONE, same_as=packed.run)
    _run(project, "haf", State.FAILED, error="There is no base model x/y: choose one of those offered.")
    _run(project, "clf", State.RUNNING, phase="training", step=3, total=40, loss=0.9, tokens_per_second=812.0)
    _run(project, "oprm", State.QUEUED)
    _run(project, "grm", State.DONE, metrics={"generative": fake_train.generative({"method": "grm"})})
    asked = _run(
        project, "judge", State.FAILED, error="2.00 of 2.00 USD are spent.", live={"cost": 2.0, "kept": 1}
    )
    asked.config |= {"base_model": "endpoint:local", "cost_limit": 2.0, "guidelines": "Short is good.\n" * 9}
    asked.save(update_fields=["config"])
    report = {"format": 2, "archive_bytes": 1000}
    done = ModelExport.objects.create(
        version=first, format="caliper", created_by=admin, state=State.DONE, report=report
    )
    done.archive.parent.mkdir(parents=True, exist_ok=True)
    done.archive.write_bytes(b"zip")
    ModelExport.objects.create(
        version=first, format="transformers", state=State.FAILED, error="The disk was full."
    )


def _imports(project: Project, admin: User) -> None:
    rows = [
        {"prompt": f"What is {number}?", "chosen": "A **number**.", "rejected": "Nothing."}
        for number in range(9)
    ]
    lines = [json.dumps(row) for row in rows] + ['{"prompt": "Half a row"}', "no json at all"]
    for number, dry_run in enumerate((True, False, True)):
        row = Import.objects.create(
            project=project, created_by=admin, folder=f"imports/{number}", dry_run=dry_run,
            file_name="a-file-with-a-rather-long-name-from-some-collection.jsonl",
        )  # fmt: skip
        path = Path(settings.DATA_DIR) / row.folder / "file.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines if number < 2 else ["nothing"]))
        import_run(row)
    Import.objects.create(project=project, created_by=admin, folder="imports/9", file_name="waiting.jsonl")


def _evaluation_sets(project: Project, admin: User) -> None:
    """RewardBench 2 on three versions, a set that is being read, and one that nobody can read."""
    subsets = {"Factuality": 475, "Focus": 495, "Math": 183, "Precise IF": 160, "Safety": 450, "Ties": 102}
    done = EvaluationSet.objects.create(
        project=project, created_by=admin, name="RewardBench 2", folder="evaluation-sets/1", digest="1" * 64,
        state=State.DONE, format="rewardbench2", items=1865, responses=8460, subsets=subsets, refused=1,
        refusals=["test.parquet row 7: chosen must be a list of texts, not None"],
    )  # fmt: skip
    ks = [1, 2, 3, 4]
    for number, version in enumerate(ModelVersion.objects.of_method("oprm").filter(project=project)):
        lines = [
            {
                "name": name,
                "kind": "subset" if place else "overall",
                "n": n,
                "value": 0.31 + 0.04 * place + 0.02 * number,
                "low": 0.28 + 0.04 * place,
                "high": 0.36 + 0.04 * place,
                "length": 0.25,
            }
            for place, (name, n) in enumerate({"overall": 1865, **subsets}.items())
        ]
        curve = {
            "n": 4, "items": 1763, "k": ks, "model": [0.25 + 0.05 * number * (k - 1) + 0.02 * k for k in ks],
            "random": 0.25, "oracle": [0.25, 0.5, 0.75, 1.0], "length": [0.25, 0.25, 0.26, 0.26],
        }  # fmt: skip
        reading = {
            "responses": 8460, "truncated": 90, "cut": 40, "unknown": 0.06, "compared": 6000, "alike": 3,
        }  # fmt: skip
        near = {"n": 12, "without": lines[0]} if number else None
        Measurement.objects.create(
            evaluation_set=done, version=version, state=State.DONE, overall=lines[0], near_duplicates=12,
            result={"lines": lines, "best_of_n": curve, "reading": reading, "near_duplicates": near, "tied": 0.01},
        )  # fmt: skip
    for version, state in zip(
        ModelVersion.objects.of_method("bt").filter(project=project), ("running", "failed"), strict=True
    ):
        Measurement.objects.create(
            evaluation_set=done, version=version, state=state, step=3, total=8, heartbeat_at=timezone.now(),
            error="The disk was full." if state == "failed" else "",
        )  # fmt: skip
    for name, state in (("Our own pairs", State.QUEUED), ("Broken", State.FAILED)):
        EvaluationSet.objects.create(
            project=project, created_by=admin, name=name, folder=f"evaluation-sets/{name}", digest=name,
            state=state, error="It can't be used: a.json is not JSON." if state == State.FAILED else "",
        )  # fmt: skip


ENDPOINT = (
    '[local]\nurl = "http://127.0.0.1:9/v1"\nmodel = "judge-1"\ninput_price = 1.0\noutput_price = 2.0\n'
)


def _machine(project: Project, admin: User) -> None:
    """A machine annotator with answers of every outcome, and rounds that are done and that ran out of their budget."""
    user = User.objects.create(
        username="~capitals:judge-1 (machine)", first_name="local: judge-1", kind=User.Kind.MACHINE
    )
    machine = MachineAnnotator.objects.create(
        project=project, user=user, endpoint="endpoint:local", model="judge-1", enrolled_by=admin
    )
    usage = {"requests": 44, "tokens_in": 31_000, "tokens_out": 9_000, "cost": 0.049, "currency": "USD"}
    same: dict[str, Any] = {"project": project, "machine": machine, "created_by": admin, "usage": usage}
    job = MachineJob.objects.create(state=State.DONE, pairs=20, **same)
    MachineJob.objects.create(
        state=State.FAILED, pairs=500, cost_limit=0.05, error="The budget is spent. Press Resume.", **same
    )
    said = [((8, 2), (7, 3)), ((3, 8), (3, 8)), ((6, 6), (5, 5)), ((8, 2), (2, 8)), ((8, 2), None)]
    for number, pair in enumerate(Pair.objects.of(project).order_by("pk")[:20]):
        ab, ba = (
            Said(f"{TEXTS[number % 3]}\n\n\\boxed{{{scores}}}", scores, "" if scores else "it has no box")
            for scores in said[number % 5]
        )
        answer_store(job=job, pair_id=pair.pk, ab=ab, ba=ba, policy="machine-any", propensity=0.8)


def judged_card(project: Project, annotator: User) -> str:
    """The key of a card that this annotator has answered."""
    done = Assignment.objects.filter(project=project, annotator=annotator, state=Assignment.State.DONE)
    return str(done.order_by("pk")[0].key)


def empty_project(admin: User) -> Project:
    project = Project.objects.create(slug="empty", name="Empty", methods=["oprm"])
    Membership.objects.create(project=project, user=admin, role=Membership.Role.ADMIN)
    return project


def _webhook(project: Project, admin: User) -> None:
    """One that fails: a delivery in each state."""
    url = "https://hooks.example.org/a/rather/long/address?token=that-goes-on-and-on-without-a-place-to-break"
    hook = webhook_add(project=project, url=url, kinds=["judgement.created", "run.finished"], actor=admin)
    for state in Delivery.State.values:
        delivery = hook.delivery("run.finished", {"run": 1}, event_id=uuid.uuid4(), at=timezone.now())
        delivery.state, delivery.attempts, delivery.last_error = state, 3, "It answered 500."
        delivery.save()
    project.webhooks.update(failing_since=timezone.now())
