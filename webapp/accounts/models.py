"""People. What they may do in a project is written beside the project (corpus.Membership)."""

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """Somebody who judges or looks: a person who signs in, or a name that came with imported or simulated labels."""

    class Kind(models.TextChoices):
        PERSON = "person", "person"
        SIMULATED = "simulated", "simulated annotator"
        IMPORTED = "imported", "imported annotator"

    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.PERSON)

    @property
    def display_name(self) -> str:
        """The name pages show; simulated annotators are always named as simulated."""
        name = self.get_full_name() or self.username
        return f"{name} (simulated)" if self.kind == self.Kind.SIMULATED else name
