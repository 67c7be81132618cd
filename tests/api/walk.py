"""What every route answers to each role: the table that test_walk.py goes through. A route is a line.

`at` names the row whose key stands for the path's last parameter in braces (test_walk.py makes those rows; add a maker
there). An anonymous caller gets 401 and a token without the scope 403 from every route, so neither is written here.
"""

from typing import Any, NamedTuple

READ, WRITE, TRAIN, SCORE = "read", "write", "train", "score"


class Row(NamedTuple):
    route: str
    scope: str | None
    """Several that each suffice stand with a blank between them: “read score”."""
    annotator: int
    researcher: int
    admin: int
    stranger: int = 404
    body: Any = None
    at: str = ""
    """Name of the maker of the row at which a path ends."""


HOOK = {"url": "https://example.com/", "kinds": ["run.finished"]}
PAIR = {"prompt_text": "Which?", "text_a": "one", "text_b": "another"}

ROWS = [
    Row("GET /me", None, 200, 200, 200, 200),
    Row("GET /projects", READ, 200, 200, 200, 200),
    Row("POST /projects", WRITE, 403, 403, 403, 403, {"name": "New", "slug": "new"}),
    Row("GET /projects/{slug}", READ, 200, 200, 200),
    Row("PATCH /projects/{slug}", WRITE, 403, 403, 200, body={"overlap": 4}),
    Row("POST /projects/{slug}/archive", WRITE, 403, 403, 200),
    Row("POST /projects/{slug}/unarchive", WRITE, 403, 403, 200),
    Row("GET /projects/{slug}/prompts", READ, 403, 200, 200),
    Row("GET /projects/{slug}/prompts/{pk}", READ, 403, 200, 200, at="prompt"),
    Row("GET /projects/{slug}/responses", READ, 403, 200, 200),
    Row("GET /projects/{slug}/responses/{pk}", READ, 403, 200, 200, at="response"),
    Row("GET /projects/{slug}/pairs", READ, 403, 200, 200),
    Row("POST /projects/{slug}/pairs", WRITE, 403, 403, 201, body=PAIR),
    Row("GET /projects/{slug}/pairs/{pk}", READ, 403, 200, 200, at="pair"),
    Row("GET /projects/{slug}/webhooks", READ, 403, 403, 200),
    Row("POST /projects/{slug}/webhooks", WRITE, 403, 403, 201, body=HOOK),
    Row("GET /projects/{slug}/webhooks/{pk}", READ, 403, 403, 200, at="webhook"),
    Row("PATCH /projects/{slug}/webhooks/{pk}", WRITE, 403, 403, 200, body={"active": False}, at="webhook"),
    Row("DELETE /projects/{slug}/webhooks/{pk}", WRITE, 403, 403, 204, at="webhook"),
    Row("POST /projects/{slug}/webhooks/{pk}/secret", WRITE, 403, 403, 200, at="webhook"),
    Row("POST /projects/{slug}/webhooks/{pk}/ping", WRITE, 403, 403, 201, at="webhook"),
    Row("GET /projects/{slug}/webhooks/{pk}/deliveries", READ, 403, 403, 200, at="webhook"),
    Row(
        "POST /projects/{slug}/webhooks/{pk}/deliveries/{delivery}/redeliver",
        WRITE,
        403,
        403,
        200,
        at="delivery",
    ),
]
