"""A project of many judgements in PostgreSQL: how large its tables and indexes are, and which queries its pages make.

    python -m benchmarks.ten_million [--judgements 1000000] [--server URL] [--plans]

This fills a database of its own on the server (and drops it at the end): four responses a prompt, six pairs a prompt,
three judgements a pair, two levels a response, a prediction for each response, a tenth of the pairs still open. The
database copies rows that the models made, so a new column needs no word here. Sizes are told as measured, and for ten
million judgements by the rule of three. Then an annotator and an admin ask for the pages; `--plans` prints EXPLAIN
(ANALYZE, BUFFERS) of each page's slowest query. One that changes rows is rolled back after that.
"""

import argparse
import io
import logging
import os
import re
import shutil
import tempfile
import time
from typing import Any

PEOPLE, RESPONSES, PAIRS, VOTES, LEVELS = 200, 4, 6, 3, 2
BYTES_A_JUDGEMENT = 6000
"""Of the disk, with room to spare; fewer bytes free than this and nothing is begun."""
TEN_MILLION = 10_000_000

PAGES = (
    "", "responses/", "responses/?sort=-spread", "responses/?q=prime+rivers", "responses/{response}/", "pairs/",
    "pairs/?sort=-model", "pairs/{pair}/", "people/", "people/{person}/judgements/", "leaderboard/", "runs/",
    "exports/",
)  # fmt: skip


def copies(row: Any, count: int, **columns: str) -> None:
    """Make `count` rows of one, itself the first. `columns` are SQL expressions of g = 0 .. count - 1."""
    from django.db import connection

    quote, table = connection.ops.quote_name, row._meta.db_table
    names = [field.column for field in row._meta.local_concrete_fields]
    columns = {"id": f"{row.pk} + g", **{name: sql for name, sql in columns.items() if name in names}}
    values = [columns.get(name, f"t.{quote(name)}") for name in names]
    with connection.cursor() as cursor:
        if changed := ", ".join(f"{quote(name)} = {sql}" for name, sql in columns.items() if name != "id"):
            cursor.execute(f"UPDATE {table} SET {changed} FROM (SELECT 0 AS g) zero WHERE id = {row.pk}")
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(map(quote, names))}) SELECT {', '.join(values)} FROM {table} t, "
            f"generate_series(1, {count - 1}) g WHERE t.id = {row.pk}"
        )
        cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {row.pk + count})")


