"""Old versions measured again on the project's one test set, once labels were added to it."""

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Coalesce

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.models import Method
from webapp.jobs import ACTIVE, State
from webapp.labels.models import Judgement, QualityLabel
from webapp.training.models import ModelVersion, Remeasurement
from webapp.training.same_rows import HeldOut, held_out_now
from webapp.training.services import VersionRefused

# Beside those that serve, how many of the newest versions are measured again without being asked.
AUTOMATIC = 3


def rows_added(version: ModelVersion, now: HeldOut) -> bool:
    """Whether the test set has labels that came after the version was trained and measured last. Three queries.

    `version`: with its run's snapshot. Imported labels came when their import ended.
    """
    done = version.remeasurements.filter(state=State.DONE).select_related("rows_of__run__snapshot").first()
    last = version.run.snapshot if done is None else done.rows_of.run.snapshot
    if last is None:
        return True
    names = list(now.names)

    def newer(labels: QuerySet[Judgement] | QuerySet[QualityLabel], path: str) -> bool:
        prompt = Q(**{f"{path}__external_id__in": names})
        inside = prompt
        if now.unit != "prompt":
            # a prompt without a group of its own is one by its name
            inside = Q(**{f"{path}__group__in": names}) | (Q(**{f"{path}__group": ""}) & prompt)
        came = Coalesce("origin__finished_at", "created_at")
        return labels.filter(inside).annotate(came=came).filter(came__gt=last.created_at).exists()

    judgements = Judgement.objects.verdicts().filter(pair__project=version.project_id)
    levels = QualityLabel.objects.current().filter(response__project=version.project_id)
    return newer(judgements, "pair__response_a__prompt") or newer(levels, "response__prompt")


@transaction.atomic
def measurement_start(
    *, version: ModelVersion, rows_of: ModelVersion, created_by: User | None = None
) -> Remeasurement:
    """Queue measuring a version on another one's held-out rows; the one on its way is returned instead.

    One that failed on the same rows is taken up again. Raises VersionRefused.
    """
    check_not_archived(version.project)
    if version.is_packed or not version.is_there:
        raise VersionRefused(f"{version} can't be measured again: its files are gone from the disk.")
    if version.pk == rows_of.pk:
        raise VersionRefused(f"{version} was measured on these rows when it was trained.")
    measurements = Remeasurement.objects.filter(version=version)
    if (active := measurements.filter(state__in=ACTIVE).first()) is not None:
        return active
    newest = measurements.first()
    try:
        with transaction.atomic():
            if newest is not None and newest.rows_of_id == rows_of.pk and newest.requeue():
                return newest
            found = Remeasurement.objects.create(version=version, rows_of=rows_of, created_by=created_by)
    except IntegrityError:
        # Somebody asked for the same between our look and our insert.
        return measurements.get(state__in=ACTIVE)
    found.enqueue()
    return found


def measurements_start(version: ModelVersion) -> list[Remeasurement]:
    """After a training: queue the serving versions of its project and the newest others, where rows were added.

    No judge, which may cost money: somebody asks for that.
    """
    now = held_out_now(version.project)
    if now is None or version.project.archived_at is not None:
        return []
    others = version.project.versions.exclude(pk=now.version).exclude(method=Method.JUDGE)
    versions = others.select_related("run__snapshot", "project")
    newest = list(versions.values_list("pk", flat=True)[:AUTOMATIC])
    rows_of = version.project.versions.get(pk=now.version)
    return [
        measurement_start(version=each, rows_of=rows_of)
        for each in versions.filter(Q(is_serving=True) | Q(pk__in=newest))
        if each.is_there and not each.is_packed and rows_added(each, now)
    ]
