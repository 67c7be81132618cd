"""`python -m webapp.probe [PART,PART...]`: ask the web process here for /healthz; exit 0 when all is well.
`python -m webapp.probe beat`: does beat send its ticks? Asks the broker, since beat serves nothing.

Used by the containers' health checks and by the embedded supervisor. Standard library only, no Django, but for beat.
"""

import json
import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import Any


def ask(port: int, *, only: str = "", timeout: float = 5.0) -> tuple[int, dict[str, Any]]:
    """Status and JSON of /healthz on 127.0.0.1:`port`; status 0 and the reason where there is no answer."""
    # The web process refuses hosts it doesn't serve, and behind a proxy it redirects what is not https.
    hosts = [host for host in os.environ.get("CALIPER_ALLOWED_HOSTS", "").split(",") if host.strip(" .*")]
    headers = {"Host": hosts[0].strip().lstrip(".") if hosts else "127.0.0.1", "X-Forwarded-Proto": "https"}
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", f"/healthz?only={only}" if only else "/healthz", headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, HTTPException, ValueError) as error:
        return 0, {"ok": False, "error": f"no answer from 127.0.0.1:{port}: {error}"}
    finally:
        connection.close()


def ask_beat() -> tuple[int, dict[str, Any]]:
    """200 while beat's sign of life is there, else 503; 0 and the kind of error where the broker doesn't answer."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    from webapp.heartbeat import beat_lives

    try:
        lives = beat_lives()
    except Exception as error:
        return 0, {"ok": False, "error": f"no answer from the broker: {type(error).__name__}"}
    return (
        (200, {"ok": True}) if lives else (503, {"ok": False, "error": "beat has sent no tick for a while"})
    )


def main() -> int:
    if sys.argv[1:2] == ["beat"]:
        status, answer = ask_beat()
        print(json.dumps(answer))
        return 0 if status == 200 else 1
    status, answer = ask(int(os.environ.get("PORT", "8000")), only=",".join(sys.argv[1:2]))
    print(json.dumps(answer))
    return 0 if status == 200 else 1


if __name__ == "__main__":
    raise SystemExit(main())
