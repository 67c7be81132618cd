"""Files in and out at s3://, by the real s3fs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hubs.s3_double import KEY, SECRET, Store, running
from webapp.importing.origins import origin_fetched, origin_of
from webapp.importing.sources import ImportRefused
from webapp.snapshots.pushes import Part
from webapp.snapshots.pushing import PushRefused, parts_push

pytest.importorskip("s3fs")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Store]:
    with running() as store:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_ENDPOINT_URL", store.url),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        settings.STORES, settings.STORES_OUT = ["s3://labs/in/"], ["s3://labs/out/"]
        yield store
        assert store.problems == []


def test_in_and_out(store: Store, tmp_path: Path) -> None:
    row = b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
    store.objects |= {
        "labs/in/prefs/data/train.jsonl": row * 3,
        "labs/in/prefs/data/test.jsonl": row,
        "labs/in/prefs/README.md": b"# none",
        "labs/other.jsonl": b"secret",
    }

    def fetched(address: str, split: str = "") -> dict[str, Any]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        found = origin_fetched(origin_of(address, split=split), folder, lambda phase, step, total: None)
        return {file["path"]: (folder / file["name"]).read_bytes() for file in found["files"]}

    assert fetched("s3://labs/in/prefs", "train") == {"data/train.jsonl": row * 3}
    assert fetched("s3://labs/in/prefs/data/test.jsonl") == {"test.jsonl": row}
    with pytest.raises(ImportRefused, match="There is nothing at"):
        fetched("s3://labs/in/none.jsonl")

    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    parts = [Part("a/model.bin", 7, lambda: file.open("rb", 0))]
    told: dict[str, Any] = {"kind": "model", "public": False, "title": "A model", "facts": {"digest": "d"}}
    assert parts_push(parts, "s3://labs/out/model", **told)["bytes"] == 7
    assert store.objects["labs/out/model/a/model.bin"] == b"weights"
    assert b'"digest": "d"' in store.objects["labs/out/model/caliper.json"]
    with pytest.raises(PushRefused, match="There is something"):
        parts_push(parts, "s3://labs/out/model", **told)
