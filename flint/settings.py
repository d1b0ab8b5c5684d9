"""Every setting, read from the environment. All faults are reported at once, loudly.

FLINT_ENV is `sandbox` (the default: a laptop, where missing variables come from the sandbox's own file) or
`production` (everything is explicit, and every part of the sandbox is refused).
"""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import pghistory
from cryptography.fernet import Fernet
from csp.constants import NONE, SELF

from flint import logs
from flint.env import Environment, read_file

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_FOLDER = Path(os.environ.get("FLINT_DATA") or BASE_DIR / ".flint")

PRODUCTION = os.environ.get("FLINT_ENV", "").strip() == "production"
env = Environment(os.environ if PRODUCTION else {**read_file(DATA_FOLDER / "sandbox.env"), **os.environ})
ENVIRONMENT = env.choice("FLINT_ENV", ["sandbox", "production"], default="sandbox")
_HINT = (
    "" if PRODUCTION else "`make run` starts a sandbox that has it; for a real installation set FLINT_ENV=production."
)

# --- Secrets -------------------------------------------------------------------------------------------------

SECRET_KEY = env.text("SECRET_KEY", hint=_HINT)
SECRET_KEY_FALLBACKS = env.names("SECRET_KEY_FALLBACKS")
# Fernet keys that encrypt backend credentials: the first encrypts, all decrypt, so that keys can be rotated.
CREDENTIAL_KEYS = env.names("FLINT_CREDENTIAL_KEYS")
if not CREDENTIAL_KEYS:
    env.fault(
        "FLINT_CREDENTIAL_KEYS is missing. Make one with: python -c "
        '"from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())". ' + _HINT
    )
for _key in CREDENTIAL_KEYS:
    try:
        Fernet(_key)
    except ValueError:
        env.fault("FLINT_CREDENTIAL_KEYS holds something that is not a Fernet key (32 bytes in URL-safe base64).")

# --- Where we are --------------------------------------------------------------------------------------------

DEBUG = env.boolean("DEBUG", False)
SITE_URL = env.text(
    "SITE_URL", None if PRODUCTION else "http://127.0.0.1:8000", hint="The https:// address of this site."
)
_site = urlsplit(SITE_URL)
ALLOWED_HOSTS = env.names("ALLOWED_HOSTS", (_site.hostname or "") if PRODUCTION else "127.0.0.1,localhost,[::1]")
CSRF_TRUSTED_ORIGINS = env.names("CSRF_TRUSTED_ORIGINS", SITE_URL)
SUPPORT_EMAIL = env.text(
    "SUPPORT_EMAIL", None if PRODUCTION else "support@example.test", hint="Who customers write to."
)
ROOT_URLCONF = "flint.urls"

if PRODUCTION:
    if DEBUG:
        env.fault("DEBUG is on, but FLINT_ENV is production. Unset DEBUG.")
    if os.environ.get("FLINT_DATA"):
        env.fault("FLINT_DATA belongs to the sandbox, but FLINT_ENV is production. Unset FLINT_DATA.")
    for _name, _value in [("SECRET_KEY", SECRET_KEY), *(("SECRET_KEY_FALLBACKS", key) for key in SECRET_KEY_FALLBACKS)]:
        if _value and (len(_value) < 50 or len(set(_value)) < 12 or _value.startswith("django-insecure-")):
            env.fault(f"{_name} is weak: it must have at least 50 characters, 12 of them different.")
    if any(len(set(key)) < 12 for key in CREDENTIAL_KEYS):
        env.fault("FLINT_CREDENTIAL_KEYS is weak: make a random key with Fernet.generate_key().")
    if SUPPORT_EMAIL and "@" not in SUPPORT_EMAIL:
        env.fault(f"SUPPORT_EMAIL is {SUPPORT_EMAIL!r}, which is no e-mail address.")
    if SITE_URL and not _site.hostname:
        env.fault(f"SITE_URL is {SITE_URL!r}, which has no host name.")
    if any("://" not in origin for origin in CSRF_TRUSTED_ORIGINS):
        env.fault("CSRF_TRUSTED_ORIGINS holds something that does not look like https://host.")
    for _name, _value in read_file(BASE_DIR / ".flint" / "sandbox.env").items():
        if os.environ.get(_name) == _value and _name != "SITE_URL":
            env.fault(f"{_name} is the one of the sandbox in this folder. Production needs its own.")
    if SITE_URL and _site.scheme != "https":
        env.fault(f"SITE_URL is {SITE_URL!r}, but production is served over https.")
    if "*" in ALLOWED_HOSTS:
        env.fault("ALLOWED_HOSTS holds '*', which lets any host name in. Name the hosts.")

