"""Label Studio beside Caliper: its own server on SQLite, its pairwise template, an annotator as its page makes one."""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.web_load import material
from benchmarks.web_load.client import Broken, Browser, Noted, Reply
from tests.chaos.people import PASSWORD
from webapp import embedded

VERSION = "label-studio==1.23.*"
TEMPLATE = """<View>
  <Text name="prompt" value="$prompt" />
  <Pairwise name="pw" toName="text1,text2" />
  <Text name="text1" value="$a" />
  <Text name="text2" value="$b" />
</View>"""
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
READY_SECONDS = 180


class Studio:
    """The server in a folder of its own. `home` is a virtual environment, made here when it is not there yet."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.program = home / "bin" / "label-studio"
        if not self.program.exists():
            print(f"  installing {VERSION} into {home}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            subprocess.run([str(home / "bin" / "pip"), "install", "-q", VERSION], check=True)
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = embedded._free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.project = 0

    def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        environment |= dict.fromkeys(("SENTRY_DSN", "FRONTEND_SENTRY_DSN"), "")
        environment |= {"COLLECT_ANALYTICS": "0", "LATEST_VERSION_CHECK": "0"}
        command = [
            str(self.program),
            "start",
            "--no-browser",
            "--internal-host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(self.folder / "data"), "--log-level", "ERROR"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/user/login/", timeout=5).close()
            time.sleep(0.5)
        raise SystemExit(f"web_load: Label Studio did not answer; see {self.folder / 'log'}")

    async def load(self, people: "Sequence[StudioAnnotator]", pairs: int, overlap: int) -> None:
        """Everybody signs up; the first one makes the project and imports the tasks."""
        for person in people:
            await person.sign_in()
        first = people[0]
        settings = {"title": "load", "label_config": TEMPLATE, "maximum_annotations": overlap}
        self.project = json.loads((await first.send("/api/projects/", settings)).body)["id"]
        began, tasks = time.perf_counter(), material.rivals(pairs)
        for start in range(0, pairs, 1000):
            reply = await first.send(f"/api/projects/{self.project}/import", tasks[start : start + 1000])
            assert reply.status == 201, (reply.status, reply.body[:500])
        print(f"  Label Studio: {pairs:,} tasks imported in {time.perf_counter() - began:.0f} s", flush=True)

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass
class StudioAnnotator:
    """Its label stream: ask for the next task, post the annotation."""

    name: str
    browser: Browser
    studio: Studio
    noted: Noted
    rng: random.Random
    stored: int = 0

    async def sign_in(self) -> None:
        page = (await self.browser.ask("GET", "/user/signup/")).text
        fields = {
            "email": f"{self.name}@example.org",
            "password": PASSWORD,
            "how_find_us": "",
            "elaborate": "",
        }
        token = TOKEN.findall(page)[0]
        reply = await self.browser.form("/user/signup/", fields | {"csrfmiddlewaretoken": token})
        assert reply.status == 302, f"{self.name} could not sign up: {reply.status} {reply.body[:2000]!r}"

    async def send(self, path: str, body: Any) -> Reply:
        headers = {
            "Content-Type": "application/json",
            "X-CSRFToken": self.browser.cookies.get("csrftoken", ""),
        }
        return await self.browser.ask("POST", path, body=json.dumps(body).encode(), headers=headers)

    async def step(self, intended: float) -> bool:
        project = self.studio.project
        try:
            reply = await self.send(f"/api/dm/actions?id=next_task&project={project}", {})
            if reply.status == 404:
                return False
            assert reply.status == 200, (reply.status, reply.body[:500])
            task = json.loads(reply.body)["id"]
            shown = time.perf_counter()
            self.noted.seconds["page"].append(shown - intended)
            side = self.rng.choice(("left", "right"))
            result = {
                "from_name": "pw",
                "to_name": "pw",
                "type": "pairwise",
                "id": "pw1",
                "value": {"selected": side},
            }
            answer = {"result": [result], "lead_time": 1.0, "draft_id": 0, "parent_prediction": None}
            reply = await self.send(f"/api/tasks/{task}/annotations?project={project}", answer)
            assert reply.status == 201, (reply.status, reply.body[:500])
        except Broken as error:
            self.noted.broken.append(str(error))
            return True
        self.noted.seconds["save"].append(time.perf_counter() - shown)
        self.stored += 1
        return True
