"""Project, its people, and what is judged: Prompt, Response, Pair. Also the record of an import."""

import hashlib
import json
import secrets
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import IntegrityError, models, transaction
from django.db.models import F, Q
from django.db.models.functions import Cast, Length
from django.utils import timezone

from webapp.accounts.models import User, UserQuerySet
from webapp.corpus.conversations import spoken
from webapp.corpus.counters import QueueCounter as QueueCounter  # a model is found where models stand
from webapp.corpus.options import Method, RunRefused, Tuning, check_options, project_options
from webapp.corpus.queued import Queued, open_index
from webapp.corpus.reason_tags import TagRefused, check_tags
from webapp.jobs import Job, JobQuerySet, State


class ProjectQuerySet(models.QuerySet["Project"]):
    def for_user(self, user: User) -> "ProjectQuerySet":
        """The projects somebody belongs to; a superuser belongs to all."""
        if user.is_superuser:
            return self
        return self.filter(pk__in=Membership.objects.filter(user=user).values("project_id"))

    def with_sizes(self) -> "ProjectQuerySet":
        """Annotated with `people` and with `items`: pairs, or responses where those alone are judged."""

        def size(rows: models.QuerySet[Any]) -> models.Subquery:
            of_one = rows.filter(project=models.OuterRef("pk")).order_by().values("project")
            return models.Subquery(of_one.annotate(size=models.Count("pk")).values("size"))

        return self.annotate(
            people=models.Count("memberships__user", distinct=True),
            items=models.Case(
                models.When(asks=Project.Asks.LEVELS, then=size(Response.objects.all())),
                default=size(Pair.objects.all()),
            ),
        )


def split_salt_make() -> str:
    """Random text that decides, for the life of a project, which groups of its prompts are held out."""
    return secrets.token_hex(16)


