"""All settings of Caliper. Every one can be set by an environment variable; NAME_FILE reads it from a file."""

import importlib.util
import secrets
import shlex
import sys
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from webapp.logs import logging_settings

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.FileAwareEnv()

DEBUG = env.bool("CALIPER_DEBUG", default=False)
DATA_DIR = Path(env.str("CALIPER_DATA_DIR", default=str(BASE_DIR / "data"))).expanduser().resolve()


def _secret_key() -> str:
    """The signing key: from the environment, else one drawn once per installation and kept in the data folder."""
    if given := env.str("CALIPER_SECRET_KEY", default=""):
        if len(given) < 32:
            raise ImproperlyConfigured("CALIPER_SECRET_KEY is shorter than 32 characters: draw a longer one.")
        return given
    path = DATA_DIR / "secret_key"
    if not path.exists():
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        try:
            # Exclusive creation: of two processes that start together, one writes and the other reads.
            with path.open("x") as file:
                path.chmod(0o600)
                file.write(secrets.token_urlsafe(50))
        except FileExistsError:
            pass
    return path.read_text().strip()


SECRET_KEY = _secret_key()
ALLOWED_HOSTS = env.list("CALIPER_ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CALIPER_CSRF_TRUSTED_ORIGINS", default=[])
# Set behind a TLS-terminating proxy: cookies only over https, the proxy's X-Forwarded-Proto is believed.
BEHIND_TLS = env.bool("CALIPER_BEHIND_TLS", default=False)

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_htmx",
    "template_partials",
    "csp",
    "axes",
    "webapp",
    "webapp.accounts",
    "webapp.corpus",
    "webapp.events",
    "webapp.labels",
    "webapp.importing",
    "webapp.snapshots",
    "webapp.training",
    "webapp.benchmarks",
    "webapp.ratings",
    "webapp.rollouts",
    "webapp.api",
    "webapp.operations",
]

MIDDLEWARE = [
    "webapp.logs.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "webapp.middleware.PageCompressionMiddleware",
    "webapp.middleware.PolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    # Before the check against forgery, which reads the body: first we ask who sends it and how large it is.
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # Below /api/v1/ a token counts and no cookie, whoever is signed in.
    "webapp.api.middleware.ApiMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "webapp.middleware.BodyLimitMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "webapp.accounts.middleware.SignedInMiddleware",
    # Last: turns what the throttle refused into its own answer.
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "webapp.urls"
WSGI_APPLICATION = "webapp.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "webapp.context.caliper",
            ],
        },
    },
]

DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{DATA_DIR / 'db.sqlite3'}")}
DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        {
            # Write transactions queue up at BEGIN instead of failing half-way (label-studio's and argilla's
            # "database is locked"); WAL lets pages read while somebody writes.
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=30000;",
        }
    )
else:
    DATABASES["default"]["ENGINE"] = "webapp.postgresql"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    # Limits and spent one-time codes count for all web processes, and without the broker. Few entries: a row each.
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "caliper_cache",
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    },
    # What each process may work out by itself. Its keys name the rows that it is made of, so no entry goes stale.
    "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
}

REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")

AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "accounts:sign-in"
LOGIN_REDIRECT_URL = "corpus:projects"
LOGOUT_REDIRECT_URL = "accounts:sign-in"
AUTHENTICATION_BACKENDS = [
    # Asked first: whoever guessed too often is refused before a password is hashed.
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "webapp.accounts.passwords.LongestValidator", "OPTIONS": {"longest": 128}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
    {"NAME": "webapp.accounts.passwords.NotBlankValidator"},
]
# A link for a new password.
PASSWORD_RESET_TIMEOUT = 24 * 3600

# The limits themselves stand in accounts/throttling.py.
AXES_HANDLER = "webapp.accounts.throttling.SignInHandler"
AXES_CLIENT_IP_CALLABLE = "webapp.accounts.addresses.counted_address"
AXES_LOCKOUT_CALLABLE = "webapp.accounts.throttling.locked_out"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 1
AXES_COOLOFF_TIME = timedelta(minutes=15)
# What is refused doesn't count again: the wait ends however often somebody tries meanwhile.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
# Forms are not kept, whatever else was typed into them.
AXES_SENSITIVE_PARAMETERS = ["username", "next", "csrfmiddlewaretoken"]
AXES_VERBOSE = False
AXES_DISABLE_ACCESS_LOG = True

# Mail, for people who forgot their password; without it there is no such link.
MAIL_IS_ON = bool(env.str("CALIPER_EMAIL_URL", default=""))
if MAIL_IS_ON:
    vars().update(env.email_url("CALIPER_EMAIL_URL"))
    EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("CALIPER_EMAIL_FROM", default="caliper@localhost")

# Networks besides the Internet that webhooks may lead to, such as 10.1.0.0/16.
try:
    WEBHOOK_PRIVATE = [ip_network(each) for each in env.list("CALIPER_WEBHOOK_PRIVATE", default=[])]
except ValueError as error:
    raise ImproperlyConfigured(
        f"CALIPER_WEBHOOK_PRIVATE: {error}. Write networks as 10.1.0.0/16,fd00::/8."
    ) from None

# Who may read /healthz part by part from elsewhere: `Authorization: Bearer` with this.
HEALTH_TOKEN = env.str("CALIPER_HEALTH_TOKEN", default="")
# Who may read /metrics, likewise; without it there are no metrics, and nothing is measured.
METRICS_TOKEN = env.str("CALIPER_METRICS_TOKEN", default="")
if METRICS_TOKEN:
    MIDDLEWARE.insert(0, "django_prometheus.middleware.PrometheusBeforeMiddleware")
    MIDDLEWARE.append("django_prometheus.middleware.PrometheusAfterMiddleware")
    PROMETHEUS_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, float("inf"))

