"""Rows that are written in bulk are, in every column, those that the models would have stored."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from webapp.accounts.models import User
from webapp.corpus.models import Import, Pair, Project, Prompt, Response
from webapp.importing.loading import Loader, iso
from webapp.labels.models import Judgement, QualityLabel, Source

ODD = "tab\tline\nreturn\r back\\slash \\N “quoted” 'single' %s %% {} \u2028 \U0001f600 \x01"
# Columns that differ from row to row by nature.
OWN = {"id", "external_id", "client_key", "draw"}
WHOLE, PARTS = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)


def columns(row: Any) -> dict[str, Any]:
    return {
        field.attname: getattr(row, field.attname)
        for field in row._meta.concrete_fields
        if field.attname not in OWN
    }


def test_every_column_is_as_the_model_stores_it(project: Project) -> None:
    origin = Import.objects.create(project=project, file_name="a", folder="a")
    user = User.objects.create(username="kim")

    def both(model: Any, one: dict[str, Any], **same: Any) -> Any:
        """Store it through the model, then in bulk; the two that the database has."""
        stored = model.objects.create(**one, **same)
        name = "client_key" if "client_key" in one else "external_id"
        values = {**one, name: f"{one[name]} too"}
        values = {key: iso(value) if isinstance(value, datetime) else value for key, value in values.items()}
        with transaction.atomic(), Loader() as loader:
            loader.table(model, list(values), **same).write([tuple(values.values())])
        written = model.objects.get(**{name: values[name]})
        assert columns(written) == columns(model.objects.get(pk=stored.pk))
        return stored, written

    same: dict[str, Any] = {"project_id": project.pk, "origin_id": origin.pk, "created_at": WHOLE}
    messages = [{"role": "user", "content": ODD}, {"role": "tool", "content": None, "n": [1, 2.5, True]}]
    prompt, _ = both(Prompt, {"external_id": "p", "messages": messages, "tools": [{"a": ODD}], "digest": "d",
                              "group": ODD}, **same)  # fmt: skip
    both(Prompt, {"external_id": "p2", "messages": messages, "tools": [], "digest": "d"}, **same)
    answer = {"prompt_id": prompt.pk, "text": ODD, "digest": "d", "author": "m"}
    a, b = both(Response, {"external_id": "r", "messages": None, "metadata": {}, **answer}, wanted=2, **same)
    c, _ = both(
        Response, {"external_id": "s", "messages": messages, "metadata": {"k": ODD}, **answer}, **same
    )
    pair = Pair.objects.create(project=project, external_id="q", response_a=a, response_b=b)
    with transaction.atomic(), Loader() as loader:
        pairs = loader.table(Pair, ("external_id", "response_a_id", "response_b_id"), project_id=project.pk)
        pairs.write([("q2", a.pk, c.pk), ("q3", c.pk, b.pk)])
    written = Pair.objects.get(external_id="q3")
    ends = {"response_a_id", "response_b_id", "created_at"}
    assert {k: v for k, v in columns(written).items() if k not in ends} == {
        k: v for k, v in columns(pair).items() if k not in ends
    }
    assert abs(written.created_at - pair.created_at).total_seconds() < 60

    said: dict[str, Any] = {"source": Source.IMPORT, "annotator_id": user.pk, "is_current": False}
    both(
        Judgement,
        {
            "client_key": "1", "pair_id": pair.pk, "verdict": "a", "strength": 2, "reasons": ["a:x", ODD],
            "comment": ODD, "left": "b", "shown_at": WHOLE, "created_at": PARTS, "policy": "p", "propensity": 0.1,
            "contradiction_kept": True, "supersedes_id": None,
        },
        **said,
    )  # fmt: skip
    both(
        Judgement,
        {
            "client_key": "2", "pair_id": pair.pk, "verdict": "tie", "strength": None, "reasons": [], "comment": "",
            "left": "", "shown_at": None, "created_at": WHOLE, "propensity": None, "contradiction_kept": False,
        },
        **said,
    )  # fmt: skip
    both(
        QualityLabel,
        {"client_key": "3", "response_id": a.pk, "level": "good", "comment": ODD, "created_at": PARTS},
        **said,
    )


def test_keys_are_the_next_ones_and_what_is_refused_is_an_integrity_error(project: Project) -> None:
    columns = ("id", "external_id", "messages", "tools", "digest", "group")
    with transaction.atomic(), Loader() as loader:
        table = loader.table(Prompt, columns, expected=3, project_id=project.pk)
        first, second = table.keys(2)
        table.write([(first, "p1", [], [], "d", ""), (second, "p2", [], [], "d", "")])
        table.write([(key, "p3", [], [], "d", "") for key in table.keys(1)])
    assert Prompt.objects.create(project=project, external_id="p4", messages=[], digest="d").pk > second

    def again() -> None:
        with transaction.atomic(), Loader() as loader:
            table = loader.table(Prompt, columns, project_id=project.pk)
            table.write([(key, "p1", [], [], "d", "") for key in table.keys(1)])

    with pytest.raises(IntegrityError):
        again()
    assert Prompt.objects.count() == 4
