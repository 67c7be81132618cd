"""Starting, publishing, gating and promoting: every write to runs and versions that is more than one arrow."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max, Sum
from django.utils import timezone

from webapp import __version__
from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.audit import COMMAND, Action, audit
from webapp.corpus.base_models import (
    FOLDER,
    REFUSAL,
    STARTER,
    FolderModel,
    base_model_folder,
    base_model_named,
    base_model_public,
    endpoint_refusal,
    folder_model,
    version_named,
)
from webapp.corpus.counters import judged_by_person
from webapp.corpus.endpoints import endpoint_named
from webapp.corpus.models import Project, Response
from webapp.corpus.options import (
    ADAPTED,
    ENDPOINT,
    FOLDS,
    GENERATIVE,
    LEARNING,
    PRESETS,
    TRAINER_OPTIONS,
    Method,
    RunRefused,
    Tuning,
    check_options,
    given_options,
    project_options,
)
from webapp.events.models import Kind
from webapp.events.recording import event_record
from webapp.jobs import State
from webapp.labels.models import Judgement, QualityLabel
from webapp.training.gate import gate_check
from webapp.training.models import ModelExport, ModelVersion, TrainingRun
from webapp.training.same_rows import held_out_of, same_rows
from webapp.words import counted

CONFIG_FORMAT = 1

LIMITS = ("cost_limit", "token_limit")
"""The budget of a judge over an endpoint: it changes no result, so a run may go on with another."""

_GONE_REMEDY = "Restore the data folder from a backup, or train again."

ENCODERS = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
"""Base models known to be text encoders, so that a misfit is refused before a worker is asked."""


class VersionRefused(Exception):
    """A version that can't do what was asked of it; the message says why and what to do."""


def label_counts(project: Project) -> tuple[int, int]:
    """How many judgements (no skips) and quality levels a snapshot taken now would hold."""
    counted = judged_by_person(project.pk) if project.asks_pairs else None
    if counted is not None:
        # In a large project these are many rows, and the queue has their numbers.
        return sum(counted.values()), Response.objects.of(project).aggregate(n=Sum("labelled"))["n"] or 0
    judgements = Judgement.objects.verdicts().filter(pair__project=project).count()
    levels = QualityLabel.objects.current().filter(response__project=project).count()
    return judgements, levels