def fill(judgements: int) -> Any:
    """The project with all its rows."""
    from django.core.management import call_command

    from webapp.accounts.models import User
    from webapp.corpus.models import Membership, Pair, Project, Prompt, Response
    from webapp.labels.models import Assignment, Judgement, QualityLabel
    from webapp.ratings.models import Prediction, Uncounted
    from webapp.training.models import ModelVersion, TrainingRun
    from workers.housekeeping import tick

    call_command("migrate", verbosity=0)
    project = Project.objects.create(slug="many", name="Many", overlap=VOTES, asks="both")
    judged = judgements // VOTES
    prompts = -(-judged * 10 // 9 // PAIRS)
    words = "(ARRAY['rivers', 'prime', 'numbers', 'history', 'weather', 'Oslo', 'answers', 'models'])"
    word = f"{words}[1 + floor(random() * 8)::int] || ' ' || w"
    some = f"(SELECT string_agg({word}, ' ') FROM generate_series(g, g + 39) w)"
    moment = f"now() - ({judgements} - g) * interval '1 second'"

    user = User.objects.create_user("person-0")
    copies(user, PEOPLE, username="'person-' || g")
    member = Membership.objects.create(project=project, user=user, role="annotator")
    copies(member, PEOPLE, user_id=f"{user.pk} + g")
    prompt = Prompt.objects.create(
        project=project, external_id="p", digest="", messages=[{"role": "user", "content": "Say something."}]
    )
    copies(prompt, prompts, external_id="'prompt-' || g", digest="md5(g::text)", group="'group-' || g / 5")
    response = Response.objects.create(project=project, prompt=prompt, external_id="r", text="t", digest="")
    copies(
        response, prompts * RESPONSES, prompt_id=f"{prompt.pk} + g / {RESPONSES}", external_id="'response-' || g",
        digest="md5(g::text)", text=some, labelled=str(LEVELS), draw="random()", author=f"'model-' || g % {RESPONSES}",
    )  # fmt: skip
    other = Response.objects.get(pk=response.pk + 1)
    pair = Pair.objects.create(
        project=project, external_id="p", response_a=response, response_b=other, wanted=VOTES
    )
    first = f"{response.pk} + g / {PAIRS} * {RESPONSES}"
    copies(
        pair, prompts * PAIRS, external_id="'pair-' || g",
        response_a_id=f"{first} + (ARRAY[0, 0, 0, 1, 1, 2])[1 + g % 6]",
        response_b_id=f"{first} + (ARRAY[1, 2, 3, 2, 3, 3])[1 + g % 6]",
        judged=f"CASE WHEN g < {judged} THEN {VOTES} ELSE 0 END", draw="random()",
    )  # fmt: skip
    person = f"{user.pk} + (g / {VOTES} * 7 + g % {VOTES}) % {PEOPLE}"
    card = Assignment.objects.create(
        project=project, annotator=user, pair=pair, left="a", state="done", policy="random", propensity=0.001,
        holds_place=False, reserved_until="2026-01-01T00:00Z",
    )  # fmt: skip
    of_pair = {"pair_id": f"{pair.pk} + g / {VOTES}", "annotator_id": person, "created_at": moment}
    copies(
        card, judged * VOTES, key="gen_random_uuid()", left="(ARRAY['a', 'b'])[1 + g % 2]",
        reserved_until=moment, **of_pair,
    )  # fmt: skip
    judgement = Judgement.objects.create(
        pair=pair, annotator=user, assignment=card, verdict="a", left="a", policy="random", propensity=0.001,
        client_key="c", shown_at="2026-01-01T00:00Z",
    )  # fmt: skip
    copies(
        judgement, judged * VOTES, assignment_id=f"{card.pk} + g", client_key="gen_random_uuid() || ':0'",
        verdict="(ARRAY['a', 'a', 'b', 'b', 'tie', 'both_bad'])[1 + floor(random() * 6)::int]",
        left="(ARRAY['a', 'b'])[1 + g % 2]", shown_at=moment, **of_pair,
    )  # fmt: skip
    level = QualityLabel.objects.create(response=response, annotator=user, level="good", client_key="c")
    copies(
        level, prompts * RESPONSES * LEVELS, response_id=f"{response.pk} + g / {LEVELS}", created_at=moment,
        annotator_id=f"{user.pk} + (g / {LEVELS} * 11 + g % {LEVELS}) % {PEOPLE}",
        client_key="gen_random_uuid() || ':level'",
        level="(ARRAY['bad', 'normal', 'good'])[1 + floor(random() * 3)::int]",
    )  # fmt: skip
    run = TrainingRun.objects.create(
        project=project, method="oprm", trigger="button", config={}, config_digest="1", state="done"
    )
    version = ModelVersion.objects.create(
        project=project,
        run=run,
        method="oprm",
        number=1,
        kind="ordinal",
        digest="1",
        is_serving=True,
        metrics={},
    )
    prediction = Prediction.objects.create(
        version=version, response=response, score=5.0, expected=5.0, spread=1.0, percentile=50.0, split="train",
        p=[0.1, 0.1, 0.1, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1],
    )  # fmt: skip
    copies(
        prediction, prompts * RESPONSES, response_id=f"{response.pk} + g", score="1 + 8 * random()",
        spread="2 * random()", percentile="100 * random()",
        split=f"CASE WHEN g / {RESPONSES} % 5 = 0 THEN 'held_out' ELSE 'train' END",
    )  # fmt: skip
    call_command("recount", project=project.slug, stdout=io.StringIO())
    while Uncounted.objects.exists():
        tick()
    return project


def sizes(judgements: int) -> None:
    """Bytes of every table of a megabyte or more and of its indexes: here, and for ten million."""
    from django.db import connection

    factor = TEN_MILLION / judgements
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
        cursor.execute(
            """SELECT t.relname, t.reltuples::bigint, pg_table_size(t.oid), i.relname, pg_relation_size(i.oid)
               FROM pg_class t LEFT JOIN pg_index x ON x.indrelid = t.oid LEFT JOIN pg_class i ON i.oid = x.indexrelid
               WHERE t.relkind = 'r' AND pg_total_relation_size(t.oid) > 1e6 AND t.relnamespace = 'public'::regnamespace
               ORDER BY pg_total_relation_size(t.oid) DESC, pg_relation_size(i.oid) DESC"""
        )
        rows = cursor.fetchall()
    print(f"\n{'table, index':60} {'rows':>11} {'MB':>8} {'GB at 10 M':>11}")
    table, total = "", 0
    for name, count, size, index, index_size in rows:
        if name != table:
            table, total = name, total + size
            print(f"{name:60} {count:11,} {size / 1e6:8.0f} {size * factor / 1e9:11.1f}")
        total += index_size or 0
        print(
            f"    {index:56} {'':11} {(index_size or 0) / 1e6:8.0f} {(index_size or 0) * factor / 1e9:11.1f}"
        )
    print(f"{'all of these':60} {'':11} {total / 1e6:8.0f} {total * factor / 1e9:11.1f}")


def explained(sql: str) -> tuple[float, str]:
    """Milliseconds and the plan of a query, which is carried out and rolled back."""
    from django.db import IntegrityError, connection, transaction

    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS) " + sql.replace("%", "%%"), [])
            plan = "\n".join(line for (line,) in cursor.fetchall())
            transaction.set_rollback(True)
    except IntegrityError:  # what a save counts down can't be counted down again
        return 0.0, ""
    found = re.search(r"Execution Time: ([\d.]+) ms", plan)
    return float(found[1]) if found else 0.0, plan


