"""A project has at most one running import."""

from django.db import migrations, models


def lose_the_others(apps, schema_editor):
    """Of several imports that run, or were left running, the newest goes on; the others can be tried again."""
    Import = apps.get_model("corpus", "Import")
    running = Import.objects.filter(state="running")
    for row in running.order_by("pk"):
        if running.filter(project_id=row.project_id, pk__gt=row.pk).exists():
            running.filter(pk=row.pk).update(
                state="lost", error="Another import of this project ran at the upgrade. Try again."
            )


class Migration(migrations.Migration):
    dependencies = [("corpus", "0003_audit_log")]

    operations = [
        migrations.RunPython(lose_the_others, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="import",
            constraint=models.UniqueConstraint(
                fields=["project"],
                condition=models.Q(state="running"),
                name="one_running_import_of_a_project",
            ),
        ),
    ]