# --- Parts ---------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "flint",
    "accounts",
    "apikeys",
    "billing",
    "gateway",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.usersessions",
    "rest_framework",
    "csp",
    "django_htmx",
    "pghistory",
    "pgtrigger",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.forms",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
if not PRODUCTION:
    INSTALLED_APPS.insert(0, "flint.sandbox")

# The site only: /v1 takes its own road (flint/asgi.py) and passes through none of these.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "flint.sessions.follow",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "accounts.middleware.remember_address",
    "pghistory.middleware.HistoryMiddleware",
]

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
                "accounts.context.membership",
            ],
        },
    },
]

FORM_RENDERER = "django.forms.renderers.TemplatesSetting"  # templates/django/forms: how every field looks.

STATIC_URL = "/static/"
STATIC_ROOT = env.text("STATIC_ROOT", str(BASE_DIR / ".staticfiles")) if PRODUCTION else None
if PRODUCTION:
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }
else:
    WHITENOISE_USE_FINDERS = True  # A laptop serves the files where they lie, without a collect step.
    WHITENOISE_AUTOREFRESH = True  # Also those that change while it runs.

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = "flint.formats"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- PostgreSQL ----------------------------------------------------------------------------------------------

_database = env.database("DATABASE_URL", hint=_HINT)
# A transaction that its process forgot must not hold a wallet for long.
_asked = _database["OPTIONS"].get("options", "")
_database["OPTIONS"]["options"] = f"{_asked} -c lock_timeout=5s -c idle_in_transaction_session_timeout=30s".strip()
_database["CONN_HEALTH_CHECKS"] = True
if env.boolean("DATABASE_POOL", False):  # flint/asgi.py: threads come and go, so connections outlive them.
    _database["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 10, "timeout": 5, "reconnect_timeout": 5}
else:  # Commands and Celery's workers: one process, one connection.
    _database["CONN_MAX_AGE"] = 60
DATABASES = {"default": _database}

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "django_cache",
        # It holds the limits of sign-in. With Django's 300 a flood of addresses would push out those in force.
        "OPTIONS": {"MAX_ENTRIES": 20_000},
    }
}

# Triggers keep the history of rows that matter, whoever changes them and how. What it says of who did it lies in the
# same row, and none of it is ever changed.
PGHISTORY_DEFAULT_TRACKERS = (pghistory.InsertEvent(), pghistory.UpdateEvent(), pghistory.DeleteEvent())
PGHISTORY_APPEND_ONLY = True
PGHISTORY_CONTEXT_FIELD = pghistory.ContextJSONField()
PGHISTORY_MIDDLEWARE_METHODS = ("POST",)

# --- Redis and Celery ----------------------------------------------------------------------------------------

REDIS_URL = env.url("REDIS_URL", ["redis", "rediss", "unix"], hint=_HINT)
CELERY_BROKER_URL = env.url("CELERY_BROKER_URL", ["redis", "rediss", "amqp", "amqps"], hint=_HINT)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True  # Every task is idempotent, so a repeat is cheaper than a loss.
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_SOFT_TIME_LIMIT = 60
CELERY_TASK_TIME_LIMIT = 90
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 300,  # More than three times the hard time limit: else tasks run twice.
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 2,
    "socket_timeout": 10,  # Without it a half-open connection to the broker is never noticed.
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
}

# --- People: sign-in -----------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
SILENCED_SYSTEM_CHECKS = ["auth.W004"]  # The e-mail address is unique without regard to case, by a constraint.
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
SESSION_COOKIE_AGE = 14 * 24 * 3600  # Without a new sign-in: flint/sessions.py ends what is older, used or not.
STAFF_SESSION_SECONDS = 8 * 3600
STAFF_NEED_SECOND_FACTOR = PRODUCTION  # Before the admin (flint/staff.py).

ACCOUNT_ADAPTER = "flint.adapters.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
# A code and not a link: scanners of mail open links, and a code is typed where the person signed up.
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
ACCOUNT_CHANGE_EMAIL = True  # One address each; a new one replaces the old once it is confirmed.
# A forgotten password is reset by a link: it cannot be guessed, works in any browser, and once.
PASSWORD_RESET_TIMEOUT = 3600
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_RATE_LIMITS = {"signup": "5/m/ip,20/h/ip"}  # And allauth's own for everything else.
ACCOUNT_SESSION_REMEMBER = None  # The person is asked; without it the session ends with the browser.
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = "[Flint] "
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = True
ACCOUNT_LOGOUT_REDIRECT_URL = "/"

