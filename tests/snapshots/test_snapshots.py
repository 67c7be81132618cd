"""Snapshots: their tables, and a digest that depends on the labels alone."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from tests.snapshots.conftest import WHEN
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project
from webapp.labels.models import Judgement
from webapp.snapshots import services
from webapp.snapshots.models import Snapshot
from webapp.snapshots.reading import consistent_read
from webapp.snapshots.services import snapshot_take
from workers.rewards.data.snapshot import read_snapshot


def table(snapshot: Snapshot, name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(snapshot.path / f"{name}.parquet").to_pylist()


def test_the_tables_hold_current_labels_only(labelled: Project) -> None:
    snapshot = snapshot_take(project=labelled)
    assert snapshot.counts == {"responses": 5, "prompts": 2, "judgements": 7, "levels": 4, "annotators": 3}
    responses = table(snapshot, "responses")
    assert [row["response_id"] for row in responses] == ["p1-r1", "p1-r2", "p1-r3", "p2-r1", "p2-r2"]
    assert [row["group"] for row in responses] == ["debate"] * 3 + ["p2"] * 2
    assert json.loads(responses[0]["messages"]) == [{"role": "user", "content": "Question p1?"}]
    judgements = table(snapshot, "judgements")
    assert [(row["response_a"], row["annotator"], row["verdict"]) for row in judgements] == [
        ("p1-r1", "kim", "a"), ("p1-r1", "lee", "a"), ("p1-r1", "max", "tie"), ("p1-r1", "kim", "tie"),
        ("p1-r2", "lee", "both_bad"), ("p2-r1", "kim", "a"), ("p2-r1", "lee", "b"),
    ]  # fmt: skip
    first = judgements[0]
    assert (first["strength"], first["left"], first["policy"], first["propensity"]) == (
        2,
        "b",
        "random",
        0.25,
    )
    assert first["created_at"] == WHEN
    assert (judgements[1]["left"], judgements[1]["policy"], judgements[1]["strength"]) == (None, None, None)
    assert len({row["judgement_id"] for row in judgements}) == 7
    assert [(row["response_id"], row["level"], row["annotator"]) for row in table(snapshot, "levels")] == [
        ("p1-r1", "good", "kim"), ("p1-r2", "bad", "kim"), ("p1-r3", "normal", "lee"), ("p2-r1", "good", "max"),
    ]  # fmt: skip


def test_training_reads_the_side_that_stood_left(labelled: Project) -> None:
    read = read_snapshot(snapshot_take(project=labelled).path)
    assert [row["left"] for row in read.judgements] == ["b"] + [None] * 6
    assert {row["weight"] for row in read.judgements} == {None}


def test_the_schemas_are_the_contract(labelled: Project) -> None:
    import pyarrow.parquet as pq

    snapshot = snapshot_take(project=labelled)
    types = {
        name: {field.name: str(field.type) for field in pq.read_schema(snapshot.path / f"{name}.parquet")}
        for name in ("responses", "judgements", "levels")
    }
    assert types == {
        "responses": dict.fromkeys(
            ("response_id", "prompt_id", "group", "messages", "text", "author"), "string"
        ),
        "judgements": {
            **dict.fromkeys(("judgement_id", "response_a", "response_b", "verdict"), "string"),
            "strength": "int8",
            **dict.fromkeys(("annotator", "left", "policy"), "string"),
            "propensity": "double",
            "created_at": "timestamp[us, tz=UTC]",
        },
        "levels": {
            **dict.fromkeys(("label_id", "response_id", "level", "annotator"), "string"),
            "created_at": "timestamp[us, tz=UTC]",
        },
    }
    manifest = json.loads((snapshot.path / "manifest.json").read_text())
    assert (manifest["format"], manifest["project"], manifest["digest"]) == (1, "capitals", snapshot.digest)
    assert manifest["counts"] == snapshot.counts
    assert {name: entry["rows"] for name, entry in manifest["tables"].items()} == {
        "responses": 5, "judgements": 7, "levels": 4,
    }  # fmt: skip


def test_same_labels_same_snapshot(labelled: Project, data_dir: Path) -> None:
    first = snapshot_take(project=labelled)
    assert snapshot_take(project=labelled) == first
    assert [path.name for path in (data_dir / "snapshots").iterdir()] == [first.digest]


def test_the_digest_is_known(labelled: Project) -> None:
    """On every database, Python and pyarrow: equal digests mean equal labels."""
    assert snapshot_take(project=labelled).digest == (
        "ab9465a7101adb840bbe993bfdefe88f24e0528974de7da89b8be88133ac32a3"
    )


def test_another_label_makes_another_snapshot(labelled: Project, judge: Callable[..., Judgement]) -> None:
    first = snapshot_take(project=labelled)
    judge(Pair.objects.get(external_id="p1-r1:p1-r3"), User.objects.get(username="lee"), "b")
    second = snapshot_take(project=labelled)
    assert second != first
    assert second.counts["judgements"] == 8
    assert first.path.is_dir()


def test_an_empty_project_has_a_snapshot(project: Project) -> None:
    snapshot = snapshot_take(project=project)
    assert set(snapshot.counts.values()) == {0}
    assert table(snapshot, "judgements") == []


def test_lost_files_are_written_again(labelled: Project) -> None:
    snapshot = snapshot_take(project=labelled)
    (snapshot.path / "levels.parquet").unlink()
    assert snapshot_take(project=labelled) == snapshot
    assert len(table(snapshot, "levels")) == 4


def test_a_failure_leaves_no_half_snapshot(labelled: Project, data_dir: Path, monkeypatch: Any) -> None:
    def crash(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(services, "_put_in_place", crash)
    with pytest.raises(OSError, match="no space"):
        snapshot_take(project=labelled)
    assert list((data_dir / "snapshots").iterdir()) == []
    assert not Snapshot.objects.exists()


def test_an_imported_name_that_a_person_has_keeps_its_prefix(
    labelled: Project, judge: Callable[..., Judgement]
) -> None:
    other = User.objects.create(username="capitals:kim", kind=User.Kind.IMPORTED)
    judge(Pair.objects.get(external_id="p1-r1:p1-r3"), other, "a")
    names = {row["annotator"] for row in table(snapshot_take(project=labelled), "judgements")}
    assert names == {"kim", "lee", "max", "capitals:kim"}


@pytest.mark.django_db(transaction=True)
def test_taken_at_once_it_is_one(labelled: Project, data_dir: Path) -> None:
    taken: list[Any] = []

    def take() -> None:
        try:
            taken.append(snapshot_take(project=labelled))
        except Exception as error:
            taken.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 4
    assert set(taken) == {Snapshot.objects.get()}
    assert len(list((data_dir / "snapshots").iterdir())) == 1


@pytest.mark.django_db(transaction=True)
def test_a_label_that_comes_while_reading_is_not_in_it(
    labelled: Project, judge: Callable[..., Judgement]
) -> None:
    """The read is consistent, and the writer isn't kept waiting for it."""
    pair, user = Pair.objects.get(external_id="p1-r1:p1-r3"), User.objects.get(username="lee")

    def write() -> None:
        judge(pair, user, "b")
        connection.close()

    with consistent_read():
        before = Judgement.objects.count()
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(timeout=10)
        assert not writer.is_alive()
        assert Judgement.objects.count() == before
    assert Judgement.objects.count() == before + 1
