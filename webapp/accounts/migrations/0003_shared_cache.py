"""The table of Django's database cache (settings.CACHES): what is counted there counts for all web processes."""

from typing import Any

from django.core.management import call_command
from django.db import migrations

TABLE = "caliper_cache"


def make(apps: Any, schema_editor: Any) -> None:
    call_command("createcachetable", TABLE, database=schema_editor.connection.alias, verbosity=0)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_sessions_and_lookalike_names")]

    operations = [
        migrations.RunPython(make, lambda apps, schema_editor: schema_editor.execute(f"DROP TABLE {TABLE}"))
    ]