MFA_ADAPTER = "flint.adapters.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True  # On http only for `localhost`, which browsers take for secure.
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_TOTP_ISSUER = "Flint"
# No tolerance: allauth remembers a used code for one period only, so a wider window would let it be used twice.
MFA_TOTP_TOLERANCE = 0
USERSESSIONS_TRACK_ACTIVITY = True

SOCIALACCOUNT_ADAPTER = "flint.adapters.SocialAccountAdapter"
SOCIALACCOUNT_LOGIN_ON_GET = False
# A provider never opens an account that exists with the same address: whoever runs or deceives it would own the
# account. The person signs in as before and connects the provider in the settings.
SOCIALACCOUNT_EMAIL_AUTHENTICATION = False
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_PROVIDERS, _provider_apps, _provider_origins = env.social_providers()
INSTALLED_APPS += _provider_apps

# --- Money ---------------------------------------------------------------------------------------------------

# Who sells: printed on receipts and statements. Lines of the address are separated by semicolons.
COMPANY_NAME = env.text("COMPANY_NAME", "" if PRODUCTION else "Flint Sandbox Inc.")
COMPANY_ADDRESS = [
    line.strip()
    for line in env.text("COMPANY_ADDRESS", "" if PRODUCTION else "1 Example Street; 12345 Sampletown").split(";")
    if line.strip()
]
COMPANY_TAX_ID = env.text("COMPANY_TAX_ID", "" if PRODUCTION else "00-0000000")
COMPANY_EMAIL = env.text("COMPANY_EMAIL", SUPPORT_EMAIL)
if PRODUCTION and env.has("STRIPE_SECRET_KEY"):
    for _name in ("COMPANY_NAME", "COMPANY_ADDRESS"):
        if not env.has(_name):
            env.fault(f"{_name} is missing: customers pay by STRIPE_SECRET_KEY, and receipts say who was paid.")

WELCOME_CREDIT = env.dollars("WELCOME_CREDIT_USD", "0" if PRODUCTION else "5", maximum=1000)
# What becomes of money that was paid and not spent when an owner closes the account: a task for a person to refund it,
# or no closing before it is spent or refunded.
ACCOUNT_CLOSING = env.choice("ACCOUNT_CLOSING", ["refund", "block"], default="refund")

# --- Stripe --------------------------------------------------------------------------------------------------

# Without a key nobody can top up, and the page says whom to write to. sk_sim_ is the sandbox's simulator.
STRIPE_SECRET_KEY = env.text("STRIPE_SECRET_KEY", "")
STRIPE_WEBHOOK_SECRETS = env.names("STRIPE_WEBHOOK_SECRETS")  # Any of them is taken, so that they can be rotated.
STRIPE_API_BASE = env.text("STRIPE_API_BASE", "").rstrip("/")  # Stripe's own where empty.
# Cards that are none may pay on a production-like site that is itself a test, and money of tests may be in its books.
STRIPE_TEST_MONEY = env.boolean("STRIPE_TEST_MONEY", False)
STRIPE_LIVEMODE = STRIPE_SECRET_KEY.startswith(("sk_live_", "rk_live_"))
# Where the payment page is: Stripe's own domain, or the one of the company that is set up there.
STRIPE_CHECKOUT_ORIGIN = env.text("STRIPE_CHECKOUT_ORIGIN", STRIPE_API_BASE or "https://checkout.stripe.com")
STRIPE_TAX = env.boolean("STRIPE_TAX", False)  # Stripe Tax adds tax to what is credited.
STRIPE_TAX_CODE = env.text("STRIPE_TAX_CODE", None if STRIPE_TAX else "", hint="Of prepaid credit, such as txcd_...")
# Of one payment, before tax.
TOPUP_MIN_CENTS = env.integer("TOPUP_MIN_CENTS", 500, minimum=50, maximum=99_999_999)
TOPUP_MAX_CENTS = env.integer("TOPUP_MAX_CENTS", 500_000, minimum=50, maximum=99_999_999)
TOPUP_AMOUNTS = env.integers("TOPUP_AMOUNTS", "1000,2500,10000", minimum=TOPUP_MIN_CENTS, maximum=TOPUP_MAX_CENTS)

