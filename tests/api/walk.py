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


SKIP = {"verdict": "skip", "revision": 1}
UPLOAD = {"multipart": {"files": b"a file"}}
SET = {"multipart": {"name": "Bench", "files": b"a file"}}
MAPPING = {"roles": {"q": "prompt", "one": "response"}}
MEASUREMENT_CANCEL = "POST /projects/{slug}/evaluation-sets/{pk}/measurements/{measurement}/cancel"
HOOK = {"url": "https://example.com/", "kinds": ["run.finished"]}
PAIR = {"prompt_text": "Which?", "text_a": "one", "text_b": "another"}

ROLLOUTS = {
    "server": "gpu-1",
    "version": "0" * 64,
    "window": {"from": "2026-11-01T12:00:00Z", "to": "2026-11-01T12:05:00Z"},
    "seen": 8,
    "prompts": 1,
    "candidates": 28,
    "rewards": {"count": 8, "mean": 5.0, "sd": 1.0},
    "length": {"mean": 80.0, "sd": 9.0},
    "pairs": [],
}

ROWS = [
    Row("GET /me", None, 200, 200, 200, 200),
    Row("GET /projects", READ, 200, 200, 200, 200),
    Row("POST /projects", WRITE, 403, 403, 403, 403, {"name": "New", "slug": "new"}),
    Row("GET /projects/{slug}", READ, 200, 200, 200),
    Row("PATCH /projects/{slug}", WRITE, 403, 403, 200, body={"overlap": 4}),
    Row("POST /projects/{slug}/archive", WRITE, 403, 403, 200),
    Row("POST /projects/{slug}/unarchive", WRITE, 403, 403, 200),
    Row("POST /projects/{slug}/cards/next", WRITE, 200, 403, 200, body={}),
    Row("GET /projects/{slug}/cards/{key}", READ, 404, 403, 200, at="card"),
    Row("POST /projects/{slug}/cards/{key}", WRITE, 404, 403, 200, body=SKIP, at="card"),
    Row("POST /projects/{slug}/cards/undo", WRITE, 200, 403, 200, body={}),
    Row("GET /projects/{slug}/judgements", READ, 200, 200, 200),
    Row("GET /projects/{slug}/levels", READ, 200, 200, 200),
    Row("GET /projects/{slug}/imports", READ, 403, 403, 200),
    Row("POST /projects/{slug}/imports", WRITE, 403, 403, 202, body=UPLOAD),
    Row(
        "POST /projects/{slug}/imports/address", WRITE, 403, 403, 422, body={"address": "file:///etc/passwd"}
    ),
    Row("GET /projects/{slug}/imports/{pk}", READ, 403, 403, 200, at="preview"),
    Row("DELETE /projects/{slug}/imports/{pk}", WRITE, 403, 403, 204, at="preview"),
    Row("GET /projects/{slug}/imports/{pk}/errors", READ, 403, 403, 200, at="preview"),
    Row("GET /projects/{slug}/imports/{pk}/mapping", READ, 403, 403, 200, at="preview"),
    Row("PUT /projects/{slug}/imports/{pk}/mapping", WRITE, 403, 403, 200, body=MAPPING, at="preview"),
    Row("POST /projects/{slug}/imports/{pk}/ask", WRITE, 403, 403, 200, at="preview"),
    Row("POST /projects/{slug}/imports/{pk}/confirm", WRITE, 403, 403, 200, at="preview"),
    Row("POST /projects/{slug}/imports/{pk}/cancel", WRITE, 403, 403, 409, at="preview"),
    Row("POST /projects/{slug}/imports/{pk}/retry", WRITE, 403, 403, 409, at="preview"),
    Row("POST /projects/{slug}/imports/{pk}/undo", WRITE, 403, 403, 409, at="preview"),
    Row("GET /projects/{slug}/snapshots", READ, 403, 200, 200),
    Row("POST /projects/{slug}/snapshots", WRITE, 403, 202, 202),
    Row("GET /projects/{slug}/snapshots/{pk}", READ, 403, 200, 200, at="snapshot"),
    Row("GET /projects/{slug}/exports", READ, 403, 200, 200),
    Row("GET /projects/{slug}/exports/jobs", READ, 403, 200, 200),
    Row("POST /projects/{slug}/exports/jobs", WRITE, 403, 202, 202, body={}),
    Row("GET /projects/{slug}/exports/jobs/{pk}", READ, 403, 200, 200, at="export"),
    Row("GET /projects/{slug}/exports/jobs/{pk}/files/{name}", READ, 403, 200, 200, at="export file"),
    Row("GET /projects/{slug}/exports/{format}", READ, 403, 200, 200, at="format"),
    Row("GET /projects/{slug}/exports/{format}/card", READ, 403, 200, 200, at="format"),
    Row("GET /projects/{slug}/runs", READ, 403, 200, 200),
    Row("POST /projects/{slug}/runs", TRAIN, 403, 403, 422, body={"method": "oprm"}),
    Row("GET /projects/{slug}/runs/{pk}", READ, 403, 200, 200, at="run"),
    Row("GET /projects/{slug}/runs/{pk}/progress", READ, 403, 200, 200, at="run"),
    Row("GET /projects/{slug}/runs/{pk}/log", READ, 403, 200, 200, at="run"),
    Row("POST /projects/{slug}/runs/{pk}/cancel", TRAIN, 403, 403, 409, at="run"),
    Row("POST /projects/{slug}/runs/{pk}/resume", TRAIN, 403, 403, 200, at="run"),
    Row("GET /projects/{slug}/versions", READ, 403, 200, 200),
    Row("GET /projects/{slug}/versions/{pk}", READ, 403, 200, 200, at="version"),
    Row("POST /projects/{slug}/versions/{pk}/promote", TRAIN, 403, 403, 200, at="version"),
    Row("GET /projects/{slug}/versions/{pk}/files", "read score", 403, 200, 200, at="version"),
    Row("GET /projects/{slug}/versions/{pk}/files/{name}", "read score", 403, 200, 200, at="version file"),
    Row("GET /projects/{slug}/versions/{pk}/predictions", READ, 403, 200, 200, at="version"),
    Row("GET /projects/{slug}/responses/{pk}/predictions", READ, 403, 200, 200, at="response"),
    Row("GET /projects/{slug}/serving", SCORE, 403, 409, 409),
    Row("GET /projects/{slug}/evaluation-sets", READ, 403, 200, 200),
    Row("POST /projects/{slug}/evaluation-sets", WRITE, 403, 202, 202, body=SET),
    Row("GET /projects/{slug}/evaluation-sets/{pk}", READ, 403, 200, 200, at="set"),
    Row("DELETE /projects/{slug}/evaluation-sets/{pk}", WRITE, 403, 204, 204, at="set"),
    Row("POST /projects/{slug}/evaluation-sets/{pk}/retry", WRITE, 403, 409, 409, at="set"),
    Row("GET /projects/{slug}/evaluation-sets/{pk}/measurements", READ, 403, 200, 200, at="set"),
    Row(
        "POST /projects/{slug}/evaluation-sets/{pk}/measurements",
        TRAIN,
        403,
        422,
        422,
        body={"version": 0},
        at="set",
    ),
    Row(MEASUREMENT_CANCEL, TRAIN, 403, 200, 200, at="measurement"),
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
    # 409: the project does not ask people back.
    Row("POST /projects/{slug}/rollouts", SCORE, 403, 409, 409, body=ROLLOUTS),
    Row("GET /projects/{slug}/rollouts", READ, 403, 200, 200),
    Row("GET /projects/{slug}/rollouts/pairs", READ, 403, 200, 200),
]
