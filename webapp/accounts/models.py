"""People, and where they are signed in. What they may do in a project is written beside it (corpus.Membership)."""

from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.contrib.auth.models import UserManager as DjangoUserManager
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.contrib.sessions.models import Session
from django.db import models
from django.db.models import Count, Model, Q
from django.utils import timezone

from webapp.accounts.devices import device_words
from webapp.accounts.names import validate_no_lookalike


class UserQuerySet(models.QuerySet["User"]):
    def people(self) -> "UserQuerySet":
        """Who can sign in, or could: no machines, and no names that came with imported or simulated labels."""
        return self.filter(kind=User.Kind.PERSON)

    def search(self, text: str) -> "UserQuerySet":
        """Those whose names or address have every word of a text."""
        words = Q()
        for word in text.replace("\0", "").split()[:10]:
            words &= (
                Q(username__icontains=word)
                | Q(first_name__icontains=word)
                | Q(last_name__icontains=word)
                | Q(email__icontains=word)
            )
        return self.filter(words)

    def with_judgements_in(self, project: Model) -> "UserQuerySet":
        """Annotated with `judgements_here`: the current ones that are not skips."""
        here = Q(judgements__pair__project=project, judgements__is_current=True)
        said = here & ~Q(judgements__verdict="skip")
        return self.annotate(judgements_here=Count("judgements", filter=said, distinct=True))


class UserManager(DjangoUserManager.from_queryset(UserQuerySet)):  # type: ignore[misc]
    use_in_migrations = False


class User(AbstractUser):
    """Somebody who judges or looks: a person who signs in, a name that came with imported or simulated labels, or a
    machine that a project asks.
    """

    class Kind(models.TextChoices):
        PERSON = "person", "person"
        SIMULATED = "simulated", "simulated annotator"
        IMPORTED = "imported", "imported annotator"
        MACHINE = "machine", "machine annotator"

    # As Django's, and asked of every new name wherever it is typed in; names that are there already stay.
    username = models.CharField(
        "username",
        max_length=150,
        unique=True,
        help_text="Required. 150 characters or fewer. Letters, digits and @/./+/-/_ only.",
        validators=[UnicodeUsernameValidator(), validate_no_lookalike],
        error_messages={"unique": "A user with that username already exists."},
    )
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.PERSON)

    objects: ClassVar[UserManager] = UserManager()

    @property
    def display_name(self) -> str:
        """The name pages show; simulated annotators and machines are always named as what they are."""
        name = self.get_full_name() or self.username
        return f"{name} ({self.kind})" if self.kind in (self.Kind.SIMULATED, self.Kind.MACHINE) else name


class UserSession(models.Model):
    """Where somebody is signed in: what the account page lists beside Django's session, which goes together with it."""

    session = models.OneToOneField(Session, on_delete=models.CASCADE, related_name="+")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sessions")
    address = models.GenericIPAddressField(null=True)
    user_agent = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_seen = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-last_seen"]

    @property
    def device(self) -> str:
        return device_words(self.user_agent)
