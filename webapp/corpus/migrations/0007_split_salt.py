"""A salt for each project: which groups it holds out, for good."""

import secrets
from typing import Any

from django.db import migrations, models

import webapp.corpus.models

BATCH = 500


def fill(apps: Any, schema_editor: Any) -> None:
    Project = apps.get_model("corpus", "Project")
    keys = list(Project.objects.filter(split_salt="").values_list("pk", flat=True))
    for start in range(0, len(keys), BATCH):
        projects = [Project(pk=pk, split_salt=secrets.token_hex(16)) for pk in keys[start : start + BATCH]]
        Project.objects.bulk_update(projects, ["split_salt"])


class Migration(migrations.Migration):
    dependencies = [
        ("corpus", "0006_archive_and_undo"),
    ]

    operations = [
        migrations.AddField(
            model_name="project",
            name="split_salt",
            field=models.CharField(default="", editable=False, max_length=32),
            preserve_default=False,
        ),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
        migrations.AlterField(
            model_name="project",
            name="split_salt",
            field=models.CharField(
                default=webapp.corpus.models.split_salt_make, editable=False, max_length=32
            ),
        ),
    ]
