"""Settings: read from the environment, all faults named at once, secrets never shown."""

import base64
import hashlib
import re
from datetime import timedelta

import pytest

from service.settings import Settings, SettingsError, load_settings, unknown_variables
from service.settings_page import render

GOOD = {
    "KASBAH_DATABASE_URL": "postgresql://user:hunter2secret@db/kasbah",
    "KASBAH_REDIS_URL": "redis://:hunter2secret@cache/0",
    "KASBAH_SECRET_KEY": "f3Jw-9xQzKp7mVb2Lr8sTn4cYd6hGa1e",
}


@pytest.fixture
def environment(monkeypatch):
    """Set exactly these KASBAH_ variables."""
    import os

    for name in list(os.environ):
        if name.startswith("KASBAH_"):
            monkeypatch.delenv(name)

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def faults(**given) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load_settings(**given)
    return refused.value.faults


def test_every_missing_setting_is_named(environment):
    """One start tells all that is missing, not one thing at a time."""
    environment()
    assert faults() == [
        "KASBAH_DATABASE_URL: is missing",
        "KASBAH_REDIS_URL: is missing",
        "KASBAH_SECRET_KEY: is missing",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KASBAH_DATABASE_URL", "mysql://user:hunter2secret@db"),
        ("KASBAH_MIGRATION_DATABASE_URL", "hunter2secret"),
        ("KASBAH_REDIS_URL", "http://hunter2secret"),
        ("KASBAH_SECRET_KEY", "hunter2secret"),
        ("KASBAH_SECRET_KEY", "a" * 64),
        ("KASBAH_SECRET_KEY", "changeme" * 8),
        ("KASBAH_PORT", "0"),
        ("KASBAH_PORT", "eighty"),
        ("KASBAH_WORKERS", "0"),
        ("KASBAH_FAST_PATH", "perhaps"),
        ("KASBAH_LOG_LEVEL", "LOUD"),
        ("KASBAH_PUBLIC_URL", "kasbah.example"),
        ("KASBAH_TLS_CERT", "/does/not/exist.pem"),
        ("KASBAH_AUTHZ__MAX_STALENESS", "-1"),
        ("KASBAH_AUTHZ__MISSPELT", "1"),
        ("KASBAH_CACHE__TIMEOUT", "60"),
        ("KASBAH_HTTP__DECISION_LOG__MODE", "loud"),
        ("KASBAH_DATABASE__POOL_SIZE", "many"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(environment, name, value):
    """The variable is named; the value may be a secret and is not."""
    environment(**GOOD | {name: value})
    found = faults()
    assert [fault.partition(":")[0] for fault in found] == [name]
    assert "hunter2secret" not in str(found)


def test_several_wrong_settings_are_named_together(environment):
    """Faults of different parts come in one message."""
    environment(KASBAH_DATABASE_URL="x", KASBAH_PORT="x", KASBAH_AUTHZ__POLL_INTERVAL="x")
    named = {fault.partition(":")[0] for fault in faults()}
    assert named == {
        "KASBAH_DATABASE_URL",
        "KASBAH_REDIS_URL",
        "KASBAH_SECRET_KEY",
        "KASBAH_PORT",
        "KASBAH_AUTHZ__POLL_INTERVAL",
    }


def test_secrets_are_not_shown(environment):
    """Neither a settings object nor its dump as text shows a secret."""
    environment(**GOOD)
    settings = load_settings()
    for secret in ("hunter2secret", GOOD["KASBAH_SECRET_KEY"]):
        assert secret not in repr(settings)
        assert secret not in str(settings.model_dump())


def test_shared_values_reach_each_part(environment):
    """Parts that need the same value get it from one variable."""
    environment(**GOOD, KASBAH_PORT="9000", KASBAH_BASE_DOMAIN="kasbah.example", KASBAH_AUTHZ__MAX_STALENESS="2.5")
    settings = load_settings()
    assert settings.cache.url.get_secret_value() == GOOD["KASBAH_REDIS_URL"]
    assert settings.cache.secret.get_secret_value() == GOOD["KASBAH_SECRET_KEY"]
    assert settings.http.public_url == "http://127.0.0.1:9000"
    assert settings.http.base_domain == "kasbah.example"
    assert settings.authz.max_staleness == timedelta(seconds=2.5)


def test_the_public_url_is_that_of_the_setting(environment):
    """Behind a proxy, metadata must name the proxy."""
    environment(**GOOD, KASBAH_PUBLIC_URL="https://pdp.example/")
    assert load_settings().http.public_url == "https://pdp.example"


def test_tls_needs_both_files(environment, tmp_path):
    """A certificate without its key must not fall back to plain HTTP."""
    certificate = tmp_path / "cert.pem"
    certificate.write_text("")
    environment(**GOOD, KASBAH_TLS_CERT=str(certificate))
    assert faults() == ["KASBAH_TLS_CERT and KASBAH_TLS_KEY: both or none"]


def test_settings_cannot_be_changed(environment):
    """What was checked at the start stays."""
    environment(**GOOD)
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_command_line_wins(environment):
    """An option given on the command line beats the variable."""
    environment(**GOOD, KASBAH_PORT="9000")
    assert load_settings(port=9001).port == 9001


def test_misspelt_variables_are_told():
    """A variable that nobody reads is most likely a mistake."""
    assert unknown_variables(
        {"KASBAH_DATABSE_URL": "", "KASBAH_AUTHZ__MAX_STALENESS": "", "HOME": "", "KASBAH_URL": ""}
    ) == ["KASBAH_DATABSE_URL is no setting; did you mean KASBAH_DATABASE_URL?"]
    assert unknown_variables({"KASBAH_" + name.upper(): "" for name in Settings.model_fields}) == []


def test_every_variable_that_is_documented_is_known():
    """Nobody is told that a setting of the page is none."""
    documented = re.findall(r"^\| `(KASBAH_[A-Z_]+)` \|", render(), re.MULTILINE)
    assert "KASBAH_SIGN_IN__DEVICE_DAYS" in documented
    assert unknown_variables(dict.fromkeys(documented, "")) == []


RANDOM_KEY = base64.b64encode(hashlib.sha256(b"random enough").digest()).decode()
"""The same in every process, so that tests have the same names."""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"main:{RANDOM_KEY[:20]}", "the key `main` has 15 bytes, not 32"),
        (f"main:{RANDOM_KEY},main:{RANDOM_KEY}", "the id `main` is there twice"),
        (f"main:{RANDOM_KEY},more:{RANDOM_KEY}", "the key `more` is the same as `main`"),
        (f"main:{'A' * 43}=", "the key `main` is not random"),
        ("main", "key 1 does not begin with its id"),
    ],
)
def test_an_unusable_encryption_key_is_named_without_its_value(environment, tmp_path, value, said):
    """From the environment and from a file alike."""
    environment(**GOOD, KASBAH_ENCRYPTION__KEYS=value)
    (fault,) = faults()
    assert fault.startswith(f"KASBAH_ENCRYPTION__KEYS: {said}")
    assert RANDOM_KEY[:20] not in fault
    path = tmp_path / "keys"
    path.write_text(value.replace(",", "\n"))
    environment(KASBAH_ENCRYPTION__KEYS_FILE=str(path))
    assert any(fault.startswith(f"KASBAH_ENCRYPTION__KEYS_FILE: {said}") for fault in faults())


