"""Scaling out: a pooler before the database, and two web processes that share it and nothing else."""

import base64
import hashlib
import hmac
import json
import re
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import requests

from tests.instance import own_environment, redis_started
from tests.labels.race import OVERLAP, PEOPLE, RESPONSES
from tests.ops.pooler import CONNECTIONS, PROGRAM, pooled
from tests.ops.production import free_port
from tests.run import postgres_url

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
SECRET = base64.b32encode(b"a secret of tests...").decode()

pytestmark = pytest.mark.xdist_group("scaled")
with_pooler = pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer (Debian: apt-get install pgbouncer)")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address, through the pooler if there is one, of a database whose sessions begin in another time zone."""
    server = postgres_url()
    if server is None:
        pytest.skip("no PostgreSQL at 127.0.0.1:5432 and no TEST_DATABASE_URL")
    name, base = f"caliper_scaled_{uuid.uuid4().hex[:8]}", server.rpartition("/")[0]
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        admin.execute(f"ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'")
        try:
            with pooled(f"{base}/{name}", tmp_path_factory.mktemp("pooler")) as url:
                python(["-m", "tests.labels.race", "prepare"], url, tmp_path_factory.mktemp("data"))
                yield url
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def environment(url: str, data: Path) -> dict[str, str]:
    return own_environment(data) | {
        "DATABASE_URL": url,
        "CALIPER_SECRET_KEY": "k" * 48,
        "CALIPER_TOTP": "true",
        "OMP_NUM_THREADS": "1",
    }