class Project(models.Model):
    """Guidelines, rating scale, overlap, retrain policy, base model, people and their roles."""

    class Pairing(models.TextChoices):
        """How responses that come without pairs are paired: with every rival, with the next ones, or at random."""

        ALL = "all", "every response with every other"
        RING = "ring", "every response with the next ones, in a ring"
        RANDOM = "random", "pairs drawn at random"

    class Asks(models.TextChoices):
        BOTH = "both", "pairs, with a quality level for each response"
        PAIRS = "pairs", "pairs only"
        LEVELS = "levels", "quality levels of single responses"

    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=120)
    description = models.CharField(max_length=300, blank=True)
    guidelines = models.TextField(blank=True, help_text="Markdown, shown to annotators.")
    asks = models.CharField(max_length=10, choices=Asks.choices, default=Asks.BOTH)
    overlap = models.PositiveSmallIntegerField(
        default=3,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Wanted judgements per pair (or labels per response), each from a different annotator.",
    )
    pairing = models.CharField(max_length=10, choices=Pairing.choices, default=Pairing.ALL)
    pairing_limit = models.PositiveSmallIntegerField(
        default=10,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="All and random: at most so many pairs a prompt. Ring: each response with so many neighbours.",
    )
    # What annotators may tick for each side: see corpus.reason_tags.
    reason_tags = models.JSONField(default=list, blank=True)
    load_images = models.BooleanField(
        default=False,
        help_text="Show the pictures that texts point to. Whoever hosts them sees who looks, and when.",
    )
    machine_labels = models.BooleanField(
        default=False,
        help_text="Trainings learn from what machine annotators said, beside people's labels. No model is measured on "
        "it, and agreement, tallies and majorities stay people's alone.",
    )
    # Whether anybody listens (webapp.events), so that a judgement costs no further query where nobody does.
    has_webhooks = models.BooleanField(default=False, editable=False)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    reservation_minutes = models.PositiveSmallIntegerField(
        default=30, validators=[MinValueValidator(1), MaxValueValidator(24 * 60)]
    )
    # Upper bounds of bad and normal on the 1..9 scale; good is the rest.
    bad_to = models.PositiveSmallIntegerField(
        default=3, validators=[MinValueValidator(1), MaxValueValidator(7)]
    )
    normal_to = models.PositiveSmallIntegerField(
        default=6, validators=[MinValueValidator(2), MaxValueValidator(8)]
    )

    methods = models.JSONField(
        default=list, blank=True, help_text="Methods that automatic retrains train, first = main."
    )
    base_model = models.CharField(
        max_length=300,
        default="all-MiniLM-L6-v2",
        help_text="Hub id or path of a text encoder or a causal language model.",
    )
    causal_base_model = models.CharField(
        max_length=300,
        default="starter",
        help_text="Hub id or path of the causal language model for HaF-RM, a generative model and a judge; "
        "“starter” builds a tiny one from this project's texts.",
    )
    tuning = models.CharField(max_length=10, choices=Tuning.choices, default=Tuning.TUNED)
    # Options of the trainer by name; one that is missing keeps the trainer's default.
    training_options = models.JSONField(default=dict, blank=True)
    retrain_after_labels = models.PositiveIntegerField(
        default=0, help_text="Retrain when this many labels are new; 0 = never."
    )
    retrain_every_hours = models.PositiveIntegerField(
        default=0, help_text="Retrain on this schedule; 0 = never."
    )
    min_judgements = models.PositiveIntegerField(
        default=20, help_text="A snapshot of fewer judgements and labels than this is not trained on."
    )
    gate_max_drop = models.FloatField(
        default=0.02,
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)],
        help_text="A new version is promoted if its held-out accuracy is at most this far below the serving version's.",
    )
    split_salt = models.CharField(max_length=32, default=split_salt_make, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(bad_to__gte=1, normal_to__gt=F("bad_to"), normal_to__lte=8),
                name="project_partition",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.normal_to <= self.bad_to:
            raise ValidationError({"normal_to": "“normal” must end above “bad”."})
        try:
            check_tags(self.reason_tags)
        except TagRefused as refusal:
            raise ValidationError({"reason_tags": str(refusal)}) from None
        unknown = [name for name in self.methods if name not in Method.values]
        if unknown:
            raise ValidationError(
                {"methods": f"Unknown method {unknown[0]!r}. Known: {', '.join(Method.values)}."}
            )
        try:
            for method in self.methods or [self.main_method]:
                check_options(method, project_options(self.training_options, method))
        except RunRefused as refusal:
            raise ValidationError(str(refusal)) from None

    def members(self) -> UserQuerySet:
        """Who has a role here, each once."""
        return User.objects.filter(memberships__project=self).distinct()

    @property
    def asks_pairs(self) -> bool:
        return self.asks != self.Asks.LEVELS

    @property
    def asks_levels(self) -> bool:
        return self.asks != self.Asks.PAIRS

    @property
    def first_method(self) -> str:
        """The main method of a new project: RgFT, whose ratings have levels, where people give some; else OPRM."""
        return Method.RGFT.value if self.asks_levels else Method.OPRM.value

    @property
    def main_method(self) -> str:
        return self.methods[0] if self.methods else Method.OPRM.value

    @property
    def level_bounds(self) -> dict[str, tuple[int, int]]:
        """Lowest and highest rating of each level."""
        return {
            "bad": (1, self.bad_to),
            "normal": (self.bad_to + 1, self.normal_to),
            "good": (self.normal_to + 1, 9),
        }


class Membership(models.Model):
    """One role of one person in one project; a person may hold several.

    Decided: it lives beside Project, not in accounts, because foreign keys point upstream only.
    """

    class Role(models.TextChoices):
        ANNOTATOR = "annotator", "annotator"
        ADMIN = "admin", "admin"
        RESEARCHER = "researcher", "researcher"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=Role.choices)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "user", "role"], name="membership_once")]


def _invitation_token() -> str:
    return secrets.token_urlsafe(24)


class InvitationQuerySet(models.QuerySet["Invitation"]):
    def usable(self) -> "InvitationQuerySet":
        """Neither used nor too old, and whoever made it may still invite: an active admin of that project."""
        admins = Membership.objects.filter(
            project=models.OuterRef("project"),
            user=models.OuterRef("created_by"),
            role=Membership.Role.ADMIN,
        )
        inviting = User.objects.filter(is_active=True, pk=models.OuterRef("created_by"))
        return self.filter(
            models.Exists(inviting.filter(is_superuser=True))
            | models.Exists(inviting) & models.Exists(admins),
            used_at__isnull=True,
            expires_at__gt=timezone.now(),
        )