def test_encryption_keys_come_from_one_place(environment, tmp_path):
    """Two would leave open which one counts; a file that is not there is no "no keys"."""
    path = tmp_path / "keys"
    environment(**GOOD, KASBAH_ENCRYPTION__KEYS_FILE=str(path))
    assert faults() == [f"KASBAH_ENCRYPTION__KEYS_FILE: cannot read `{path}`"]
    path.write_text(f"main:{RANDOM_KEY}\n")
    assert list(load_settings().encryption.local_keys()) == ["main"]
    environment(KASBAH_ENCRYPTION__KEYS=f"main:{RANDOM_KEY}")
    assert faults() == ["KASBAH_ENCRYPTION: set `KEYS` or `KEYS_FILE`, not both"]


ISSUER = {
    "KASBAH_OAUTH__ISSUER": "https://issuer.example",
    "KASBAH_OAUTH__AUDIENCE": "https://kasbah.example",
    "KASBAH_OAUTH__JWKS_URL": "https://issuer.example/jwks.json",
}


def test_an_issuer_is_configured_whole_or_not_at_all(environment):
    """Without any of its settings no access token is taken; with one of them, what lacks is named."""
    environment(**GOOD)
    assert load_settings().oauth is None
    environment(KASBAH_OAUTH__LEEWAY_SECONDS="5")
    said = faults()
    assert [fault.partition(":")[0] for fault in said] == list(ISSUER)
    assert all("is missing" in fault for fault in said)
    environment(**ISSUER)
    oauth = load_settings().oauth
    assert oauth is not None
    assert (oauth.expected.issuer, oauth.expected.audience) == ("https://issuer.example", "https://kasbah.example")


