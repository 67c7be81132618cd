"""An unpacked installation of an older version, migrated and visited by this one: run by test_upgrade.py.

    python -m tests.upgrade.walk visit     migrate, open every page as its admin, count rows, score with every model
    python -m tests.upgrade.walk resume    resume the interrupted training and carry it to its end

CALIPER_DATA_DIR is the installation. Prints one JSON object.
"""

import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import django

MODELS_BY_SEGMENT = {
    # What <key:pk> means after this part of a path; an unknown part gets the pk 1 and may answer 404.
    "imports": "corpus.Import",
    "invitations": "corpus.Invitation",
    "responses": "corpus.Response",
    "pairs": "corpus.Pair",
    "exports": "snapshots.Export",
    "runs": "training.TrainingRun",
    "versions": "training.ModelVersion",
    "model-exports": "training.ModelExport",
    "people": "accounts.User",
    "accounts": "accounts.User",
}
OFF = ("forgotten/", "metrics")
"""Pages that a setting turns on; without it they answer 404."""

ROWS_A_PATTERN = 12


def patterns(resolver: Any = None, prefix: str = "") -> Iterator[str]:
    """Every route of the URL map, as written: "p/<slug:slug>/runs/<key:pk>/"."""
    from django.urls import URLPattern, get_resolver

    for entry in (resolver or get_resolver()).url_patterns:
        route = prefix + str(entry.pattern)
        if isinstance(entry, URLPattern):
            yield route
        else:
            yield from patterns(entry, route)


def paths_of(route: str) -> Iterator[tuple[str, bool]]:
    """Paths of a route with the installation's own names and ids; and whether each is known to exist."""
    from webapp.corpus.models import Invitation, Project
    from webapp.labels.models import Assignment
    from webapp.snapshots.models import Export

    if route.endswith("exports/<key:pk>/<path:name>"):
        for export in Export.objects.all():
            names = [path.relative_to(export.folder) for path in export.folder.rglob("*") if path.is_file()]
            for name in [*names, export.archive.name]:
                yield f"p/{export.project.slug}/exports/{export.pk}/{name}", export.archive.name != str(name)
        return
    if "<slug:slug>" in route:
        for project in Project.objects.all():
            if "<token:token>" in route:
                continue  # what somebody tried, which is in no database
            for path, known in with_ids(route.replace("<slug:slug>", project.slug), project):
                if "<uuid:key>" in path:
                    for key in Assignment.objects.filter(project=project, annotator__username="ada"):
                        yield path.replace("<uuid:key>", str(key.key)), known
                else:
                    yield path, known
    elif "<token:token>" in route and "join" in route:
        for token in Invitation.objects.filter(used_at__isnull=True).values_list("token", flat=True):
            yield route.replace("<token:token>", token), True
    elif "<" in route or "(?P" in route or "^" in route:
        if "<key:pk>" in route:
            yield from ((path, False) for path, _ in with_ids(route, None))
    else:
        yield route, route not in OFF


def with_ids(route: str, project: Any) -> Iterator[tuple[str, bool]]:
    from django.apps import apps

    if "<key:pk>" not in route:
        yield route, True
        return
    segment = route.partition("<key:pk>")[0].strip("/").rpartition("/")[2]
    name = MODELS_BY_SEGMENT.get(segment)
    if name is None:
        yield route.replace("<key:pk>", "1"), False
        return
    rows = apps.get_model(name)._default_manager.order_by("pk")
    for row in islice(rows, 400):
        owner = getattr(row, "project_id", None) or getattr(getattr(row, "version", None), "project_id", None)
        if owner is None and segment == "pairs":
            owner = row.response_a.project_id
        if project is None or owner == project.pk:
            # Only an import that left rows out has that file; a model's old archive may have to be packed again.
            known = owner is not None and not route.endswith(("errors.jsonl", ".zip"))
            yield route.replace("<key:pk>", str(row.pk)), known


def visit_pages() -> dict[str, Any]:
    from django.test import Client

    from webapp.accounts.models import User

    client = Client(raise_request_exception=False, headers={"host": "127.0.0.1"})
    ada = User.objects.get(username="ada")
    # An admin of both projects; as a superuser the operator's pages open too.
    ada.is_superuser = True
    ada.save()
    client.force_login(ada, backend="django.contrib.auth.backends.ModelBackend")
    htmx = {"HX-Request": "true"}
    answers: dict[str, list[str]] = {}
    downloads = 0
    for route in sorted(set(patterns())):
        for path, known in islice(paths_of(route), ROWS_A_PATTERN):
            for headers in ({}, htmx) if "progress" in route else ({},):
                response: Any = client.get("/" + path, headers=headers)
                if response.status_code == 405:
                    continue
                if response.streaming:
                    downloads += bool(b"".join(response.streaming_content))
                where = response.headers.get("Location", "")
                word = "sign-in" if "sign-in" in where else str(response.status_code)
                if not known and word == "404":
                    word = "404, not known"
                answers.setdefault(word, []).append("/" + path)
    return {"answers": answers, "downloads": downloads}


def rows_of() -> dict[str, int]:
    from django.db import connection

    with connection.cursor() as cursor:
        found = {}
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT count(*) FROM {connection.ops.quote_name(table)}")
            found[table] = cursor.fetchone()[0]
    return found


def score_again() -> dict[str, float]:
    """For each version: the largest difference between a stored score and the same response scored now.

    Held-out rows are left out: since 0.5.0 they are shown by the calibration of the other groups.
    """
    import torch

    from webapp.ratings.models import Prediction
    from webapp.training.models import ModelVersion
    from workers.rewards.artifacts.save import load_model
    from workers.rewards.models.predict import score_responses

    torch.set_num_threads(1)
    found = {}
    for version in ModelVersion.objects.all():
        model, template, _ = load_model(version.run.folder / "model")
        rows = Prediction.objects.filter(version=version).exclude(split=Prediction.Split.HELD_OUT)
        stored = rows.select_related("response__prompt")
        responses = [
            {
                "response_id": row.response.external_id,
                "messages": row.response.prompt.messages,
                "text": row.response.text,
            }
            for row in stored
        ]
        now = score_responses(model, template, responses, torch.device("cpu"))
        found[version.method] = max(
            abs(row.score - new["score"]) for row, new in zip(stored, now, strict=True)
        )
    return found


def resume() -> dict[str, Any]:
    from webapp import celery
    from webapp.training.models import TrainingRun
    from webapp.training.services import run_resume
    from workers.runs import train

    celery.app.send_task = lambda *words, **named: None
    run = TrainingRun.objects.get(state="cancelled")
    assert run_resume(run=run)
    train(run.pk)
    run.refresh_from_db()
    return {"state": run.state, "error": run.error}


def main() -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    if sys.argv[1:] == ["resume"]:
        found = resume()
    else:
        # Counted first: the page of the cards reserves some.
        found = {"rows": rows_of(), **visit_pages(), "scores": score_again()}
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()
    main()
