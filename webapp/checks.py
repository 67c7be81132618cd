"""System checks: settings that contradict each other or cannot work, each with an id and a remedy.

They run at every start (`migrate` runs them), in the tests, and by `manage.py check`.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from webapp.corpus.endpoints import endpoint_mistakes
from webapp.importing.addresses import store_mistakes

LOOPBACK = {"127.0.0.1", "localhost", "[::1]", "testserver"}


def _public_hosts() -> list[str]:
    return [host for host in settings.ALLOWED_HOSTS if host not in LOOPBACK]


@register("caliper")
def check_hosts(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Names, TLS and debugging have to fit each other."""
    found: list[CheckMessage] = []
    public = _public_hosts()
    if settings.DEBUG and (public or settings.BEHIND_TLS):
        found.append(
            Error(
                "CALIPER_DEBUG is on for an installation that others can reach: its error pages show secrets.",
                hint="Unset CALIPER_DEBUG, or leave only 127.0.0.1 and localhost in CALIPER_ALLOWED_HOSTS.",
                id="caliper.E001",
            )
        )
    if not settings.DEBUG and public and not settings.BEHIND_TLS:
        found.append(
            Warning(
                f"People reach this as {', '.join(public)}, but passwords and cookies travel without TLS.",
                hint="Put a proxy that ends TLS in front, and set CALIPER_BEHIND_TLS=true.",
                id="caliper.W002",
            )
        )
    if "*" in settings.ALLOWED_HOSTS and not settings.DEBUG:
        found.append(
            Warning(
                "CALIPER_ALLOWED_HOSTS is *: links in invitations can be made to point to any host.",
                hint="Name the hosts under which people reach Caliper.",
                id="caliper.W003",
            )
        )
    if settings.BEHIND_TLS:
        for origin in settings.CSRF_TRUSTED_ORIGINS:
            if not origin.startswith("https://"):
                found.append(
                    Error(
                        f"CALIPER_CSRF_TRUSTED_ORIGINS has {origin}, but CALIPER_BEHIND_TLS says that all is https.",
                        hint="Write it as https://...",
                        id="caliper.E004",
                    )
                )
    return found


