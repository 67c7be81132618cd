"""Numbers that the queue keeps beside the rows they count, so that no request counts pairs.

labels.counters reads them, moves them with every change of a card and counts them anew. Here is what writers in bulk
need: whoever changes many pairs, responses or labels says so (`counters_forget`), and the next reader counts anew.
"""

from django.db import models
from django.db.models import F


class QueueCounter(models.Model):
    """One number of one project. Several rows may add up to one figure, so that people who save at once don't wait.

    `person` is the annotator's key, 0 for the project itself. `taken` and `priority` name a stratum of the queue: the
    open pairs with so many places taken and this priority (0 and 0 where the name is of none).
    """

    class Name(models.TextChoices):
        # Pairs (or lone responses) that want more judgements, by stratum. The sum over people counts; a person's row
        # is what their own cards changed.
        OPEN = "open", "open"
        # Those of the open ones that this person has answered or holds, by stratum; not of imported annotators.
        MINE = "mine", "mine"
        # What this person has answered, skipped, and has on cards now.
        JUDGED = "judged", "judged"
        SKIPPED = "skipped", "skipped"
        HELD = "held", "held"
        # The numbers are right while these two are equal (person 0): the newest change in bulk, and the counted one.
        CHANGED = "changed", "changed"
        COUNTED = "counted", "counted"

    project = models.ForeignKey("corpus.Project", on_delete=models.CASCADE, related_name="+")
    person = models.BigIntegerField(default=0)
    name = models.CharField(max_length=10, choices=Name.choices)
    taken = models.PositiveIntegerField(default=0)
    priority = models.SmallIntegerField(default=0)
    value = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name", "person", "taken", "priority"], name="queue_counter_once"
            )
        ]


def counters_forget(project_pk: int) -> None:
    """Say, in the transaction of a change in bulk, that the queue's numbers have to be counted anew after it."""
    # A project without this mark was never counted.
    mark = QueueCounter.objects.filter(project=project_pk, name=QueueCounter.Name.CHANGED)
    mark.update(value=F("value") + 1)


def judged_by_person(project_pk: int) -> dict[int, int] | None:
    """How many cards each person has answered (skips left out), by key; None while the numbers have to be counted.

    In a project that asks for pairs these are its current judgements that are no skips.
    """
    Name = QueueCounter.Name
    marks, judged = {}, {}
    names = [Name.CHANGED, Name.COUNTED, Name.JUDGED]
    rows = QueueCounter.objects.filter(project=project_pk, name__in=names)
    for name, person, value in rows.values_list("name", "person", "value"):
        if name == Name.JUDGED:
            judged[person] = value
        else:
            marks[name] = value
    fresh = Name.CHANGED in marks and marks[Name.CHANGED] == marks.get(Name.COUNTED)
    return judged if fresh else None
