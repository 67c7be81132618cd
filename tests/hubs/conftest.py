"""A hub double that the settings point at, and files for it."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hub_double import READ, WRITE, Hub, running


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    with running() as hub:
        yield hub


@pytest.fixture
def hub(hub_server: Hub, settings: Any) -> Iterator[Hub]:
    """The hub, empty; what it was sent was in order."""
    hub = hub_server
    hub.forget()
    settings.HUB_ENDPOINT, settings.HUB_TOKEN, settings.HUB_PUSH_TOKEN = hub.url, READ, WRITE
    yield hub
    assert hub.problems == []


@pytest.fixture(scope="session")
def parquet() -> Callable[[list[dict[str, Any]]], bytes]:
    """Rows as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def make(rows: list[dict[str, Any]]) -> bytes:
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file.getvalue()

    return make