def python(words: list[str], url: str, data: Path, said: str = "") -> str:
    result = subprocess.run(
        [sys.executable, *words], env=environment(url, data), cwd=REPOSITORY, input=said,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@with_pooler
def test_the_overlap_stays_exact_behind_a_pooler(database: str, tmp_path: Path) -> None:
    """Thirty annotators on three connections."""
    python(["-m", "tests.labels.race", "work", "0", "30"], database, tmp_path, "go\n")
    found = json.loads(python(["-m", "tests.labels.race", "check"], database, tmp_path))
    assert found["judgements_per_pair"] == [OVERLAP]
    assert found["pairs_judged"] == RESPONSES * (RESPONSES - 1) // 2
    assert found["twice_by_one"] == 0
    assert found["counters_equal_recount"]
    assert found["people"] > PEOPLE / 4


JOBS = """
from pathlib import Path
from django.conf import settings
from django.core.management import call_command
from webapp.corpus.models import Project
from webapp.labels.models import Judgement
from webapp.importing.services import import_confirm, import_run, import_start
from workers.housekeeping import tick
from django.core.files.uploadedfile import SimpleUploadedFile

project = Project.objects.create(slug="demo", name="Demo", overlap=2)
corpus = SimpleUploadedFile("corpus.jsonl", Path("webapp/corpus/demo/corpus.jsonl").read_bytes())
job = import_start(project=project, files=[corpus], format="auto", created_by=None)
import_run(job)
assert import_confirm(import_row=job)
job.refresh_from_db()
import_run(job)
job.refresh_from_db()
assert job.state == "done", job.error
call_command("simulate", project="demo", annotators=3, judgements=40, verbosity=0)
tick()
for format in ("judgements", "caliper"):
    call_command("export_data", project="demo", format=format, file_type="jsonl", out=settings.DATA_DIR / format)
call_command("backup", settings.DATA_DIR.parent / "backup")
print(Judgement.objects.filter(pair__project=project, is_current=True).count())
"""


@with_pooler
def test_jobs_leave_nothing_in_a_pooled_session(database: str, tmp_path: Path) -> None:
    """An import, its signs of life, a tick, exports and a backup: then every session is as the database makes it."""
    said = python(["manage.py", "shell", "-c", JOBS], database, tmp_path / "data")
    lines = (tmp_path / "data" / "judgements" / "data" / "train.jsonl").read_text().splitlines()
    assert len(lines) == int(said.split()[-1]) >= 40
    assert all(json.loads(line)["created_at"].endswith("+00:00") for line in lines)
    clients = [psycopg.connect(database) for _ in range(CONNECTIONS)]
    try:
        for client in clients:  # each transaction is open, so each has a session of its own
            assert client.execute("SHOW lock_timeout").fetchone() == ("0",)
            assert client.execute("SELECT count(*) FROM pg_cursors WHERE is_holdable").fetchone() == (0,)
            assert client.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
            assert client.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (
                0,
            )
    finally:
        for client in clients:
            client.close()


_ROWS = [
    {"type": "prompt", "id": "p", "messages": [{"role": "user", "content": "Say a number."}]},
    *({"type": "response", "id": f"r{number}", "prompt": "p", "text": str(number)} for number in range(4)),
]
CORPUS = "\n".join(map(json.dumps, _ROWS))
PEOPLE_OF_TWO = f"""
from allauth.mfa.totp.internal.auth import TOTP
from django.conf import settings
from django.core.management import call_command
from webapp.accounts.models import User
from webapp.corpus.models import Membership, Project

project = Project.objects.create(slug="two", name="Two", overlap=1, asks="pairs")
settings.DATA_DIR.joinpath("corpus.jsonl").write_text({CORPUS!r})
call_command("import_data", settings.DATA_DIR / "corpus.jsonl", project="two", verbosity=0)
for name in ("anna", "tom"):
    user = User.objects.create_user(name, password="{PASSWORD}", email=f"{{name}}@example.org")
    Membership.objects.create(project=project, user=user, role="annotator")
TOTP.activate(user, "{SECRET}")
"""


@pytest.fixture(scope="module")
def replicas(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """Addresses of two web processes, each with a data folder of its own, and the folder of their mail."""
    root = tmp_path_factory.mktemp("replicas")
    python(["manage.py", "shell", "-c", PEOPLE_OF_TWO], database, root)
    broker, broker_url = redis_started(root)
    processes, urls = [broker], []
    try:
        for number in range(2):
            settings = environment(database, root / f"data{number}") | {
                "REDIS_URL": broker_url,
                "CALIPER_DEBUG": "true",  # static files need no collecting then
                "CALIPER_EMAIL_URL": f"filemail:///{root}/mail",
                "CALIPER_EMAIL_FROM": "caliper@example.org",
            }
            urls.append(f"http://127.0.0.1:{(port := free_port())}")
            words = [
                "-m",
                "gunicorn",
                "webapp.wsgi:application",
                "--bind",
                f"127.0.0.1:{port}",
                "--threads",
                "4",
            ]
            command = [sys.executable, *words, "--no-control-socket"]
            with (root / f"log{number}").open("w") as log:
                processes.append(subprocess.Popen(command, env=settings, cwd=REPOSITORY, stderr=log))
        for url in urls:
            for _ in range(300):
                try:
                    requests.get(f"{url}/sign-in/", timeout=20)
                    break
                except requests.ConnectionError:
                    time.sleep(0.1)
        yield urls[0], urls[1], root / "mail"
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)  # gunicorn would wait for connections that are kept alive
        for process in processes:
            process.wait(20)


def send(session: requests.Session, url: str, **form: str) -> requests.Response:
    """Send a form with the token of the page that is there already, or of the sign-in page."""
    if "csrftoken" not in session.cookies:
        session.get(f"{url.split('/', 3)[0]}//{url.split('/', 3)[2]}/sign-in/", timeout=20)
    form["csrfmiddlewaretoken"] = session.cookies["csrftoken"] or ""
    return session.post(url, form, allow_redirects=False, timeout=20)


def sign_in(url: str, name: str, password: str = PASSWORD) -> tuple[requests.Session, requests.Response]:
    session = requests.Session()
    return session, send(session, f"{url}/sign-in/", username=name, password=password)


def test_one_signs_in_at_one_and_judges_at_both(replicas: tuple[str, str, Path], database: str) -> None:
    one, other, _ = replicas
    session, _ = sign_in(one, "anna")
    for number in range(6):
        page = session.get(f"{(one, other)[number % 2]}/p/two/annotate/", timeout=20).text
        address = re.search(r'action="(/p/two/annotate/[0-9a-f-]{36}/)"', page)
        assert address is not None, page
        answer = send(session, f"{(other, one)[number % 2]}{address[1]}", verdict="left", revision="0")
        assert answer.status_code == 302, answer.text
    with psycopg.connect(database) as connection:
        query = """SELECT count(*), count(DISTINCT pair_id) FROM labels_judgement JOIN accounts_user
                   ON annotator_id = accounts_user.id WHERE username = 'anna'"""
        assert connection.execute(query).fetchone() == (6, 6)


def test_failures_are_counted_together(replicas: tuple[str, str, Path]) -> None:
    one, other, _ = replicas
    answers = [sign_in(url, "nobody", "wrong")[1].status_code for url in (one, other, one, other, one)]
    assert answers == [200, 200, 200, 200, 429]


def test_a_code_is_spent_at_both(replicas: tuple[str, str, Path]) -> None:
    one, other, _ = replicas
    if (left := 30 - time.time() % 30) < 8:  # a code must not run out in between
        time.sleep(left)
    counter = struct.pack(">Q", int(time.time()) // 30)
    digest = hmac.new(base64.b32decode(SECRET), counter, hashlib.sha1).digest()
    (value,) = struct.unpack_from(">I", digest, digest[-1] & 15)
    answers = []
    for url in (one, other):
        session, asked = sign_in(url, "tom")
        assert asked.headers["Location"] == "/sso/codes/authenticate/"
        code = f"{(value & 0x7FFFFFFF) % 10**6:06}"
        answers.append(send(session, f"{url}/sso/codes/authenticate/", code=code).status_code)
    assert answers == [302, 200], "the second is the form again"


def test_a_link_is_mailed_once(replicas: tuple[str, str, Path]) -> None:
    for url in replicas[:2]:
        assert send(requests.Session(), f"{url}/forgotten/", email="anna@example.org").status_code == 302
    end = time.monotonic() + 10
    while not (mails := list(replicas[2].glob("*"))) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)
    assert len(mails) == len(list(replicas[2].glob("*"))) == 1