class Invitation(models.Model):
    """A link with which one new person joins a project in one role, once."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=12, choices=Membership.Role.choices)
    token = models.CharField(max_length=64, unique=True, default=_invitation_token, editable=False)
    note = models.CharField(max_length=120, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    used_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    objects = InvitationQuerySet.as_manager()


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    def of(self, project: Project) -> "AuditQuerySet":
        return self.filter(project=project)

    def of_action(self, action: str) -> "AuditQuerySet":
        """Those of one act; all of them where there is no such act."""
        return self.filter(action=action) if action in AuditEntry.Action.values else self

    def update(self, **kwargs: Any) -> int:
        raise TypeError("The audit log is only added to.")

    def delete(self) -> Any:
        raise TypeError("The audit log is only added to.")


class AuditEntry(models.Model):
    """Who did what, when and from where: written in the act's own transaction, never changed after."""

    class Action(models.TextChoices):
        PROJECT_CREATED = "project-created", "made the project"
        PROJECT_COPIED = "project-copied", "copied the project's settings into a new one"
        PROJECT_ARCHIVED = "project-archived", "archived the project"
        PROJECT_UNARCHIVED = "project-unarchived", "took the project out of the archive"
        SETTINGS_CHANGED = "settings-changed", "changed settings"
        ROLE_GIVEN = "role-given", "gave a role"
        ROLE_TAKEN = "role-taken", "took a role away"
        INVITATION_MADE = "invitation-made", "made an invitation"
        INVITATION_USED = "invitation-used", "joined by an invitation"
        INVITATION_WITHDRAWN = "invitation-withdrawn", "withdrew an invitation"
        IMPORT_UPLOADED = "import-uploaded", "uploaded files"
        IMPORT_CONFIRMED = "import-confirmed", "imported"
        IMPORT_CANCELLED = "import-cancelled", "cancelled an import"
        IMPORT_RETRIED = "import-retried", "tried an import again"
        IMPORT_MAPPED = "import-mapped", "named the columns of an import"
        IMPORT_DISCARDED = "import-discarded", "threw a preview away"
        IMPORT_UNDONE = "import-undone", "took an import back"
        PAIR_ADDED = "pair-added", "added a pair by hand"
        EXPORT_STARTED = "export-started", "exported data"
        EXPORT_RETRIED = "export-retried", "tried an export again"
        EXPORT_DOWNLOADED = "export-downloaded", "downloaded data"
        MODEL_EXPORT_STARTED = "model-export-started", "exported a model"
        MODEL_DOWNLOADED = "model-downloaded", "downloaded a model"
        TRAINING_STARTED = "training-started", "started a training"
        TRAINING_RESUMED = "training-resumed", "resumed a training"
        TRAINING_CANCELLED = "training-cancelled", "cancelled a training"
        VERSION_PROMOTED = "version-promoted", "promoted a version"
        VERSION_ROLLED_BACK = "version-rolled-back", "rolled back to a version"
        SET_ADDED = "set-added", "added an evaluation set"
        SET_DELETED = "set-deleted", "deleted an evaluation set"
        MACHINE_ENROLLED = "machine-enrolled", "enrolled a machine annotator"
        MACHINE_WITHDRAWN = "machine-withdrawn", "withdrew a machine annotator"
        MACHINE_ASKED = "machine-asked", "asked a machine annotator"
        TOKEN_MADE = "token-made", "made an API token"
        TOKEN_REVOKED = "token-revoked", "revoked an API token"
        WEBHOOK_ADDED = "webhook-added", "added a webhook"
        WEBHOOK_CHANGED = "webhook-changed", "changed a webhook"
        WEBHOOK_REMOVED = "webhook-removed", "removed a webhook"
        ROLLOUTS_CHANGED = "rollouts-changed", "changed what is asked about rollouts"
        PUSHED = "pushed", "pushed to a hub or store"

    # Empty for what concerns the whole installation.
    project = models.ForeignKey(
        Project, null=True, blank=True, on_delete=models.SET_NULL, related_name="audit_entries"
    )
    # Empty for Caliper's own acts and for commands; the name stays when the account goes.
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    actor_name = models.CharField(max_length=150)
    action = models.CharField(max_length=40, choices=Action.choices)
    detail = models.JSONField(default=dict, blank=True)
    address = models.GenericIPAddressField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["project", "action"])]

    def __str__(self) -> str:
        return f"{self.actor_name} {self.get_action_display()}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("The audit log is only added to.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("The audit log is only added to.")


