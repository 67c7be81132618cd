"""People, where they are signed in, and the tokens of their programs.

What they may do in a project is written beside it (corpus.Membership).
"""

import hashlib
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


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def live(self) -> "ApiTokenQuerySet":
        """Neither revoked nor run out, and of somebody who may sign in."""
        return self.filter(
            Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None, user__is_active=True
        )

    def with_secret(self, secret: str) -> "ApiToken | None":
        """The live token that is written so, with its owner, by one query. Only its digest is looked for: how long
        the answer takes tells nothing about a secret.
        """
        return self.live().select_related("user").filter(digest=ApiToken.digest_of(secret)).first()


class ApiToken(models.Model):
    """With it a program acts for its owner, with the owner's roles and no more than the token's scopes.

    The secret is shown once. What is kept is its sha256: it has 256 random bits, so nobody finds it by trying.
    """

    class Scope(models.TextChoices):
        READ = "read", "read: all that its owner may see"
        WRITE = "write", "write: judge, import, change projects"
        TRAIN = "train", "train: start and stop trainings, promote versions"
        SCORE = "score", "score: what a reward server needs"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    # The beginning of the secret, by which its owner tells one token from another.
    prefix = models.CharField(max_length=12, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=list)
    # The address of the one project it is for; empty: all of its owner's. A project's address never changes.
    project_slug = models.SlugField(max_length=60, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.prefix}…"

    @staticmethod
    def digest_of(secret: str) -> str:
        return hashlib.sha256(secret.encode()).hexdigest()

    @property
    def state(self) -> str:
        """“in use”, “run out” or “revoked”."""
        if self.revoked_at is not None:
            return "revoked"
        return "run out" if self.expires_at and self.expires_at <= timezone.now() else "in use"