def ask(name: str, send: Any, *, show: bool) -> None:
    """Send a request twice, the worker's tick between, and tell of the second: time, queries, the slowest of them."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from workers.housekeeping import tick

    send()
    tick()
    with CaptureQueriesContext(connection) as context:
        start = time.perf_counter()
        answer = send()
        elapsed = time.perf_counter() - start
    assert answer.status_code == 200, (name, answer.status_code, answer.content[:500])
    queries = [query["sql"] for query in context.captured_queries]
    # By the plan's own time: what a query took on the way says more of a busy machine.
    explanations = [(*explained(sql), sql) for sql in queries if re.match(r"SELECT|UPDATE|DELETE|WITH", sql)]
    milliseconds, plan, sql = max(explanations)
    scans = sorted(set(re.findall(r"Seq Scan on (\w+)", plan)))
    print(
        f"{name:34} {1000 * elapsed:7.0f} ms {len(queries):3} queries, slowest {milliseconds:7.1f} ms"
        + (f", reads all of {', '.join(scans)}" if scans else ""),
        flush=True,
    )
    if show:
        print(f"    {sql[:2000]}\n" + "\n".join(f"    {line}" for line in plan.splitlines()))


def pages(project: Any, plans: bool) -> None:
    from django.conf import settings
    from django.test import Client
    from django.test.utils import override_settings

    from webapp.accounts.models import User
    from webapp.corpus.models import Pair, Response

    plain = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    annotator, admin = Client(), Client()
    annotator.force_login(person := User.objects.get(username="person-0"))
    admin.force_login(User.objects.create_user("admin", is_superuser=True))
    keys = {
        "person": person.pk,
        "response": Response.objects.of(project).latest("pk").pk,
        "pair": Pair.objects.of(project).earliest("pk").pk,
    }
    base = f"/p/{project.slug}/"
    print()
    with override_settings(ALLOWED_HOSTS=["*"], STORAGES={**settings.STORAGES, **plain}):
        shown = annotator.get(f"{base}annotate/").content.decode()
        cards = list(dict.fromkeys(re.findall(rf'action="{base}annotate/([0-9a-f-]{{36}})/"', shown)))

        def save() -> Any:
            """Of one of the cards that the page holds, as its script sends it."""
            card = cards.pop(0)
            form = {"verdict": "left", "level_left": "good", "level_right": "bad", "revision": "0"}
            form |= {"holding": ",".join(cards), "sending": card}
            answer = annotator.post(f"{base}annotate/{card}/", form, headers={"HX-Request": "true"})
            cards.extend(re.findall(r'data-key="([0-9a-f-]{36})"', answer.content.decode()))
            return answer

        ask("annotate/", lambda: annotator.get(f"{base}annotate/"), show=plans)
        ask("a save, with the next card", save, show=plans)
        ask("history/", lambda: annotator.get(f"{base}history/"), show=plans)
        for page in PAGES:
            address = base + page.format(**keys)
            ask(page or "overview", lambda address=address: admin.get(address), show=plans)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judgements", type=int, default=1_000_000)
    parser.add_argument("--server", default="postgres://postgres@127.0.0.1:5432/postgres")
    parser.add_argument("--plans", action="store_true")
    options = parser.parse_args()
    free = shutil.disk_usage("/").free
    if free < options.judgements * BYTES_A_JUDGEMENT:
        raise SystemExit(
            f"{free / 1e9:.0f} GB free are too few for {options.judgements:,} judgements: --judgements N"
        )
    import psycopg

    name = f"caliper_many_{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder, psycopg.connect(options.server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        admin.execute(f"ALTER DATABASE {name} SET jit = off")  # as in docker-compose.yml
        os.environ.update(DATABASE_URL=f"{options.server.rpartition('/')[0]}/{name}", CALIPER_DATA_DIR=folder)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
        import django

        django.setup()
        logging.disable(logging.INFO)
        from django.db import connection

        try:
            start = time.monotonic()
            project = fill(options.judgements)
            print(f"{options.judgements:,} judgements, filled in {time.monotonic() - start:.0f} s")
            sizes(options.judgements)
            pages(project, options.plans)
        finally:
            connection.close()
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


if __name__ == "__main__":
    main()