if STRIPE_SECRET_KEY:
    if not re.fullmatch(r"(sk_live|rk_live|sk_test|rk_test|sk_sim)_\w+", STRIPE_SECRET_KEY, re.ASCII):
        env.fault("STRIPE_SECRET_KEY is no secret or restricted key of Stripe (sk_live_..., rk_live_..., sk_test_...).")
    if not STRIPE_WEBHOOK_SECRETS:
        env.fault("STRIPE_WEBHOOK_SECRETS is missing: without one anybody could tell us that they have paid.")
    if any(not re.fullmatch(r"whsec_\w{16,}", secret, re.ASCII) for secret in STRIPE_WEBHOOK_SECRETS):
        env.fault("STRIPE_WEBHOOK_SECRETS holds something that is not the secret of a webhook endpoint (whsec_...).")
    if STRIPE_LIVEMODE and not PRODUCTION:
        env.fault("STRIPE_SECRET_KEY is live, but this is a sandbox: it would take real money.")
    if STRIPE_LIVEMODE and STRIPE_API_BASE:
        env.fault("STRIPE_API_BASE is set, but STRIPE_SECRET_KEY is live: a live key goes to Stripe and nowhere else.")
    if STRIPE_SECRET_KEY.startswith("sk_sim_"):
        if PRODUCTION:
            env.fault("STRIPE_SECRET_KEY is the simulator's, but FLINT_ENV is production.")
        if not STRIPE_API_BASE:
            env.fault("STRIPE_API_BASE is missing, but STRIPE_SECRET_KEY is the simulator's.")
if STRIPE_SECRET_KEY.startswith(("sk_test_", "rk_test_")) and PRODUCTION and not STRIPE_TEST_MONEY:
    env.fault(
        "STRIPE_SECRET_KEY is a test key: anybody could pay with a test card, and call real backends for it. "
        "A site that is itself a test says STRIPE_TEST_MONEY=true."
    )
if STRIPE_API_BASE and urlsplit(STRIPE_API_BASE).hostname not in ("127.0.0.1", "::1", "localhost"):
    env.fault("STRIPE_API_BASE is not on this machine: only a simulator is asked instead of Stripe.")
if STRIPE_API_BASE and PRODUCTION:
    env.fault("STRIPE_API_BASE is set, but FLINT_ENV is production: a simulator's money would pay for real calls.")
if TOPUP_MIN_CENTS > TOPUP_MAX_CENTS:
    env.fault("TOPUP_MIN_CENTS is more than TOPUP_MAX_CENTS.")

# --- Mail ----------------------------------------------------------------------------------------------------

if PRODUCTION or env.has("EMAIL_HOST"):
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    EMAIL_HOST = env.text("EMAIL_HOST", hint="The mail server.")
    EMAIL_PORT = env.integer("EMAIL_PORT", 587, minimum=1, maximum=65535)
    EMAIL_HOST_USER = env.text("EMAIL_HOST_USER", "")
    EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD", "")
    EMAIL_USE_SSL = env.boolean("EMAIL_USE_SSL", False)
    EMAIL_USE_TLS = env.boolean("EMAIL_USE_TLS", not EMAIL_USE_SSL)
    if EMAIL_USE_SSL and EMAIL_USE_TLS:
        env.fault("EMAIL_USE_SSL and EMAIL_USE_TLS are both on. Port 465 speaks SSL, port 587 TLS.")
    if EMAIL_HOST_USER and not (EMAIL_USE_SSL or EMAIL_USE_TLS):
        env.fault("EMAIL_HOST_USER needs EMAIL_USE_TLS or EMAIL_USE_SSL: anybody could read its password.")
    EMAIL_TIMEOUT = env.integer("EMAIL_TIMEOUT", 10, minimum=1, maximum=60)
else:
    EMAIL_BACKEND = "flint.sandbox.mail_files.EmailBackend"  # /sandbox/mailbox/ shows them.
    EMAIL_FILE_PATH = DATA_FOLDER / "mail"
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.text(
    "DEFAULT_FROM_EMAIL", None if PRODUCTION else "Flint <flint@example.test>", hint="Whom our mails come from."
)
if PRODUCTION and DEFAULT_FROM_EMAIL and "@" not in DEFAULT_FROM_EMAIL:
    env.fault(f"DEFAULT_FROM_EMAIL is {DEFAULT_FROM_EMAIL!r}, which holds no e-mail address.")
if env.has("EMAIL_BACKEND"):
    env.fault("EMAIL_BACKEND cannot be chosen: mails go to EMAIL_HOST, in the sandbox to files. Unset it.")

# --- Browser security ----------------------------------------------------------------------------------------

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "font-src": [SELF],
        # Chromium also asks it where a sent form redirects to.
        "form-action": [SELF, *_provider_origins, *([STRIPE_CHECKOUT_ORIGIN] if STRIPE_SECRET_KEY else [])],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
