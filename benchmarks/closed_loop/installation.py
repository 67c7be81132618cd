"""A Caliper of its own with the benchmark's projects, people who judge by the gold reward, and its reward servers."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.closed_loop.world import Policy, Text, p_gold, prompts
from tests.instance import REPOSITORY, Instance, own_environment

BASE = "first-layer"
PEOPLE = 4
SECONDS = 180  # within which a first model must serve, and a server answer


class Version(NamedTuple):
    """A version that serves: where its folder lies, and what the server calls it."""

    folder: Path
    digest: str


class Installation:
    """An embedded Caliper, whose rows this process reads and makes as well."""

    def __init__(self, folder: Path, *, retrain_after: int) -> None:
        """`retrain_after`: labels that start a training."""
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        self._retrain_after = retrain_after
        base = first_layer(folder / "models" / BASE)
        environment = own_environment(self.data) | {
            "HF_HUB_OFFLINE": "1",
            "CALIPER_BASE_MODEL_DIRS": str(base.parent),
            "CALIPER_CACHE_DIR": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",  # policy, server, trainer and pages share two cores
        }
        os.environ.clear()
        os.environ.update(environment, DJANGO_SETTINGS_MODULE="webapp.settings")
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        from webapp.accounts.models import User

        self.admin = User.objects.create_user("ada", password=os.urandom(12).hex(), is_staff=True)
        self._instance = Instance(self.data, CALIPER_TICK_SECONDS="2", OMP_NUM_THREADS="1").ready()
        self.url = f"http://127.0.0.1:{self._instance.port}"

    def end(self) -> None:
        self._instance.stop()
        self._instance.destroy()

    # --- Projects ---

    def project(self, slug: str, judged: list[tuple[Text, Text, str]]) -> Any:
        """A project with these judgements, which begins to train by itself."""
        from webapp.corpus.models import Membership, Project

        project = Project.objects.create(
            slug=slug,
            name=slug,
            asks=Project.Asks.PAIRS,
            overlap=1,
            methods=["bt"],
            base_model=f"folder:{BASE}",
            tuning="frozen",
            training_options={"epochs": 40, "crossfit": 0},
            split_salt=slug,
        )
        Membership.objects.create(project=project, user=self.admin, role=Membership.Role.ADMIN)
        rows = self.data / f"{slug}.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in _rows(judged)), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "manage.py", "import_data", "--project", slug, str(rows)],
            cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"closed_loop: the import failed: {done.stderr[-2000:]}")
        Project.objects.filter(pk=project.pk).update(retrain_after_labels=self._retrain_after)
        return project

    def ask_back(self, project: Any, *, questions: int, sample: int, window: int, only_random: bool) -> None:
        """Switch on that rollouts are asked about: at most so many pairs an hour, `sample` of each window (seconds)."""
        from webapp.rollouts.models import RolloutSettings

        share = 0 if only_random else 33
        RolloutSettings.objects.create(
            project=project, on=True, per_hour=questions, sample=sample, window_seconds=window,
            uncertain=share, moved=share,
        )  # fmt: skip

    def serving(self, project: Any, after: str = "") -> Version:
        """The version that serves, as soon as there is another than `after`."""
        from webapp.training.models import ModelVersion

        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = ModelVersion.objects.filter(run__project=project, is_serving=True).first()
            if found is not None and found.digest != after:
                return Version(found.run.folder / "model", found.digest)
            time.sleep(0.2)
        raise SystemExit(
            f"closed_loop: {project.slug} has no serving version after {SECONDS} s; {self._runs(project)}"
        )

    @staticmethod
    def folders(project: Any) -> dict[str, Path]:
        """The model folders of a project's versions, by digest."""
        from webapp.training.models import ModelVersion

        versions = ModelVersion.objects.filter(run__project=project).select_related("run")
        return {version.digest: version.run.folder / "model" for version in versions}

    @staticmethod
    def _runs(project: Any) -> str:
        from webapp.training.models import TrainingRun

        return "; ".join(
            f"run {run.pk} {run.state} {run.error}" for run in TrainingRun.objects.filter(project=project)
        )

    def delays(self, project: Any, answered: Mapping[str, float]) -> list[tuple[float, float]]:
        """Of each retrained version that answered: seconds since its trigger fired, and since the label that it takes.

        They differ where that label came while an earlier training ran, which the trigger waits for. `answered`: when
        (a time.time()) a version, by digest, first scored.
        """
        from webapp.labels.models import Judgement
        from webapp.training.models import TrainingRun

        verdicts = Judgement.objects.verdicts().filter(pair__project=project).order_by("created_at")
        times = [at.timestamp() for at in verdicts.values_list("created_at", flat=True)]
        found = []
        runs = list(TrainingRun.objects.filter(project=project).order_by("pk"))
        for before, run in itertools.pairwise(runs):
            version = getattr(run, "version", None)
            if version is not None and before.finished_at is not None and version.digest in answered:
                labelled = times[before.labels_seen + self._retrain_after - 1]
                fired = max(labelled, before.finished_at.timestamp())
                found.append((answered[version.digest] - fired, answered[version.digest] - labelled))
        return found

    def verdicts_of_the_gate(self, project: Any) -> list[str]:
        """What became of each training, in words."""
        from webapp.training.models import TrainingRun

        said = []
        for run in TrainingRun.objects.filter(project=project).order_by("pk"):
            version = getattr(run, "version", None)
            said.append(f"{run.state}: {run.error}" if version is None else version.gate_reason)
        return said

    # --- People and servers ---

    def token(self, user: Any, scope: str) -> str:
        from webapp.api.tokens import token_make

        return token_make(user=user, name=scope, scopes=[scope], actor=self.admin)[1]

    def people(self, project: Any) -> list[str]:
        """Tokens of the simulated people who judge the project."""
        from webapp.accounts.models import User
        from webapp.corpus.models import Membership

        tokens = []
        for number in range(PEOPLE):
            user = User.objects.create_user(
                f"{project.slug}-simulated-{number}", password=os.urandom(12).hex()
            )
            Membership.objects.create(project=project, user=user, role=Membership.Role.ANNOTATOR)
            tokens.append(self.token(user, "write"))
        return tokens

    @contextmanager
    def server(self, *, project: Any = None, version: Version | None = None) -> Iterator[str]:
        """The address of a reward server that follows the project, or holds to a version."""
        whom = ["--project", f"{self.url}/p/{project.slug}"] if version is None else [str(version.folder)]
        environment = dict(os.environ)
        if version is None:
            environment["CALIPER_TOKEN"] = self.token(self.admin, "score")
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.rewards.serve", *whom, "--port", "0"],
            cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            listening = re.search(r"http://\S+", process.stdout.readline())
            if listening is None:
                raise SystemExit("closed_loop: the reward server did not start")
            end = time.monotonic() + SECONDS
            while httpx.get(f"{listening[0]}/healthz", timeout=60).status_code != 200:
                if time.monotonic() > end:
                    raise SystemExit("closed_loop: the reward server has no model")
                time.sleep(0.2)
            yield listening[0]
        finally:
            process.terminate()
            process.wait(60)