@pytest.mark.parametrize("name", list(ISSUER))
def test_each_lack_of_an_issuer_is_named(environment, name):
    """Issuer, audience, and what verifies tokens."""
    environment(**GOOD, **{other: value for other, value in ISSUER.items() if other != name})
    (fault,) = faults()
    assert fault.startswith(f"{name}: is missing")


def test_introspection_takes_the_place_of_keys(environment):
    """One of the two is enough."""
    given = dict(ISSUER)
    del given["KASBAH_OAUTH__JWKS_URL"]
    environment(**GOOD, **given, KASBAH_OAUTH__INTROSPECTION_URL="http://127.0.0.1:4445/admin/oauth2/introspect")
    assert load_settings().oauth is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ISSUER", "http://issuer.example"),
        ("ISSUER", "issuer.example"),
        ("ISSUER", "https://issuer.example?tenant=a"),
        ("ISSUER", "https://issuer.example#a"),
        ("ISSUER", "https://user:hunter2secret@issuer.example"),
        ("ISSUER", ""),
        ("AUDIENCE", ""),
        ("AUDIENCE", " "),
        ("AUDIENCE", "a" * 300),
        ("JWKS_URL", "http://issuer.example/jwks.json"),
        ("JWKS_URL", "http://localhost.evil.example/jwks.json"),
        ("JWKS_URL", "file:///etc/passwd"),
        ("JWKS_URL", "https://issuer.example:hunter2secret/"),
        ("INTROSPECTION_URL", "http://10.0.0.1/introspect"),
        ("ALGORITHMS", '["HS256"]'),
        ("ALGORITHMS", '["none"]'),
        ("ALGORITHMS", "[]"),
        ("TOKEN_TYPES", '["id+jwt"]'),
        ("TOKEN_TYPES", "[]"),
        ("SCOPE_PREFIX", "a b"),
        ("LEEWAY_SECONDS", "61"),
        ("LEEWAY_SECONDS", "-1"),
        ("LONGEST_LIFE_SECONDS", "999999999"),
        ("TIMEOUT_SECONDS", "10"),
        ("INTROSPECTION_SECONDS", "31"),
        ("KEYS_STALE_SECONDS", "100000"),
        ("CA_FILE", "/does/not/exist"),
        ("JWKS_URI", "https://issuer.example/jwks.json"),
    ],
)
def test_what_would_weaken_access_tokens_is_refused_by_name(environment, name, value):
    """Plain HTTP over a network, algorithms that are none, bounds that are too wide, misspelt settings."""
    variable = f"KASBAH_OAUTH__{name}"
    environment(**GOOD, **(ISSUER | {variable: value}))
    (fault,) = faults()
    assert fault.startswith(variable)
    assert "hunter2secret" not in fault


@pytest.mark.parametrize(
    "given",
    [
        {"INTROSPECTION_CLIENT_ID": "kasbah"},
        {"INTROSPECTION_CLIENT_SECRET": "hunter2secret"},
        {"INTROSPECTION_TOKEN": "hunter2secret"},
        {
            "INTROSPECTION_URL": "https://issuer.example/introspect",
            "INTROSPECTION_CLIENT_ID": "kasbah",
            "INTROSPECTION_CLIENT_SECRET": "hunter2secret",
            "INTROSPECTION_TOKEN": "hunter2secret",
        },
        {"KEYS_FRESH_SECONDS": "3600", "KEYS_STALE_SECONDS": "60"},
    ],
)
def test_settings_of_an_issuer_that_do_not_fit_together_are_refused(environment, given):
    """Half a credential, two of them, one for nothing; never with its value."""
    environment(**GOOD, **ISSUER, **{f"KASBAH_OAUTH__{name}": value for name, value in given.items()})
    (fault,) = faults()
    assert fault.startswith("KASBAH_OAUTH: ")
    assert "hunter2secret" not in fault
