"""Types that several routes share."""

from typing import Annotated, Any, Literal

from ninja import Field, Schema
from pydantic import ConfigDict

Key = Annotated[int, Field(ge=0, lt=10**18, description="A primary key of Caliper's.")]
ExternalId = Annotated[str, Field(description="The id that the row was imported with.")]


class Given(Schema):
    """The base of every body: a field that is none of its own is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")


Message = Annotated[
    dict[str, Any],
    Field(
        description="A turn as it is stored: role, content and, where it has them, name, tool_calls, tool_call_id."
    ),
]

Role = Literal["annotator", "researcher", "admin"]
JobState = Literal["queued", "running", "done", "failed", "cancelled", "lost"]

CONFLICT: dict[int, Any] = {409: {"$ref": "#/components/responses/409"}}
"""For the `openapi_extra` responses of a read that may not be possible as things stand; writes have it anyhow."""