# Single sign-on by OpenID Connect and a second factor by one-time codes: django-allauth, there only when asked for.
OIDC_ISSUER = env.str("CALIPER_OIDC_ISSUER", default="")
OIDC_CLIENT_ID = env.str("CALIPER_OIDC_CLIENT_ID", default="")
OIDC_CLIENT_SECRET = env.str("CALIPER_OIDC_CLIENT_SECRET", default="")
OIDC_NAME = env.str("CALIPER_OIDC_NAME", default="single sign-on")
TOTP = env.bool("CALIPER_TOTP", default=False)
if OIDC_ISSUER or TOTP:
    if importlib.util.find_spec("allauth") is None:
        raise ImproperlyConfigured(
            "CALIPER_OIDC_ISSUER or CALIPER_TOTP is set, but django-allauth is not installed: pip install -e '.[sso]'."
        )
    from webapp.accounts.sso_settings import *  # noqa: F403 - names of allauth's own

    INSTALLED_APPS += ["allauth", "allauth.account"]
    MIDDLEWARE += ["allauth.account.middleware.AccountMiddleware"]
if OIDC_ISSUER:
    INSTALLED_APPS += ["allauth.socialaccount", "allauth.socialaccount.providers.openid_connect"]
    SOCIALACCOUNT_PROVIDERS = {
        "openid_connect": {
            "OAUTH_PKCE_ENABLED": True,
            "APPS": [
                {
                    "provider_id": "oidc",
                    "name": OIDC_NAME,
                    "client_id": OIDC_CLIENT_ID,
                    "secret": OIDC_CLIENT_SECRET,
                    "settings": {"server_url": OIDC_ISSUER},
                }
            ],
        }
    }
if TOTP:
    INSTALLED_APPS += ["allauth.mfa"]

LANGUAGE_CODE = "en-gb"
TIME_ZONE = env.str("CALIPER_TIME_ZONE", default="UTC")
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = Path(env.str("CALIPER_STATIC_ROOT", default=str(DATA_DIR / "static")))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = DEBUG

# No inline script or style anywhere: response text is hostile.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "font-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 60 * 60 * 24 * 30
if BEHIND_TLS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = env.int("CALIPER_HSTS_SECONDS", default=3600)

MAX_UPLOAD_BYTES = env.int("CALIPER_MAX_UPLOAD_MB", default=200) * 1024 * 1024
# The longest response and prompt an import takes, in bytes of UTF-8.
MAX_TEXT_BYTES = env.int("CALIPER_MAX_TEXT_KB", default=256) * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024

# How many requests one API token may send in a minute.
API_PER_MINUTE = env.int("CALIPER_API_PER_MINUTE", default=600)

# A running job whose heartbeat is older than this is LOST.
JOB_LOST_AFTER_SECONDS = env.int("CALIPER_JOB_LOST_AFTER_SECONDS", default=60)
# What an import or an export of data may take beyond what its process has already; it fails with words at more.
JOB_MEMORY_BYTES = env.int("CALIPER_JOB_MEMORY_MB", default=2048) * 1024 * 1024
# How often beat looks for due retrains, lost jobs and expired reservations.
TICK_SECONDS = env.int("CALIPER_TICK_SECONDS", default=15)
# Versions of a method that never served keep their weights while they are among the newest so many; 0 keeps all.
KEEP_VERSIONS = env.int("CALIPER_KEEP_VERSIONS", default=0)
# The program that trains a run folder; on several GPUs "accelerate launch -m workers.rewards.train".
TRAIN_COMMAND = shlex.split(env.str("CALIPER_TRAIN_COMMAND", default="")) or [
    sys.executable,
    "-m",
    "workers.rewards.train",
]
# Folders below which model folders lie that people may name as base models, separated by colons; never the data folder.
BASE_MODEL_DIRS = [Path(each) for each in env.str("CALIPER_BASE_MODEL_DIRS", default="").split(":") if each]
# The TOML file of the endpoints that may be asked to judge (webapp/corpus/endpoints.py).
ENDPOINTS_FILE = Path(given) if (given := env.str("CALIPER_ENDPOINTS", default="")) else None
# Whether imports may read the hub's data sets, and where that is; the token is the operator's, for reading alone.
HUB = env.bool("CALIPER_HUB", default=True)
HUB_ENDPOINT = (env.str("HF_ENDPOINT", default="") or "https://huggingface.co").rstrip("/")
HUB_TOKEN = env.str("HF_TOKEN", default="")
# With this token data and models are pushed to the hub. Not HF_TOKEN: whoever gave that wanted to read.
HUB_PUSH_TOKEN = env.str("CALIPER_HUB_TOKEN", default="")
# Addresses below which imports may read, and below which pushes may write, such as s3://bucket/folder/.
STORES = env.list("CALIPER_STORES", default=[])
STORES_OUT = env.list("CALIPER_STORES_OUT", default=[])
# The program that turns a model folder into one that plain transformers load; gets both folders.
MODEL_EXPORT_COMMAND = [sys.executable, "-m", "workers.rewards.export"]
# The program that measures a model on rows that came after it; gets the model, a snapshot and a folder to work in.
MEASURE_COMMAND = [sys.executable, "-m", "workers.rewards.measure"]
# The program that asks a machine annotator; gets a folder with its questions.
ANNOTATE_COMMAND = [sys.executable, "-m", "workers.rewards.annotate"]
BENCHMARK_COMMAND = [sys.executable, "-m", "workers.rewards.benchmark"]

LOGGING = logging_settings(
    level=env.str("CALIPER_LOG_LEVEL", default="INFO"), as_json=env.bool("CALIPER_LOG_JSON", default=False)
)