def messages_digest(messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
    """sha256 of a conversation and the tools it offers, for recognising the same one under another id."""
    value = {"messages": messages, "tools": tools} if tools else messages
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def text_digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _origin() -> models.ForeignKey[Any, Any]:
    """The import that wrote a row, so that it can be taken back."""
    return models.ForeignKey(
        "corpus.Import", null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )


class PromptQuerySet(models.QuerySet["Prompt"]):
    def with_key(self, pk: int | None) -> "Prompt | None":
        return self.filter(pk=pk).first() if pk is not None else None

    def search(self, text: str) -> "PromptQuerySet":
        """Those that hold a text, in a message or in their id; all of them for an empty one."""
        if not text:
            return self
        match = Q(external_id__icontains=text)
        # JSON is stored with escapes in one database and without in the other.
        for escaped in (True, False):
            match |= Q(written__icontains=json.dumps(text, ensure_ascii=escaped)[1:-1])
        return self.alias(written=Cast("messages", models.TextField())).filter(match)


class Prompt(models.Model):
    """A conversation (list of role/content messages) that is answered."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompts")
    external_id = models.CharField(max_length=200)
    # {role, content} and, where the source has them, name, tool_calls and tool_call_id: see importing.messages.
    messages = models.JSONField()
    # The tools the assistant was offered, as JSON schemas.
    tools = models.JSONField(default=list, blank=True)
    digest = models.CharField(max_length=64, editable=False)
    # What is split between training and held-out: a topic or debate where the source names one, else the prompt.
    group = models.CharField(max_length=200, blank=True)
    origin = _origin()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = PromptQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "external_id"], name="prompt_external_id")]
        indexes = [models.Index(fields=["project", "digest"])]

    def __str__(self) -> str:
        return self.external_id

    @property
    def last_text(self) -> str:
        """The content of the last message, for lists."""
        return spoken(self.messages[-1]) if self.messages else ""


class ResponseQuerySet(models.QuerySet["Response"]):
    def of(self, project: Project) -> "ResponseQuerySet":
        return self.filter(project=project)


class Response(Queued):
    """One answer to a prompt, with the hidden name of its author model.

    `labelled` and `reserved` are the queue's counters for lone-response labelling (labels.queue keeps them by
    conditional UPDATEs); labelled + reserved never exceeds wanted by the queue's own doing.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="responses")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="responses")
    external_id = models.CharField(max_length=200)
    text = models.TextField(blank=True)
    # An answer of several turns, or with tool calls; `text` is then its transcript. None: the text is all there is.
    messages = models.JSONField(null=True, blank=True)
    digest = models.CharField(max_length=64, editable=False)
    author = models.CharField(max_length=200, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    labelled = models.PositiveIntegerField(default=0)
    origin = _origin()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ResponseQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "external_id"], name="response_external_id")
        ]
        indexes = [
            models.Index(fields=["prompt", "digest"]),
            models.Index(fields=["project", "labelled"]),
            models.Index(fields=["project", "author"]),
            # Lists are sorted by length without reading a text.
            models.Index(F("project"), Length("text"), name="response_length"),
            open_index("response_open", "labelled"),
        ]

    def __str__(self) -> str:
        return self.external_id


class PairQuerySet(models.QuerySet["Pair"]):
    def of(self, project: Project) -> "PairQuerySet":
        return self.filter(project=project)

    def with_texts(self) -> "PairQuerySet":
        return self.select_related("response_a__prompt", "response_b__prompt")

    def with_response(self, pk: int) -> "PairQuerySet":
        """The pairs in which a response stands, on either side."""
        return self.filter(Q(response_a=pk) | Q(response_b=pk))


class Pair(Queued):
    """Two responses put side by side (usually of one prompt).

    `judged` counts the current judgements that are not skips, `reserved` the open assignments. labels.queue keeps
    both by conditional UPDATEs, so that exactly `wanted` judgements are asked for with many processes at once.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="pairs")
    external_id = models.CharField(max_length=200)
    response_a = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="pairs_as_a")
    response_b = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="pairs_as_b")
    wanted = models.PositiveSmallIntegerField(default=3)
    judged = models.PositiveIntegerField(default=0)
    origin = _origin()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = PairQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "external_id"], name="pair_external_id"),
            models.UniqueConstraint(fields=["response_a", "response_b"], name="pair_once"),
            models.CheckConstraint(condition=~Q(response_a=F("response_b")), name="pair_of_two"),
        ]
        indexes = [models.Index(fields=["project", "judged"]), open_index("pair_open", "judged")]

    def __str__(self) -> str:
        return self.external_id


class ImportQuerySet(JobQuerySet):
    def unfinished(self) -> "ImportQuerySet":
        """Those that are there in part: SQLite's, which are written in batches, until they are whole or taken back."""
        return self.filter(phase__in=[Import.IN_BATCHES, Import.OPENING])