@register("caliper")
def check_broker_address(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Celery and the health check use the same address; only these schemes mean the same to both."""
    if urlsplit(settings.REDIS_URL).scheme in ("redis", "rediss"):
        return []
    return [
        Error(
            "REDIS_URL does not begin with redis:// or rediss://.",
            hint="For example redis://:password@127.0.0.1:6379/0.",
            id="caliper.E005",
        )
    ]


@register("caliper")
def check_database_choice(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """SQLite is one machine's database."""
    if settings.BEHIND_TLS and settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        return [
            Warning(
                "A public installation runs on SQLite, which workers on other machines cannot reach.",
                hint="Set DATABASE_URL to a PostgreSQL 15 or later, unless everything runs on this machine.",
                id="caliper.W006",
            )
        ]
    return []


@register("caliper")
def check_sign_in(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Single sign-on is wholly there or not at all, and secrets are kept secret on their way."""
    found: list[CheckMessage] = []
    oidc = {
        "CALIPER_OIDC_ISSUER": settings.OIDC_ISSUER,
        "CALIPER_OIDC_CLIENT_ID": settings.OIDC_CLIENT_ID,
        "CALIPER_OIDC_CLIENT_SECRET": settings.OIDC_CLIENT_SECRET,
    }
    missing = [name for name, value in oidc.items() if not value]
    if 0 < len(missing) < len(oidc):
        found.append(
            Error(
                f"Single sign-on is set up by halves: {' and '.join(missing)} not set.",
                hint="Set all of CALIPER_OIDC_ISSUER, CALIPER_OIDC_CLIENT_ID and CALIPER_OIDC_CLIENT_SECRET, or none.",
                id="caliper.E020",
            )
        )
    issuer = urlsplit(settings.OIDC_ISSUER)
    if (
        settings.OIDC_ISSUER
        and issuer.scheme != "https"
        and issuer.hostname not in ("127.0.0.1", "localhost")
    ):
        found.append(
            Error(
                f"CALIPER_OIDC_ISSUER is {settings.OIDC_ISSUER}, but what a provider says counts only over TLS.",
                hint="Write it as https://...",
                id="caliper.E021",
            )
        )
    tokens = {
        "CALIPER_HEALTH_TOKEN": settings.HEALTH_TOKEN,
        "CALIPER_METRICS_TOKEN": settings.METRICS_TOKEN,
    }
    for name, token in tokens.items():
        if token and len(token) < 32:
            found.append(
                Error(
                    f"{name} is shorter than 32 characters: it can be guessed.",
                    hint="Draw a longer one, as for CALIPER_SECRET_KEY, or unset it.",
                    id="caliper.E022",
                )
            )
    return found


@register("caliper")
def check_mail(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Mail needs a sender, and links in it a host that nobody can choose."""
    found: list[CheckMessage] = []
    if settings.MAIL_IS_ON and settings.DEFAULT_FROM_EMAIL == "caliper@localhost":
        found.append(
            Warning(
                "CALIPER_EMAIL_URL is set, but mail would come from caliper@localhost, which most servers refuse.",
                hint="Set CALIPER_EMAIL_FROM to an address of yours.",
                id="caliper.W023",
            )
        )
    if settings.MAIL_IS_ON and "*" in settings.ALLOWED_HOSTS and not settings.DEBUG:
        found.append(
            Error(
                "CALIPER_ALLOWED_HOSTS is *, and mail is on: a stranger could have somebody sent a link for a new "
                "password that leads to the stranger's own host.",
                hint="Name the hosts under which people reach Caliper.",
                id="caliper.E024",
            )
        )
    return found


@register("caliper")
def check_limits(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Sizes and times that leave nothing possible."""
    found: list[CheckMessage] = []
    if not 0 < settings.MAX_TEXT_BYTES <= settings.MAX_UPLOAD_BYTES:
        found.append(
            Error(
                f"The longest text ({settings.MAX_TEXT_BYTES} bytes) has to be above 0 and at most the largest "
                f"upload ({settings.MAX_UPLOAD_BYTES} bytes).",
                hint="Correct CALIPER_MAX_TEXT_KB or CALIPER_MAX_UPLOAD_MB.",
                id="caliper.E007",
            )
        )
    if settings.KEEP_VERSIONS < 0:
        found.append(
            Error(
                f"CALIPER_KEEP_VERSIONS is {settings.KEEP_VERSIONS}, which is below 0.",
                hint="Say how many of the newest versions of a method keep their weights, or 0 to keep all.",
                id="caliper.E030",
            )
        )
    if not 0 < 2 * settings.TICK_SECONDS <= settings.JOB_LOST_AFTER_SECONDS:
        found.append(
            Error(
                f"A job counts as lost after {settings.JOB_LOST_AFTER_SECONDS} s, which has to be at least two "
                f"ticks of {settings.TICK_SECONDS} s (and a tick longer than 0 s).",
                hint="Raise CALIPER_JOB_LOST_AFTER_SECONDS or lower CALIPER_TICK_SECONDS.",
                id="caliper.E008",
            )
        )
    return found


@register("caliper")
def check_base_model_folders(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """What an operator offers to all projects must hold no project's own models."""
    found: list[CheckMessage] = []
    data = settings.DATA_DIR.resolve()
    for folder in settings.BASE_MODEL_DIRS:
        path = folder.resolve()
        if not folder.is_absolute() or path.is_relative_to(data) or data.is_relative_to(path):
            found.append(
                Error(
                    f"CALIPER_BASE_MODEL_DIRS has {folder}, which is no full path, or lies in or around the data "
                    f"folder {data}: any project could train from any other's models.",
                    hint="Name folders of their own by their full paths, separated by colons.",
                    id="caliper.E031",
                )
            )
    return found


@register("caliper")
def check_endpoints(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """What is wrong in the operator's file of endpoints; those that are sound are offered all the same."""
    return [
        Warning(
            f"CALIPER_ENDPOINTS: {mistake}",
            hint="Correct the file (docs/settings.md#endpoints-that-judge). What is wrong in it is not offered.",
            id="caliper.W032",
        )
        for mistake in endpoint_mistakes()
    ]


@register("caliper")
def check_stores(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Prefixes of addresses that mean nothing, or would let people reach other hosts."""
    return [
        Error(
            f"{variable}: {mistake}",
            hint="Name prefixes such as s3://bucket/folder/, separated by commas (docs/hubs.md).",
            id="caliper.E033",
        )
        for variable, prefixes in (
            ("CALIPER_STORES", settings.STORES),
            ("CALIPER_STORES_OUT", settings.STORES_OUT),
        )
        for mistake in store_mistakes(prefixes)
    ]