def first_layer(folder: Path) -> Path:
    """all-MiniLM-L6-v2 without its layers 2 to 6, as a base model: what words are there, and how many, at a sixth of
    the time."""
    from workers.rewards.models.base_models import PACKAGED, resolve_base_model
    from workers.rewards.models.load import load_backbone, load_tokenizer

    source = resolve_base_model(PACKAGED)
    backbone: Any = load_backbone(source, source, "encoder")
    backbone.encoder.layer = backbone.encoder.layer[:1]
    backbone.config.num_hidden_layers = 1
    backbone.save_pretrained(folder)
    load_tokenizer(source, source).save_pretrained(folder)
    return folder


def _rows(judged: list[tuple[Text, Text, str]]) -> Iterator[dict[str, Any]]:
    """Caliper's own format: prompts, responses, pairs, and one vote on each pair."""
    for number, prompt in enumerate(prompts()):
        yield {"type": "prompt", "id": f"p{number}", "messages": [{"role": "user", "content": prompt}]}
    names: dict[tuple[str, str], str] = {}
    for text in (text for a, b, _ in judged for text in (a, b)):
        if (text.prompt, text.text) not in names:
            name = names[text.prompt, text.text] = f"r{len(names)}"
            prompt = f"p{prompts().index(text.prompt)}"
            yield {"type": "response", "id": name, "prompt": prompt, "text": text.text, "author": "initial"}
    for number, (a, b, verdict) in enumerate(judged):
        first, second = names[a.prompt, a.text], names[b.prompt, b.text]
        yield {"type": "pair", "id": f"q{number}", "a": first, "b": second}
        yield {
            "type": "vote",
            "pair": f"q{number}",
            "annotator": f"rater-{number % PEOPLE}",
            "verdict": verdict,
        }


def first_judgements(count: int, rng: random.Random) -> list[tuple[Text, Text, str]]:
    """What people said of pairs that the policy wrote before it learnt anything."""
    policy = Policy()
    judged: list[tuple[Text, Text, str]] = []
    pairs: set[tuple[str, ...]] = set()
    while len(judged) < count:
        prompt = rng.choice(prompts())
        a, b = policy.write(prompt, rng), policy.write(prompt, rng)
        pair = (prompt, *sorted((a.text, b.text)))
        if a.text != b.text and pair not in pairs:
            pairs.add(pair)
            judged.append((a, b, "a" if rng.random() < p_gold(a, b) else "b"))
    return judged


class Judges(threading.Thread):
    """People who judge what they are asked, by the gold reward and with its noise, through the API."""

    def __init__(
        self, api: str, tokens: list[str], written: Mapping[tuple[str, str], Text], seed: int
    ) -> None:
        super().__init__(daemon=True)
        self._api, self._tokens, self._written = api, tokens, written
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self.judged = 0
        self.error: Exception | None = None

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self._api, timeout=60) as client:
                while not self._stopping.is_set():
                    if not sum(self._some(client, token) for token in self._tokens):
                        self._stopping.wait(0.5)
        except Exception as error:
            self.error = error

    def _some(self, client: httpx.Client, token: str) -> int:
        """Judge up to ten cards as one person; how many."""
        headers = {"Authorization": f"Bearer {token}"}
        found = client.post("/cards/next", json={"count": 10}, headers=headers).raise_for_status().json()
        for card in found["cards"]:
            prompt = card["prompt"]["messages"][0]["content"]
            left, right = (self._written[prompt, card[side]["text"]] for side in ("left", "right"))
            verdict = "left" if self._random.random() < p_gold(left, right) else "right"
            answer = {"verdict": verdict, "revision": card["revision"]}
            client.post(f"/cards/{card['key']}", json=answer, headers=headers).raise_for_status()
            self.judged += 1
        return len(found["cards"])