class Import(Job):
    """One upload into a project: the file, what was found in it, and what was written.

    On SQLite what it brings is written in short transactions and asked of nobody: phase IN_BATCHES. One that ends there
    is taken back. From OPENING on it is whole; its pairs and responses are opened, by whoever goes on with it.
    """

    IN_BATCHES, OPENING = "in batches", "opening"

    task = "workers.tasks.import_file"

    class Format(models.TextChoices):
        AUTO = "auto", "recognise it"
        MAPPED = "mapped", "columns named by hand"
        CALIPER = "caliper", "Caliper JSONL"
        TRL = "trl", "TRL preference"
        TRL_UNPAIRED = "trl-unpaired", "TRL unpaired"
        HH = "hh-rlhf", "hh-rlhf"
        ARENA = "arena", "LMArena battles"
        ARENA_KAGGLE = "arena-kaggle", "LMArena, Kaggle 55k table"
        ULTRAFEEDBACK = "ultrafeedback", "UltraFeedback"
        HELPSTEER = "helpsteer", "HelpSteer2 ratings"
        HELPSTEER_PREFERENCE = "helpsteer-preference", "HelpSteer2 and HelpSteer3 preference"
        REWARDBENCH = "rewardbench", "RewardBench 1 and 2"
        PANDALM = "pandalm", "PandaLM"
        AUTOJ = "auto-j", "Auto-J"
        QA_FEEDBACK = "qa-feedback", "QA-Feedback"
        SHAREGPT = "sharegpt", "ShareGPT preference"
        ARGILLA = "argilla", "Argilla 2 export"
        LABEL_STUDIO = "label-studio", "Label Studio pairwise export"
        POTATO = "potato", "Potato pairwise"
        UKP = "ukp-convarg1", "UKPConvArg1 votes"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="imports")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    file_name = models.CharField(max_length=255)
    # Relative to DATA_DIR; several files of one import lie in one folder.
    folder = models.CharField(max_length=255)
    # Where the files come from, if nobody uploaded them: see importing.origins; empty for uploads.
    origin = models.JSONField(default=dict, blank=True)
    format = models.CharField(max_length=20, choices=Format.choices, default=Format.AUTO)
    # Which column is what, when somebody said so: see importing.mapping.
    mapping = models.JSONField(default=dict, blank=True)
    dry_run = models.BooleanField(default=True)
    # Counts found and written, the first rows as a preview, the first errors: see importing.report.Report.
    report = models.JSONField(default=dict, blank=True)
    undone_at = models.DateTimeField(null=True, blank=True)

    objects = ImportQuerySet.as_manager()  # type: ignore[misc]

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project"],
                condition=models.Q(state="running"),
                name="one_running_import_of_a_project",
            )
        ]

    def claim(self) -> bool:
        """QUEUED -> RUNNING, unless another import of the project runs: each may take much memory and one lock.

        The index decides between two that try at once.
        """
        if self.waits_for is not None:
            return False
        try:
            with transaction.atomic():
                return super().claim()
        except IntegrityError:
            return False

    def ended(self) -> None:
        """Whoever listens is told, with the state; of a preview that it was one."""
        project = Project.objects.get(pk=self.project_id)  # as it is now, not as it was when the job began
        if project.has_webhooks:
            told = {"import": self.pk, "state": str(self.state), "preview": self.dry_run}
            project.webhooks.record(("import.finished", told))

    @property
    def waits_for(self) -> int | None:
        """The running import of the project that this queued one has to wait for."""
        if self.state != State.QUEUED:
            return None
        running = Import.objects.filter(project=self.project_id, state=State.RUNNING).exclude(pk=self.pk)
        return running.values_list("pk", flat=True).first()

    @property
    def is_preview(self) -> bool:
        return self.state == State.DONE and self.dry_run

    @property
    def wants_mapping(self) -> bool:
        """Whether somebody has to say which column is what before there can be a preview."""
        return self.is_preview and bool(self.report.get("asks"))

    @property
    def state_shown(self) -> str:
        """Its state as pages call it."""
        if self.undone_at:
            return "undone"
        if self.wants_mapping:
            return "columns to name"
        if self.is_preview:
            return "preview"
        return "imported" if self.state == State.DONE else self.get_state_display()

    @property
    def phase_shown(self) -> str:
        if self.state == State.QUEUED:
            return "in the queue"
        phases = {
            "fetching": "fetching the files",
            "reading": "reading the files",
            "checking": "comparing with what is there",
            "writing": "writing",
            self.IN_BATCHES: "writing",
            self.OPENING: "opening what was written",
        }
        return phases.get(self.phase, "starting")

    def error_file(self) -> Any:
        """Path of the per-row error file (JSONL), whether or not it exists."""
        return settings.DATA_DIR / self.folder / "errors.jsonl"
