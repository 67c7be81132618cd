"""Starting runs, the gate, promoting and rolling back."""

import dataclasses
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from tests.training.conftest import metrics_of
from webapp import celery
from webapp.accounts.models import User
from webapp.corpus.models import Project, Prompt
from webapp.corpus.options import (
    BOUNDS,
    CHOICES,
    FLAGS,
    FURTHER,
    NAMED,
    NULL_MEANS,
    OPTIONS,
    PRESETS,
    WHOLE,
    Method,
    Tuning,
    further_settings,
)  # fmt: skip
from webapp.jobs import State
from webapp.training.forms import RunForm
from webapp.training.models import ModelVersion, TrainingRun
from webapp.training.services import (
    RunRefused,
    config_digest,
    run_config,
    run_resume,
    run_start,
    version_promote,
    version_publish,
)
from webapp.training.triggers import next_trainings, retrain_due

Make = Callable[..., Any]


def start(project: Project, method: str = "oprm", **config: Any) -> TrainingRun:
    return run_start(project=project, method=method, trigger="button", config=config)


# --- Run_start ---


def test_a_run_is_queued_and_sent_after_commit(
    labelled: Project, admin: User, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        run = run_start(project=labelled, method="oprm", trigger="button", created_by=admin)
        assert sent == []
    assert sent == [("workers.tasks.train_run", run.pk, "train")]
    assert (run.state, run.created_by, run.labels_seen) == (State.QUEUED, admin, 20)
    assert run.config == {
        "format": 1,
        "method": "oprm",
        "base_model": "all-MiniLM-L6-v2",
        "tuning": "tuned",
        "partition": [3, 6],
        "seed": 0,
        "split_salt": labelled.split_salt,
        "code_version": "0.9.0",
    }
    assert run.config_digest == config_digest(run.config)


def test_a_broker_that_is_down_loses_no_run(
    labelled: Project, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no broker")

    monkeypatch.setattr(celery.app, "send_task", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        run = start(labelled)
    assert TrainingRun.objects.get(pk=run.pk).state == State.QUEUED


def test_an_identical_queued_run_is_returned_instead_of_a_second(
    labelled: Project, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        first = start(labelled)
        assert start(labelled) == first
        assert start(labelled, seed=1) != first
    assert len(sent) == 2
    assert first.claim()
    assert start(labelled) != first, "one that runs already has an older snapshot"


def test_the_database_allows_one_waiting_run_of_a_kind(labelled: Project, make_run: Make) -> None:
    make_run(labelled)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_run(labelled)
    make_run(labelled, state=State.FAILED)


@pytest.mark.parametrize(
    ("method", "config", "field", "text"),
    [
        ("magic", {}, "method", "Unknown method 'magic'. Known: bt, clf, oprm, rgft, haf, grm, judge."),
        ("bt", {"warp": 1}, None, "Unknown option 'warp'."),
        ("bt", {"epochs": 0}, "epochs", "epochs is 0; it must lie between 1 and 1000."),
        ("bt", {"epochs": 2.5}, "epochs", "epochs must be a whole number, not 2.5."),
        ("bt", {"epochs": True}, "epochs", "epochs must be a whole number"),
        ("bt", {"learning_rate": float("nan")}, "learning_rate", "learning_rate is nan"),
        ("bt", {"learning_rate": "fast"}, "learning_rate", "learning_rate must be a number, not 'fast'."),
        ("bt", {"holdout": 0.95}, "holdout", "holdout is 0.95; it must lie between 0 and 0.9."),
        ("bt", {"hardening": 1.5}, "hardening", "hardening is 1.5; it must lie between 0 and 1."),
        ("bt", {"patience": 2.5}, "patience", "patience must be a whole number, not 2.5."),
        ("bt", {"reliability": "yes"}, "reliability", "reliability must be true or false, not 'yes'."),
        ("bt", {"votes": "few"}, "votes", "votes is 'few'; choose one of each, majority."),
        ("rgft", {"region": "oval"}, "region", "region is 'oval'; choose one of intersect, flood"),
        (
            "oprm",
            {"strength": "thresholds"},
            "strength",
            "strength = thresholds lie on the difference of two rewards",
        ),
        ("bt", {"region": "flood"}, "region", "region is an option of Region Flooding Tuning (RgFT) alone."),
        ("oprm", {"haf_head": "ordinal"}, "haf_head", "haf_head is an option of Hybrid (HaF-RM) alone."),
        ("bt", {"haf_head": "ordinal"}, "haf_head", "Leave it at its default for Bradley-Terry."),
        ("bt", {"tuning": "loud"}, "tuning", "Unknown tuning 'loud'."),
        ("bt", {"tuning": "frozen", "shard": True}, "further", "shard divides weights that learn"),
        (
            "bt",
            {"report_to": "visdom"},
            "report_to",
            "choose one of none, tensorboard, trackio, wandb, mlflow",
        ),
        ("bt", {"tuning": "lora"}, "tuning", "all-MiniLM-L6-v2 is a text encoder: choose frozen or tuned"),
        (
            "oprm",
            {"tuning": "frozen", "base_model": "starter"},
            "tuning",
            "starter is a causal language model",
        ),
        ("haf", {"base_model": "all-MiniLM-L6-v2"}, "base_model", "HaF-RM needs a causal language model"),
        ("rgft", {}, "method", "RgFT learns from quality levels, and this project has none yet."),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    labelled: Project, method: str, config: dict[str, Any], field: str | None, text: str
) -> None:
    with pytest.raises(RunRefused) as refused:
        start(labelled, method, **config)
    assert text in str(refused.value)
    assert refused.value.field == field
    assert TrainingRun.objects.count() == 0


def test_too_few_labels_are_refused(labelled: Project, project: Project, judge: Make) -> None:
    labelled.min_judgements = 23
    with pytest.raises(RunRefused, match=r"There are 20 judgements and levels, fewer than .* of 23"):
        start(labelled)
    judge(labelled, 0, levels=3)
    assert start(labelled, "rgft").labels_seen == 23


def test_no_judgement_at_all_is_refused(project: Project, make_prompt: Callable[..., Prompt]) -> None:
    make_prompt(project, "p1", texts=["one", "two"])
    with pytest.raises(RunRefused, match="There is no label yet"):
        start(project)


def test_defaults_come_from_the_project_where_they_fit(labelled: Project) -> None:
    labelled.tuning = "frozen"
    labelled.bad_to, labelled.normal_to = 2, 7
    assert run_config(labelled, "bt")["tuning"] == "frozen"
    haf = run_config(labelled, "haf")
    assert (haf["base_model"], haf["tuning"], haf["partition"]) == ("starter", "tuned", [2, 7])
    labelled.tuning = "lora"
    assert run_config(labelled, "haf")["tuning"] == "lora"
    assert run_config(labelled, "bt")["tuning"] == "tuned"
    assert run_config(labelled, "bt", {"epochs": None, "base_model": ""}) == run_config(labelled, "bt")


def test_options_left_out_are_the_projects_and_empty_ones_the_trainers(labelled: Project) -> None:
    plain = run_config(labelled, "bt")
    options: dict[str, Any] = {"reliability": False, "votes": "majority", "hardening": 0.2, "patience": 3}
    labelled.training_options = options
    assert run_config(labelled, "bt") == plain | options
    assert run_config(labelled, "bt", {"hardening": 0.0}) == plain | options | {"hardening": 0.0}
    assert run_config(labelled, "bt", dict.fromkeys(options)) == plain
    labelled.training_options = {"patience": -1}
    with pytest.raises(RunRefused, match="patience is -1; it must lie between 0 and 1000"):
        run_config(labelled, "bt")


# --- Resuming and handing back ---


def test_resume_queues_what_has_stopped_and_nothing_else(
    labelled: Project, make_run: Make, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    for state in (State.FAILED, State.LOST, State.CANCELLED):
        run = make_run(labelled, method="bt", state=state, error="it broke", cancel_requested=True)
        with django_capture_on_commit_callbacks(execute=True):
            assert run_resume(run=run)
        run.refresh_from_db()
        assert (run.state, run.error, run.cancel_requested) == (State.QUEUED, "", False)
        assert sent.pop() == ("workers.tasks.train_run", run.pk, "train")
        run.request_cancel()
    for state in (State.RUNNING, State.DONE):
        assert not run_resume(run=make_run(labelled, state=state))
    waits, failed = make_run(labelled), make_run(labelled, state=State.FAILED)
    assert not run_resume(run=failed), "the same training waits already"
    assert waits.state == State.QUEUED


def test_hand_back_is_only_the_holders(labelled: Project, make_run: Make) -> None:
    run = make_run(labelled)
    assert run.claim()
    other = TrainingRun.objects.get(pk=run.pk)
    assert run.hand_back()
    assert other.claim()
    assert not run.hand_back(), "somebody else runs it by now"
    assert not run.finish()
    assert not run.fail("too late")
    assert not run.stop()
    other.refresh_from_db()
    assert other.state == State.RUNNING


# --- Versions ---


def test_versions_are_numbered_per_method_and_compared_with_the_serving_one(
    labelled: Project, make_run: Make, make_version: Make
) -> None:
    make_version(labelled, 1, accuracy=0.8, is_serving=True)
    artifact = {"kind": "ordinal", "digest": "e" * 64, "temperature": 1.2, "tie": None}
    run = make_run(labelled, state=State.RUNNING)
    version = version_publish(run=run, metrics=metrics_of(0.5), artifact=artifact)
    assert (version.number, version.gate_passed, version.is_serving) == (2, False, False)
    other = version_publish(
        run=make_run(labelled, "bt"), metrics=metrics_of(0.6), artifact={**artifact, "kind": "scalar"}
    )
    assert (other.number, other.gate_passed) == (1, True)


def test_promote_and_roll_back_move_the_one_serving_version(labelled: Project, make_version: Make) -> None:
    first, second = make_version(labelled, 1), make_version(labelled, 2)
    assert version_promote(version=first)
    assert version_promote(version=second)
    assert not version_promote(version=second)
    assert list(ModelVersion.objects.filter(is_serving=True)) == [second]
    assert version_promote(version=first)
    assert list(ModelVersion.objects.filter(is_serving=True)) == [first]


def in_threads(count: int, action: Callable[[], Any]) -> list[Any]:
    """Results (or exceptions) of `action` in threads that start together, each with its own connection."""
    barrier = threading.Barrier(count)
    results: list[Any] = []

    def work() -> None:
        try:
            barrier.wait()
            results.append(action())
        except Exception as error:
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.django_db(transaction=True)
def test_many_promotions_at_once_leave_one_serving(
    labelled: Project, make_version: Make, sent: list[Any]
) -> None:
    versions = [make_version(labelled, number) for number in range(1, 6)]
    waiting = iter(versions)
    results = in_threads(5, lambda: version_promote(version=next(waiting)))
    assert results == [True] * 5
    assert ModelVersion.objects.filter(is_serving=True).count() == 1


@pytest.mark.django_db(transaction=True)
def test_many_starts_at_once_queue_one_run(labelled: Project, sent: list[Any]) -> None:
    results = in_threads(8, lambda: start(labelled).pk)
    assert len(set(results)) == 1
    assert TrainingRun.objects.count() == 1
    assert len(sent) == 1


# --- Methods that write their judgement ---


def test_a_generative_model_trains_adapters_unless_its_base_is_a_starter(labelled: Project) -> None:
    labelled.guidelines = "Short is good."
    config = run_config(labelled, "grm", {"samples": 4, "stages": "rft,meta", "kl": 0.05, "group": 8})
    assert (config["base_model"], config["tuning"], config["guidelines"]) == (
        "starter",
        "tuned",
        "Short is good.",
    )
    assert (config["samples"], config["stages"], config["kl"], config["group"]) == (4, "rft,meta", 0.05, 8)
    assert run_config(labelled, "grm", {"base_model": "org/instruct"})["tuning"] == "lora"
    labelled.tuning = "qlora"
    assert run_config(labelled, "grm", {"base_model": "org/instruct"})["tuning"] == "qlora"
    assert "guidelines" not in run_config(labelled, "oprm")


def test_a_judge_needs_no_label_and_never_retrains_by_itself(project: Project, sent: list[Any]) -> None:
    run = start(project, "judge", samples=2, max_new_tokens=64)
    assert (run.config["tuning"], run.config["samples"], run.config["max_new_tokens"]) == ("frozen", 2, 64)
    project.methods, project.retrain_after_labels, project.retrain_every_hours = ["judge"], 1, 1
    project.save()
    assert (next_trainings(project), retrain_due(project)) == ([], [])
    with pytest.raises(RunRefused, match="There is no label yet"):
        start(project, "grm")


def test_what_the_project_keeps_for_others_means_nothing_to_a_judge(labelled: Project) -> None:
    labelled.training_options = {
        "reliability": True,
        "votes": "majority",
        "hardening": 0.2,
        "preset": "paper",
    }
    for method in ("grm", "judge"):
        assert not set(labelled.training_options) & set(run_config(labelled, method))


@pytest.mark.parametrize(
    ("method", "options", "field", "text"),
    [
        (
            "grm",
            {"base_model": "all-MiniLM-L6-v2"},
            "base_model",
            "is a text encoder. Name an instruct model",
        ),
        ("judge", {"base_model": "all-MiniLM-L6-v2"}, "base_model", "Judge (no training) needs a causal"),
        ("grm", {"tuning": "frozen"}, "tuning", "choose tuned or lora or qlora instead of frozen"),
        ("judge", {"tuning": "lora"}, "tuning", "A judge learns nothing: leave tuning out"),
        ("judge", {"epochs": 2}, "epochs", "epochs means nothing to Judge (no training)."),
        ("judge", {"stages": "rft"}, "stages", "stages is an option of Generative (SPCT) alone"),
        (
            "oprm",
            {"samples": 2},
            "samples",
            "samples is an option of Generative (SPCT) and Judge (no training) alone",
        ),
        ("grm", {"cost_limit": 1.0}, "cost_limit", "cost_limit is an option of Judge (no training) alone"),
        ("judge", {"cost_limit": 1.0}, "cost_limit", "starter is computed here. Leave it out."),
        ("grm", {"crossfit": 5}, "crossfit", "crossfit means nothing to Generative (SPCT)"),
        ("grm", {"stages": "grpo,rft"}, "stages", "choose one of rft,grpo, rft,"),
        ("judge", {"samples": 65}, "samples", "samples is 65; it must lie between 1 and 64."),
    ],
)
def test_what_means_nothing_to_a_method_is_refused_beside_its_field(
    labelled: Project, method: str, options: dict[str, Any], field: str, text: str
) -> None:
    with pytest.raises(RunRefused, match=re.escape(text)) as refused:
        run_config(labelled, method, options)
    assert refused.value.field == field


def test_a_judge_neither_begins_with_learnt_weights_nor_is_a_start(
    labelled: Project, make_version: Any
) -> None:
    make_version(labelled, 1)
    with pytest.raises(RunRefused, match="version:oprm-1 has learnt labels"):
        run_config(labelled, "judge", {"base_model": "version:oprm-1"})
    ModelVersion.objects.update(method="judge")
    with pytest.raises(RunRefused, match="judge v1 can't be a start: a judge has no weights"):
        run_config(labelled, "grm", {"base_model": "version:judge-1"})


# --- What the form offers and what the trainer takes are written down twice, since web code loads no PyTorch ---


def test_the_form_and_the_trainer_know_the_same_settings() -> None:
    trainer = pytest.importorskip("workers.rewards.config")
    fields = {field.name: str(field.type) for field in dataclasses.fields(trainer.RunConfig)}
    not_for_people = {"format", "method", "partition", "snapshot_digest", "code_version", "held_out_groups"}
    not_for_people |= {"split_salt", "guidelines"}
    assert set(OPTIONS) - {"preset"} == set(fields) - not_for_people  # a preset sets some of them
    assert PRESETS == trainer.PRESETS
    assert len(OPTIONS) == len(set(OPTIONS)) == len(NAMED) + len(FURTHER)
    assert set(RunForm.base_fields) == {"method", "further", *NAMED}
    for name, (low, high) in BOUNDS.items():
        assert fields[name].removesuffix(" | None") == ("int" if name in WHOLE else "float"), name
        bought = {"method": "judge", "base_model": "endpoint:local"} if name.endswith("_limit") else {}
        for value in (low, high):
            trainer.RunConfig.from_dict({name: value, "tuning": "frozen", **bought})
        if name in FURTHER:
            with pytest.raises(trainer.Refused):
                trainer.RunConfig.from_dict({name: high * 2})
    for name in FLAGS:
        assert fields[name].removesuffix(" | None") == "bool", name
    for name, known in {
        "votes": trainer.VOTES,
        "region": trainer.REGIONS,
        "haf_head": trainer.HAF_HEADS,
        "backbone": trainer.ARCHITECTURES,
        "level_terms": trainer.LEVEL_TERMS,
        "strength": trainer.STRENGTHS,
        "preset": tuple(trainer.PRESETS),
        "optimizer": trainer.OPTIMIZERS,
        "report_to": trainer.TRACKERS,
        "stages": trainer.STAGES,
    }.items():
        assert sorted(CHOICES[name]) == sorted(known)
        if name != "preset":
            assert (
                CHOICES[name][0] == getattr(trainer.RunConfig().resolved("encoder", 384), name)
                or name == "backbone"
            )
    assert len(CHOICES) == 10
    assert sorted(Method.values) == sorted(trainer.METHODS)
    assert sorted(Tuning.values) == sorted(trainer.TUNINGS)
    # null is told apart only where it means something other than leaving the setting out.
    nullable = {name for name in FURTHER if fields[name].endswith("| None")}
    defaults = trainer.RunConfig()
    assert set(NULL_MEANS) == {name for name in nullable if getattr(defaults, name) is not None}
    assert defaults.reliability is True


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["warmup 0.05"], "“warmup 0.05” is no setting. Write KEY = VALUE"),
        (["warmpu = 0.05"], "Unknown setting 'warmpu' (= 0.05). Did you mean warmup?"),
        (["magic=1"], "Unknown setting 'magic' (= 1). Known: "),
        (["snapshot_digest = 1"], "Unknown setting 'snapshot_digest'"),
        (["epochs = 3"], "epochs has a field of its own (--epochs)"),
        (["warmup = .05"], "warmup is .05, which is no JSON. Write a number from 0 to 1, or null."),
        (["warmup = NaN"], "warmup is NaN, which is no JSON"),
        (
            ["backbone = causal"],
            'backbone is causal, which is no JSON. Write one of "auto", "encoder", "causal"',
        ),
        (["pool_prompt = yes"], "pool_prompt is yes, which is no JSON. Write true or false"),
        (["warmup = 2"], "warmup is 2; it must lie between 0 and 1"),
        (["warmup = 1e999"], "warmup is inf; it must lie between 0 and 1"),
        (["lora_rank = 1" + "0" * 400], "lora_rank is too large; it must lie between 1 and 4096"),
        (["lora_rank = 2.5"], "lora_rank must be a whole number, not 2.5"),
        (["pool_prompt = 1"], "pool_prompt must be true or false, not 1"),
        (['level_terms = "some"'], "level_terms is 'some'; choose one of all, unpaired, none"),
        (['warmup = ""'], "warmup must be a number, not ''"),
        (["warmup = 0.1", "warmup=0.2"], "warmup is set twice"),
    ],
)
def test_a_further_setting_is_refused_with_key_value_and_remedy(lines: list[str], words: str) -> None:
    with pytest.raises(RunRefused, match=re.escape(words)):
        further_settings(lines)


def test_further_settings_reach_the_trainers_config(labelled: Project) -> None:
    found = further_settings(
        ["warmup = 0.05", "", "dropout=null", 'backbone = "encoder"', "head_hidden = null"]
    )
    assert found == {"warmup": 0.05, "dropout": None, "backbone": "encoder", "head_hidden": None}
    config = run_config(labelled, "bt", found)
    assert (config["warmup"], config["dropout"], config["backbone"]) == (0.05, None, "encoder")
    assert "head_hidden" not in config
    trainer = pytest.importorskip("workers.rewards.config")
    assert trainer.RunConfig.from_dict(config).dropout is None
    with pytest.raises(RunRefused, match=r"alpha is an option of Hybrid \(HaF-RM\) alone"):
        run_config(labelled, "bt", further_settings(["alpha = 0.5"]))
