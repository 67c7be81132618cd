"""The pages of evaluation sets: who sees them, what they show, what they refuse."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.html import strip_tags

from webapp.accounts.models import User
from webapp.benchmarks.charts import curve_chart
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.corpus.models import AuditEntry, Project
from webapp.jobs import State
from webapp.training.models import ModelVersion
from workers import measurements

from .conftest import BEST, PAIRS

Add = Callable[..., EvaluationSet]
Measured = Callable[[EvaluationSet, ModelVersion], Measurement]
MakeVersion = Callable[..., ModelVersion]
ClientOf = Callable[[User], Client]
LIST = "/p/capitals/benchmarks/"
pytestmark = pytest.mark.usefixtures("trusted")


def words(answer: Any) -> str:
    assert answer.status_code in (200, 400)
    return re.sub(r"\s+", " ", strip_tags(answer.content.decode()))


def upload(client: Client, content: bytes = PAIRS, title: str = "Capitals") -> Any:
    data = {"name": title, "uploads": [SimpleUploadedFile("a.jsonl", content)]}
    return client.post(f"{LIST}add/", data, follow=True)


def test_upload_read_measure_and_delete(
    project: Project,
    researcher: User,
    client_of: ClientOf,
    sent: Any,
    measured: Measured,
    make_version: MakeVersion,
) -> None:
    client = client_of(researcher)
    assert "No evaluation set yet" in words(client.get(LIST))
    assert "A worker reads the files." in words(upload(client))
    row = EvaluationSet.objects.get()
    measurements.read_set(row.pk)
    page = words(client.get(f"{LIST}{row.pk}/"))
    assert "No version has been measured on it yet" in page
    assert "1 row could not be read" in page

    version = make_version(project, 1, is_serving=True, promoted_at=project.created_at)
    client.post(f"{LIST}{row.pk}/measure/", {"version": version.pk})
    assert "OPRM v1 queued" in words(client.get(f"{LIST}{row.pk}/"))
    measured(row, version)
    page = words(client.get(f"{LIST}{row.pk}/"))
    assert "OPRM v1 (serving)" in page
    assert "overall 66.7% 0.0% to 100.0% 66.7% 3" in page.replace(" %", "%")
    assert "easy 100.0%" in page.replace(" %", "%")
    assert "1 of 3 comparisons read alike to it" in page
    assert "near-duplicates of its training prompts are not known" in page
    assert "Best of n" not in page

    for address in (LIST, f"/p/capitals/runs/{version.run_id}/", "/p/capitals/runs/"):
        page = words(client.get(address)).replace(" %", "%")
        assert "Capitals" in page
        assert "66.7%" in page, address

    assert "are deleted" in words(client.post(f"{LIST}{row.pk}/delete/", follow=True))
    assert not EvaluationSet.objects.exists()
    assert list(AuditEntry.objects.order_by("pk").values_list("action", flat=True)) == [
        "set-added",
        "set-deleted",
    ]


def test_best_of_n_is_drawn(
    project: Project,
    researcher: User,
    client_of: ClientOf,
    add: Add,
    measured: Measured,
    make_version: MakeVersion,
) -> None:
    row = add("Best", BEST)
    for number in (1, 2):
        measured(row, make_version(project, number))
    answer = client_of(researcher).get(f"{LIST}{row.pk}/")
    page = words(answer)
    assert "over all ways to draw k of 3; 2 prompts" in page
    assert "OPRM v2: 0.333 for one, 0.500 for 3; OPRM v1: 0.333 for one" in page
    assert answer.content.decode().count("<polyline") == 5


def test_the_curve_in_coordinates() -> None:
    curve = {
        "n": 3,
        "items": 2,
        "model": [0.0, 0.5, 1.0],
        "oracle": [0, 1, 1],
        "length": [0, 0, 0],
        "random": 0.0,
    }
    chart = curve_chart([("A v1", curve), ("B v1", None)])  # type: ignore[list-item]
    assert chart is not None
    assert chart.lines[0].points == "72.0,182.0 348.0,97.0 624.0,12.0"
    assert [one.name for one in chart.lines] == ["A v1", "the best of them", "the longest", "any of them"]
    assert [k for k, _ in chart.rows] == [1, 2, 3]
    assert curve_chart([("A v1", None)]) is None  # type: ignore[list-item]
    many = curve_chart(
        [("A v1", {**curve, "n": 32, **{one: [0.0] * 31 + [1.0] for one in ("model", "oracle", "length")}})]
    )
    assert many is not None
    assert [tick.label for tick in many.x_ticks] == ["1", "10", "20", "32"]


def test_who_may_see_and_add(
    project: Project, admin: User, researcher: User, annotator: User, stranger: User, client_of: ClientOf, add: Add,
    client: Client,
) -> None:  # fmt: skip
    row = add()
    for user, status in ((admin, 200), (researcher, 200), (annotator, 403), (stranger, 404)):
        for address in (LIST, f"{LIST}{row.pk}/"):
            assert client_of(user).get(address).status_code == status
    for user, status in ((annotator, 403), (stranger, 404)):
        assert upload(client_of(user)).status_code == status
        for act in ("delete", "measure", "retry"):
            assert client_of(user).post(f"{LIST}{row.pk}/{act}/").status_code == status
    assert client.get(LIST).status_code == 302
    other = Project.objects.create(slug="other", name="Other", methods=["oprm"])
    assert client_of(admin).get(f"/p/{other.slug}/benchmarks/{row.pk}/").status_code == 404
    assert EvaluationSet.objects.count() == 1


def test_what_is_refused(
    project: Project, researcher: User, client_of: ClientOf, add: Add, data_dir: Any
) -> None:
    row = add()
    client = client_of(researcher)
    assert "These files are here already: “Capitals”." in words(upload(client, title="Again"))
    assert "There is a set named “Capitals” already" in words(upload(client, BEST))
    assert "This field is required." in words(client.post(f"{LIST}add/", {}))
    assert [path.name for path in (data_dir / "evaluation-sets").iterdir()] == [row.path.name], (
        "nothing is kept"
    )
    answer = client.post(f"{LIST}{row.pk}/measure/", {"version": "9" * 30}, follow=True)
    assert "Choose a version whose model is on the disk" in words(answer)
    Project.objects.update(archived_at=project.created_at)
    assert upload(client, BEST, "Late").status_code == 403
    assert client.post(f"{LIST}{row.pk}/delete/").status_code == 403


def test_a_set_that_failed_is_tried_again_and_a_measurement_cancelled(
    project: Project, researcher: User, client_of: ClientOf, add: Add, make_version: MakeVersion
) -> None:
    row = add(content=b"[1,", name="a.json")
    client = client_of(researcher)
    assert "It can't be used: a.json is not JSON" in words(client.get(f"{LIST}{row.pk}/")).replace(
        "&#x27;", "'"
    )
    client.post(f"{LIST}{row.pk}/retry/")
    row.refresh_from_db()
    assert row.state == State.QUEUED
    good = add("Good")
    one = Measurement.objects.create(evaluation_set=good, version=make_version(project, 1))
    client.post(f"/p/capitals/measurements/{one.pk}/cancel/")
    one.refresh_from_db()
    assert one.state == State.CANCELLED
    assert "there was nothing to cancel" in words(
        client.post(f"/p/capitals/measurements/{one.pk}/cancel/", follow=True)
    )


def test_fragments_change_only_when_something_did(
    project: Project, researcher: User, client_of: ClientOf, add: Add
) -> None:
    row = add(read=False)
    client = client_of(researcher)
    for address in (LIST, f"{LIST}{row.pk}/"):
        token = client.get(address).context["token"]
        assert client.get(f"{address}?token={token}", headers={"HX-Request": "true"}).status_code == 204
        answer = client.get(f"{address}?token=old", headers={"HX-Request": "true"})
        assert b"<html" not in answer.content


def test_the_same_number_of_queries_for_many(
    project: Project, researcher: User, client_of: ClientOf, add: Add, make_version: MakeVersion,
    measured: Measured,
) -> None:  # fmt: skip
    row = add()
    done = measured(row, make_version(project, 1))
    client = client_of(researcher)
    addresses = (LIST, f"{LIST}{row.pk}/", "/p/capitals/runs/")

    def queries(address: str) -> int:
        with CaptureQueriesContext(connection) as found:
            assert client.get(address).status_code == 200
        return len(found)

    before = [queries(address) for address in addresses]
    for number in range(2, 12):
        version = make_version(project, number)
        Measurement.objects.create(
            evaluation_set=row, version=version, state=State.DONE, result=done.result, overall=done.overall
        )
        EvaluationSet.objects.create(
            project=project, name=f"Set {number}", folder="x", digest=str(number), state=State.DONE
        )
    assert [queries(address) for address in addresses] == before
