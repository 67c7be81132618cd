"""Pairs made of responses, imports taken back, previews thrown away, pairs by hand; and who may."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from tests.labels.recount import counters_recount
from webapp.accounts.models import User
from webapp.corpus.models import AuditEntry, Import, Pair, Project, Prompt, Response
from webapp.corpus.pairing import pairs_to_make
from webapp.importing.undoing import UndoRefused, import_discard, import_undo
from webapp.jobs import State
from webapp.labels.models import Judgement
from webapp.labels.queue import assignments_for


def caliper(prompt: str, *responses: str, votes: list[dict[str, Any]] = []) -> list[dict[str, Any]]:  # noqa: B006
    return [
        {"type": "prompt", "id": prompt, "text": f"{prompt}?"},
        *(
            {"type": "response", "id": f"{prompt}-{name}", "prompt": prompt, "text": name}
            for name in responses
        ),
        *({"type": "vote", **vote} for vote in votes),
    ]


@pytest.fixture
def bring(project: Project, tmp_path: Path) -> Callable[[list[dict[str, Any]]], Import]:
    numbers = itertools.count()

    def run(rows: list[dict[str, Any]]) -> Import:
        path = tmp_path / f"{next(numbers)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        call_command("import_data", str(path), project=project.slug)
        return Import.objects.first()  # type: ignore[return-value]

    return run


@pytest.mark.parametrize(
    ("pairing", "limit", "count"),
    [("all", 1000, 15), ("all", 4, 4), ("ring", 1, 6), ("ring", 2, 12), ("random", 5, 5)],
)
def test_pairs_of_six(pairing: str, limit: int, count: int) -> None:
    keys = list("abcdef")
    made = pairs_to_make(keys, lone=keys, there=0, pairing=pairing, limit=limit, seed="p")
    assert len({frozenset(pair) for pair in made}) == len(made) == count
    assert made == pairs_to_make(keys, lone=keys, there=0, pairing=pairing, limit=limit, seed="p")
    if pairing == "all":
        assert {key for pair in made for key in pair} == set(keys), "a few pairs bring in every response"


def test_responses_alone_are_judged_at_once_and_a_second_import_makes_no_more(
    project: Project, annotator: User, bring: Callable[..., Import]
) -> None:
    rows = caliper("p", "one", "two", "three")
    assert bring(rows).report["counts"]["made"]["new"] == 3
    assert assignments_for(project=project, annotator=annotator)
    assert "made" not in bring(rows).report["counts"]
    later = bring([{"type": "response", "id": "p-four", "prompt": "p", "text": "four"}])
    assert later.report["counts"]["made"]["new"] == 3
    assert Pair.objects.count() == 6


def test_a_project_of_levels_makes_none(project: Project, bring: Callable[..., Import]) -> None:
    Project.objects.update(asks="levels")
    bring(caliper("p", "one", "two"))
    assert not Pair.objects.exists()


def counters() -> list[Any]:
    return [
        *Pair.objects.order_by("pk").values_list("external_id", "wanted", "judged", "reserved"),
        *Response.objects.order_by("pk").values_list("external_id", "labelled", "reserved"),
        *Judgement.objects.order_by("pk").values_list("pk", "is_current"),
        *User.objects.order_by("pk").values_list("username", flat=True),
    ]


def test_undoing_leaves_what_was_before(project: Project, admin: User, bring: Callable[..., Import]) -> None:
    bring(
        caliper("p", "one", "two", votes=[{"a": "p-one", "b": "p-two", "annotator": "kim", "verdict": "a"}])
    )
    before = counters()
    more = [{"a": "p-one", "b": "p-two", "annotator": name, "verdict": "b"} for name in ("kim", "lee", "mo")]
    level = [{"type": "level", "response": "p-one", "annotator": "kim", "level": "good"}]
    row = bring([*caliper("p", "one", "two", "three", votes=more), *caliper("q", "x", "y"), *level])
    assert counters() != before
    counts = import_undo(import_row=row, actor=admin)
    assert counts == {"prompts": 1, "responses": 3, "pairs": 1, "votes": 3, "levels": 1}
    assert counters() == before
    counters_recount(project=project)
    assert counters() == before
    row.refresh_from_db()
    assert row.undone_at is not None
    assert AuditEntry.objects.filter(action="import-undone", actor=admin).count() == 1
    with pytest.raises(UndoRefused, match="undone before"):
        import_undo(import_row=row)
    again = bring([*caliper("p", "one", "two", "three", votes=more), *caliper("q", "x", "y"), *level])
    assert again.report["counts"]["votes"]["changed"] + again.report["counts"]["votes"]["new"] == 3


def test_what_a_person_judged_stays(
    project: Project, annotator: User, admin: User, bring: Callable[..., Import]
) -> None:
    row = bring(caliper("p", "one", "two"))
    Judgement.objects.create(pair=Pair.objects.get(), annotator=annotator, verdict="a", client_key="k")
    with pytest.raises(UndoRefused, match=r"by anna \(1\)"):
        import_undo(import_row=row, actor=admin)
    assert (Pair.objects.count(), Judgement.objects.count()) == (1, 1)


def test_what_another_import_relies_on_stays(bring: Callable[..., Import]) -> None:
    first = bring(caliper("p", "one", "two"))
    second = bring([{"type": "response", "id": "p-three", "prompt": "p", "text": "three"}])
    with pytest.raises(UndoRefused, match=f"of import {second.pk} relies on it"):
        import_undo(import_row=first)
    import_undo(import_row=second)
    import_undo(import_row=first)
    assert not Prompt.objects.exists()


def test_open_cards_go_with_what_is_undone(
    project: Project, annotator: User, bring: Callable[..., Import]
) -> None:
    row = bring(caliper("p", "one", "two"))
    assert assignments_for(project=project, annotator=annotator)
    import_undo(import_row=row)
    assert not project.assignments.exists()


def test_a_preview_is_thrown_away_with_its_files(
    project: Project, admin: User, django_capture_on_commit_callbacks: Any
) -> None:
    row = Import.objects.create(project=project, folder="imports/x", state=State.DONE, dry_run=True)
    folder = row.error_file().parent
    folder.mkdir(parents=True)
    with django_capture_on_commit_callbacks(execute=True):
        assert import_discard(import_row=row, actor=admin)
    assert not folder.exists()
    assert not Import.objects.exists()
    assert AuditEntry.objects.filter(action="import-discarded").exists()
    for fields in ({"state": State.RUNNING}, {"state": State.DONE, "dry_run": False}):
        kept = Import.objects.create(project=project, folder="imports/y", **fields)
        assert not import_discard(import_row=kept, actor=admin)


@pytest.mark.parametrize(("who", "status"), [("annotator", 403), ("researcher", 403), ("stranger", 404)])
def test_only_admins(
    request: Any, client_of: Callable[[User], Client], project: Project, bring: Callable[..., Import],
    who: str, status: int,
) -> None:  # fmt: skip
    row = bring(caliper("p", "one", "two"))
    client = client_of(request.getfixturevalue(who))
    for name in ("import-mapping", "import-ask", "import-undo", "import-discard"):
        assert client.post(reverse(f"importing:{name}", args=[project.slug, row.pk])).status_code == status, (
            name
        )
    assert client.post(reverse("importing:pair-new", args=[project.slug])).status_code == status
    assert Pair.objects.count() == 1


def test_undo_asks_with_the_numbers(
    client_of: Callable[[User], Client], admin: User, bring: Callable[..., Import]
) -> None:
    row = bring(caliper("p", "one", "two"))
    address = f"/p/capitals/imports/{row.pk}/undo/"
    assert "2 responses" in client_of(admin).get(address).content.decode()
    page = client_of(admin).post(address, follow=True).content.decode()
    assert "The import is undone" in page
    assert not Pair.objects.exists()


def test_a_pair_by_hand(client_of: Callable[[User], Client], admin: User, project: Project) -> None:
    client, address = client_of(admin), "/p/capitals/pairs/new/"
    page = client.post(address, {"prompt_text": "Why?", "text_a": " One\r\n", "text_b": " One\n"})
    assert "A and B are the same text" in page.content.decode()
    typed = {"prompt_text": "Why?", "text_a": " One\r\n ", "text_b": "Two", "author_b": "m"}
    assert client.post(address, typed).status_code == 302
    assert set(Response.objects.values_list("text", "author")) == {(" One\n ", ""), ("Two", "m")}
    again = client.post(address, typed, follow=True).content.decode()
    assert "a pair already" in again
    assert Pair.objects.get().wanted == project.overlap
    assert client.post(address, {**typed, "text_b": ""}).status_code == 400
    prompt = Prompt.objects.get()
    assert f"?prompt={prompt.pk}" in client.get(f"{address}?q=why").content.decode()
    one = Response.objects.order_by("pk")[0]
    both = client.post(f"{address}?prompt={prompt.pk}", {"a": one.pk, "text_a": "x", "text_b": "Three"})
    assert "not both" in both.content.decode()
    assert client.post(f"{address}?prompt={prompt.pk}", {"a": one.pk, "text_b": "Three"}).status_code == 302
    assert Pair.objects.count() == AuditEntry.objects.filter(action="pair-added").count() == 2