def run_config(project: Project, method: str, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """What RUN_DIR/config.json gets, less the snapshot's digest. Raises RunRefused.

    Options left out are the project's. Empty ones are the trainer's defaults, but for base model and tuning, which
    every project has.
    """
    options = given_options({**project_options(project.training_options, method), **(overrides or {})})
    if method not in Method.values:
        raise RunRefused(f"Unknown method {method!r}. Known: {', '.join(Method.values)}.", "method")
    check_options(method, options)

    causal = method in (Method.HAF, *GENERATIVE)
    default_base = project.causal_base_model if causal else project.base_model
    base_model = base_model_named(str(options.get("base_model", default_base)))
    if refusal := endpoint_refusal(method, base_model):
        raise RunRefused(refusal, "base_model")
    if method == Method.JUDGE:
        _check_judge(base_model, options)
    known = _known_base(project, base_model)
    backbone = known.backbone
    if causal and backbone == "encoder":
        name = "HaF-RM" if method == Method.HAF else Method(method).label
        instead = (
            "Name an instruct model, or choose another method."
            if method in GENERATIVE
            else f"Name a causal one, or “{STARTER}” for a tiny one made from this project's texts."
        )
        raise RunRefused(
            f"{name} needs a causal language model, and {base_model} is a text encoder. {instead}",
            "base_model",
        )
    if (
        method in (Method.HAF, Method.OPRM, Method.RGFT, *GENERATIVE)
        and backbone == "causal"
        and not known.writes
    ):
        raise RunRefused(
            f"{Method(method).label} needs a language model's own head, and {base_model} has none. "
            "Choose the language model that it was made from, or Bradley-Terry.",
            "base_model",
        )
    config: dict[str, Any] = {
        "format": CONFIG_FORMAT,
        "method": str(method),
        "base_model": base_model,
        "tuning": _tuning(project, method, base_model, backbone, options.get("tuning")),
        "partition": [project.bad_to, project.normal_to],
        "seed": 0,
        # a training that divides otherwise is another one
        "split_salt": project.split_salt,
        "code_version": __version__,
    }
    options = PRESETS.get(options.get("preset", ""), {}) | options
    config.update({name: options[name] for name in TRAINER_OPTIONS if name in options})
    if method in GENERATIVE:
        config["guidelines"] = project.guidelines
    if config.get("crossfit") not in (None, 0, FOLDS):
        raise RunRefused(f"crossfit is {config['crossfit']}: it must be 0 or {FOLDS}.", "crossfit")
    if config.get("crossfit") and version_named(base_model) is not None:
        raise RunRefused(
            f"{base_model} has seen labels, so no fold of a cross-fitting could begin without: start from its base "
            "model, or leave cross-fitting out.",
            "crossfit",
        )
    _check_rank(project, config)
    return config


def _check_judge(base_model: str, options: Mapping[str, Any]) -> None:
    """Raises RunRefused for a judge that has learnt from labels, and for a limit where nothing is bought."""
    if version_named(base_model) is not None:
        raise RunRefused(
            f"{base_model} has learnt labels, and a judge is measured on all of them. Name a language model "
            "or an endpoint, or go on training it by GRM.",
            "base_model",
        )
    for name in LIMITS:
        if name in options and not base_model.startswith(ENDPOINT):
            raise RunRefused(
                f"{name} ends what an endpoint is asked, and {base_model} is computed here. Leave it out.",
                name,
            )
    endpoint = endpoint_named(base_model)
    if "cost_limit" in options and endpoint is not None and endpoint.cost(0, 0) is None:
        raise RunRefused(
            f"cost_limit needs the prices of {base_model}, which its operator has not given. Set token_limit instead.",
            "cost_limit",
        )


def version_start(project: Project, name: str) -> ModelVersion | None:
    """The project's own version that version:METHOD-NUMBER names, as a start for a training; None for other names.

    Raises RunRefused for one that the project doesn't have, in words that don't tell whether another project has it,
    and for one that can't be a start.
    """
    if version_named(name) is None:
        return None
    version = _version(project.pk, name)
    if version is None:
        raise RunRefused(REFUSAL, "base_model")
    if version.method == Method.JUDGE:
        raise RunRefused(
            f"{version} can't be a start: a judge has no weights of its own. Start from its base model.",
            "base_model",
        )
    if not version.is_there:
        raise RunRefused(f"{version} can't be a start: its files are gone. {_GONE_REMEDY}", "base_model")
    if not version.held_out_groups:
        # What the next training holds out would be among the labels that this one has learnt.
        raise RunRefused(
            f"{version} can't be a start: it did not hold out whole groups, so nothing that is measured afterwards "
            "would be new to it. Start from its base model.",
            "base_model",
        )
    try:
        version_base(version)
    except VersionRefused as refusal:
        raise RunRefused(f"It can't be a start: {refusal}", "base_model") from None
    return version


def base_folder(project: Project, name: str) -> Path | None:
    """Where a project's base model lies on this machine; None for a packaged name and a hub id, which need no folder.

    The starter's folder may not have been made yet. Raises RunRefused for every name that may not be used.
    """
    named = base_model_named(name)
    if named == STARTER:
        return starter_path(project)
    if (version := version_start(project, named)) is not None:
        return version.path
    return base_model_folder(named) if named.startswith(FOLDER) else None


def _version(project_id: int, name: str) -> ModelVersion | None:
    """The project's version of this start name, if it has one."""
    if (named := version_named(name)) is None:
        return None
    method, number = named
    return ModelVersion.objects.filter(project=project_id, method=method, number=number).first()


def version_base(version: ModelVersion) -> Path | None:
    """Where the base model below a version's adapters lies; None where it needs no folder here: whole weights, the hub.

    Raises VersionRefused where it is gone.
    """
    record = version.artifact.get("base")
    if not isinstance(record, dict):
        return None
    kept = version.run.folder / "base"
    if kept.is_dir() and not kept.is_symlink():
        return kept  # a starter's own files (workers.bases): that may be made anew
    name, began = str(record.get("name")), str(version.run.config.get("base_model"))
    start = _version(version.project_id, began)
    if start is not None and isinstance(start.artifact.get("base"), dict):
        return version_base(start)  # the same adapters went on
    found: Path | None = None
    if began.startswith(FOLDER) and (folder := base_model_folder(began)) and (folder / "base").is_dir():
        found = folder / "base"  # of a version in Caliper's format
    elif name == STARTER:
        found = starter_path(version.project)
    elif name.startswith(FOLDER):
        found = base_model_folder(name)
    elif (below := _version(version.project_id, name)) is not None:
        found = below.path
    elif base_model_public(name) == name and version_named(name) is None:
        return None
    if found is None or not (found / "config.json").is_file():
        raise VersionRefused(
            f"{version} is adapters over {base_model_public(name)}, and that base model's files are gone. Put them "
            "back, or train again."
        )
    return found


def _known_base(project: Project, base_model: str) -> FolderModel:
    """What is known of a base model without loading it. Raises RunRefused as base_folder.

    Of a hub id it is known once a version was made from it.
    """
    if base_model in ENCODERS:
        return FolderModel("encoder")
    if base_model == STARTER or base_model.startswith(ENDPOINT):
        return FolderModel("causal")
    if base_model.startswith(FOLDER):
        folder = base_model_folder(base_model)
        return folder_model(folder) if folder is not None else FolderModel()
    start = version_start(project, base_model)
    version = start or ModelVersion.objects.filter(run__config__base_model=base_model).first()
    backbone = version.artifact.get("backbone") if version is not None else None
    writes = start is None or folder_model(start.path).writes
    return FolderModel(backbone if backbone in ("encoder", "causal") else None, writes)


def _tuning(project: Project, method: str, base_model: str, backbone: str | None, asked: str | None) -> str:
    """The tuning asked for, else the project's where it fits the base model. Raises RunRefused for a misfit."""
    if asked is not None and asked not in Tuning.values:
        raise RunRefused(f"Unknown tuning {asked!r}. Known: {', '.join(Tuning.values)}.", "tuning")
    if method == Method.JUDGE:
        if asked not in (None, Tuning.FROZEN):
            raise RunRefused(f"A judge learns nothing: leave tuning out instead of {asked}.", "tuning")
        return str(Tuning.FROZEN)
    causal = method in (Method.HAF, Method.GRM) or backbone == "causal"
    misfits = (Tuning.FROZEN,) if causal else ADAPTED if backbone == "encoder" else ()
    if asked is not None and asked in misfits:
        what = "a causal language model" if causal else "a text encoder"
        fitting = " or ".join(tuning.value for tuning in Tuning if tuning not in misfits)
        raise RunRefused(f"{base_model} is {what}: choose {fitting} instead of {asked}.", "tuning")
    wanted = asked or project.tuning
    if method == Method.GRM and asked is None and wanted not in ADAPTED:
        return _tuning_generative(project, base_model)
    return str(Tuning.TUNED if wanted in misfits else wanted)


def _tuning_generative(project: Project, base_model: str) -> str:
    """Adapters over a pretrained model; all weights of a starter, and of a version that was trained so."""
    start = _version(project.pk, base_model)
    whole = base_model == STARTER or (start is not None and start.run.config.get("tuning") not in ADAPTED)
    return str(Tuning.TUNED if whole else Tuning.LORA)


def _check_rank(project: Project, config: Mapping[str, Any]) -> None:
    """Raises RunRefused where a version's adapters would go on with another rank or alpha than they have."""
    version = version_start(project, config["base_model"]) if config["tuning"] in ADAPTED else None
    for name, value in (version.adapter_shape if version is not None else {}).items():
        if config.get(name) not in (None, value):
            raise RunRefused(
                f"{name} is {config[name]}, but the adapters of {config['base_model']}, which go on learning, have "
                f"{value}. Leave {name} out, or start from the version's base model.",
                name,
            )


def config_digest(config: dict[str, Any]) -> str:
    """sha256 of the config's canonical JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def run_refusal(project: Project, method: str, config: Mapping[str, Any]) -> str:
    """Why the project's labels don't allow a training with this run_config now; empty if they do."""
    if method not in LEARNING:
        return ""
    judgements, levels = label_counts(project)
    if method == Method.RGFT and not levels:
        return (
            "RgFT learns from quality levels, and this project has none yet. Let annotators give levels "
            "(Settings: what is asked), or train OPRM, which needs none."
        )
    if not judgements and not levels:
        return "There is no label yet. Let annotators judge some pairs or give levels, or import votes."
    learned = config.get("level_terms") or ("none" if method == Method.OPRM else "all")
    if not judgements and learned == "none":
        return (
            f"{Method(method).label} without level terms learns from judgements of pairs, and this project has levels "
            'alone. Write level_terms = "all" under Further settings, or train Bradley-Terry.'
        )
    return too_few_labels(project, judgements + levels)


def too_few_labels(project: Project, labels: int) -> str:
    """The refusal of a snapshot below the project's minimum; empty if there are enough."""
    if labels >= project.min_judgements:
        return ""
    return (
        f"There {'is' if labels == 1 else 'are'} {counted(labels, 'judgement or level', 'judgements and levels')}, "
        f"fewer than this project's minimum of {project.min_judgements:,}. "
        "Collect more, or lower the minimum in Settings."
    )


@transaction.atomic
def run_start(
    *,
    project: Project,
    method: str,
    trigger: str,
    created_by: User | None = None,
    config: dict[str, Any] | None = None,
    send: bool = True,
) -> TrainingRun:
    """Queue a training; an identical run that already waits is returned instead of a second. Raises RunRefused.

    `config` overrides some of the project's options. `send=False` leaves the task to the caller.
    """
    check_not_archived(project)
    resolved = run_config(project, method, config)
    if refusal := run_refusal(project, method, resolved):
        raise RunRefused(refusal, "method" if method == Method.RGFT else None)
    digest = config_digest(resolved)
    waiting = TrainingRun.objects.filter(project=project, config_digest=digest, state=State.QUEUED)
    if (run := waiting.first()) is None:
        try:
            with transaction.atomic():
                run = TrainingRun.objects.create(
                    project=project,
                    method=method,
                    trigger=trigger,
                    created_by=created_by,
                    config=resolved,
                    config_digest=digest,
                    labels_seen=sum(label_counts(project)),
                )
        except IntegrityError:
            # Somebody queued the same between our look and our insert.
            return waiting.get()
        told = {
            name: value for name, value in resolved.items() if name != "guidelines"
        }  # a text, not a choice
        audit(
            project=project,
            actor=created_by or (COMMAND if trigger == TrainingRun.Trigger.COMMAND else None),
            action=Action.TRAINING_STARTED,
            detail={"run": run.pk, "method": run.method, "trigger": run.trigger, "config": told},
        )
        if send:
            run.enqueue()
    return run


@transaction.atomic
def run_resume(
    *, run: TrainingRun, actor: User | None = None, limits: Mapping[str, float | None] | None = None
) -> bool:
    """Queue a FAILED, LOST or CANCELLED run again; it goes on from its checkpoint where there is one.

    `limits`: the budget from now on of a judge over an endpoint, some of LIMITS (None: no such limit). Nothing else of
    a run may change. False: it is in another state by now, or the same training already waits. Raises RunRefused.
    """
    check_not_archived(run.project)
    config = run.config
    if limits:
        config = {name: value for name, value in config.items() if name not in limits} | given_options(limits)
        check_options(run.method, {name: config[name] for name in LIMITS if name in config})
        _check_judge(config["base_model"], config)
    try:
        with transaction.atomic():
            moved = run.requeue()
            if moved and config != run.config:
                TrainingRun.objects.filter(pk=run.pk).update(
                    config=config, config_digest=config_digest(config)
                )
    except IntegrityError:
        return False
    if moved:
        audit(
            project=run.project,
            actor=actor,
            action=Action.TRAINING_RESUMED,
            detail={"run": run.pk} | dict(limits or {}),
        )
    return moved


@transaction.atomic
def run_cancel(*, run: TrainingRun, actor: User | None = None) -> bool:
    """Ask a queued or running training to stop. False: it has ended."""
    asked = run.request_cancel()
    if asked:
        audit(project=run.project, actor=actor, action=Action.TRAINING_CANCELLED, detail={"run": run.pk})
    return asked


def finished_twin(run: TrainingRun) -> TrainingRun | None:
    """The finished run of the same labels and settings whose model is still there, if any."""
    twins = TrainingRun.objects.filter(
        project=run.project_id,
        state=State.DONE,
        snapshot=run.snapshot_id,
        config_digest=run.config_digest,
        version__isnull=False,
    ).exclude(pk=run.pk)
    return next((twin for twin in twins if twin.version.is_there), None)


def project_lock(project: Project) -> Project:
    """Within a transaction: one writer of a project's runs and versions at a time. The project as it is now.

    no_key: rows that refer to the project (judgements!) are still inserted meanwhile. SQLite has one writer anyway.
    """
    return Project.objects.select_for_update(no_key=True).get(pk=project.pk)


@transaction.atomic
def version_publish(
    *,
    run: TrainingRun,
    metrics: dict[str, Any],
    artifact: dict[str, Any],
    held_out: Mapping[str, float] | None = None,
) -> ModelVersion:
    """The version of a run that has just ended well, with the gate's word on it; not yet serving.

    `artifact` is model/reward_config.json, `held_out` the scores of the responses that were held out, by id.
    """
    project = project_lock(run.project)
    versions = ModelVersion.objects.filter(project=run.project, method=run.method)
    serving = versions.filter(is_serving=True).first()
    word = gate_check(
        metrics,
        serving=serving,
        max_drop=run.project.gate_max_drop,
        same_rows=same_rows(held_out, serving, held_out_of(0, metrics.get("split")))
        if held_out and serving is not None
        else None,
    )
    version = ModelVersion.objects.create(
        project=run.project,
        run=run,
        method=run.method,
        number=(versions.aggregate(last=Max("number"))["last"] or 0) + 1,
        kind=artifact["kind"],
        tie=artifact.get("tie"),
        temperature=artifact.get("temperature", 1.0),
        digest=artifact["digest"],
        metrics=metrics,
        gate_passed=word.passed,
        gate_reason=word.reason,
    )
    event_record(project, Kind.VERSION_PUBLISHED, version.told)
    return version


@transaction.atomic
def version_promote(*, version: ModelVersion, actor: User | None = None) -> bool:
    """Let this version serve its method in its project, instead of the one that does. False: it serves already.

    Raises VersionRefused if its weights were packed away, or its files are gone.
    """
    check_not_archived(version.project)
    project = project_lock(version.project)
    # It may have been packed away since it was read.
    version.refresh_from_db(fields=["packed_at"])
    if version.is_packed:
        raise VersionRefused(f"{version} can't serve: its weights were packed away. Train it again.")
    if not version.is_there:
        raise VersionRefused(f"{version} can't serve: its files are gone from the disk. {_GONE_REMEDY}")
    versions = ModelVersion.objects.filter(project=version.project, method=version.method)
    replaced = versions.filter(is_serving=True).exclude(pk=version.pk).first()
    versions.filter(is_serving=True).exclude(pk=version.pk).update(is_serving=False)
    now = timezone.now()
    moved = versions.filter(pk=version.pk, is_serving=False).update(is_serving=True, promoted_at=now) == 1
    if moved:
        version.is_serving, version.promoted_at = True, now
        back = replaced is not None and replaced.number > version.number
        audit(
            project=version.project,
            actor=actor,
            action=Action.VERSION_ROLLED_BACK if back else Action.VERSION_PROMOTED,
            detail={
                "method": version.method,
                "version": version.number,
                "instead_of": replaced.number if replaced else None,
                "gate_passed": version.gate_passed,
                "gate_mark": version.gate_mark,
            },
        )
        instead = replaced.pk if replaced else None
        event_record(project, Kind.VERSION_PROMOTED, {**version.told, "instead_of": instead})
    return moved


@transaction.atomic
def model_export_start(*, version: ModelVersion, format: str, created_by: User) -> ModelExport:
    """Queue the packing of a version; one that is on its way, or whose archive is there, is returned instead."""
    exports = ModelExport.objects.filter(version=version, format=format)
    newest = exports.first()
    if newest is not None and (newest.is_active or newest.is_there):
        return newest
    if newest is not None:
        newest.archive.unlink(missing_ok=True)
    try:
        with transaction.atomic():
            export = ModelExport.objects.create(version=version, format=format, created_by=created_by)
    except IntegrityError:
        # Somebody else asked between our look and our insert.
        return exports.active().get()
    audit(
        project=version.project,
        actor=created_by,
        action=Action.MODEL_EXPORT_STARTED,
        detail={"export": export.pk, "method": version.method, "version": version.number, "format": format},
    )
    export.enqueue()
    return export


def starter_path(project: Project) -> Path:
    """Where the project's starter language model lies, whether or not it has been made."""
    return settings.DATA_DIR / "starter-lm" / project.slug


def starter_command(snapshot: Path, target: Path) -> list[str]:
    """The program that makes a starter language model from the texts of a snapshot's folder."""
    return [sys.executable, "-m", "workers.rewards.starter", str(snapshot / "responses.parquet"), str(target)]