if PRODUCTION:
    SECURE_SSL_REDIRECT = env.boolean("SECURE_SSL_REDIRECT", True)
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = env.boolean("HSTS_SUBDOMAINS", True)
    if env.boolean("BEHIND_PROXY", False):  # Only for one proxy that overwrites both headers.
        SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
        ALLAUTH_TRUSTED_PROXY_COUNT = 1  # Else everybody shares the sign-in limits of the proxy's address.
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SESSION_COOKIE_NAME = "__Host-sessionid"
    CSRF_COOKIE_NAME = "__Host-csrftoken"

# --- The gateway ---------------------------------------------------------------------------------------------

GATEWAY_LONGEST_CALL_SECONDS = env.integer("GATEWAY_LONGEST_CALL_SECONDS", 600, minimum=10, maximum=7200)
# The longest silence of a backend in a stream, before its first token and between two.
GATEWAY_IDLE_SECONDS = env.integer("GATEWAY_IDLE_SECONDS", 100, minimum=1, maximum=3600)
# A stream whose backend has sent nothing for so long is tried at another one, if there is one left to try,
GATEWAY_FIRST_TOKEN_SECONDS = env.integer("GATEWAY_FIRST_TOKEN_SECONDS", 30, minimum=1, maximum=3600)
# and after so long no other backend is tried.
GATEWAY_FAILOVER_SECONDS = env.integer("GATEWAY_FAILOVER_SECONDS", 60, minimum=1, maximum=3600)
# A backend that keeps failing is left alone for so long before it is tried again; 0: it is always asked.
GATEWAY_BREAKER_SECONDS = env.integer("GATEWAY_BREAKER_SECONDS", 5, minimum=0, maximum=60)
# A backend that nobody called for so long is asked for one token by a worker, for each of its models, as is one that is
# left alone. 0: never; then customers' calls find out, and one customer's failures shut it for all.
GATEWAY_PROBE_SECONDS = env.integer("GATEWAY_PROBE_SECONDS", 60, minimum=0, maximum=86_400)
# The longest silence before a JSON answer, which backends send when it is whole. Node's clients give up after 300 s.
GATEWAY_ANSWER_SECONDS = env.integer("GATEWAY_ANSWER_SECONDS", 290, minimum=1, maximum=3600)
# A stream on which nothing came for so long gets a chunk that says nothing: clients give up after a minute or two.
GATEWAY_KEEPALIVE_SECONDS = env.integer("GATEWAY_KEEPALIVE_SECONDS", 15, minimum=1, maximum=60)
# A customer who takes nothing of a stream for so long is given up.
GATEWAY_SLOW_READER_SECONDS = env.integer("GATEWAY_SLOW_READER_SECONDS", 60, minimum=1, maximum=600)
# Redis away: `closed` refuses calls with 503; `local` lets each process limit by itself, so N processes N times.
GATEWAY_LIMITS_WITHOUT_REDIS = env.choice("GATEWAY_LIMITS_WITHOUT_REDIS", ["closed", "local"], default="closed")
# Private networks in which backends may be. Link-local addresses and the metadata of clouds are refused all the same.
BACKEND_NETWORKS = env.networks(
    "BACKEND_NETWORKS",
    "" if PRODUCTION else "127.0.0.0/8, ::1/128, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7",
)
GATEWAY_DATABASE_CONNECTIONS = env.integer("GATEWAY_DATABASE_CONNECTIONS", 10, minimum=6, maximum=100)

REST_FRAMEWORK = {"DEFAULT_SCHEMA_CLASS": "gateway.openapi.GatewaySchema"}
SPECTACULAR_SETTINGS = {
    "OAS_VERSION": "3.1.1",
    "TITLE": "Flint API",
    "VERSION": "1",
    "DESCRIPTION": "An OpenAI-compatible API: change base_url and key, and keep your SDK.",
    "SERVERS": [{"url": SITE_URL}],
    "CONTACT": {"email": SUPPORT_EMAIL},
    "APPEND_COMPONENTS": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "tk-..."}}},
    "SORT_OPERATIONS": False,
    "POSTPROCESSING_HOOKS": [],
}

# Who reads /metrics sends it as a bearer token. Without one nobody may in production, and this machine in the sandbox.
METRICS_TOKEN = env.text("METRICS_TOKEN", "")
if PRODUCTION and METRICS_TOKEN and len(METRICS_TOKEN) < 20:
    env.fault("METRICS_TOKEN is weak: it must have at least 20 characters.")

LOGGING = logs.config(
    form=env.choice("LOG_FORMAT", logs.FORMATS, "json" if PRODUCTION else "text"),
    level=env.choice("LOG_LEVEL", ["DEBUG", "INFO", "WARNING"], "INFO"),
)

env.finish()
