"""RP id and origins: what a deployment may say, what it gets by default, and what the start refuses."""

import pytest

from authn.relying_party import RelyingParty, UserVerification, origin_fault, rp_id_fault
from service.settings import SettingsError, load_settings
from service.webauthn_settings import WebauthnSettings, origin_of

NEEDED = {
    "database_url": "postgresql://user:secret@db/kasbah",
    "redis_url": "redis://cache/0",
    "secret_key": "f3Jw-9xQzKp7mVb2Lr8sTn4cYd6hGa1e",
}


@pytest.mark.parametrize(
    "origin",
    [
        "https://kasbah.example",
        "https://login.kasbah.example:8443",
        "http://localhost",
        "http://localhost:8080",
        "http://acme.localhost:8080",
        "https://xn--bcher-kva.example",
    ],
)
def test_an_origin_that_browsers_offer_keys_on(origin):
    """HTTPS, or this machine by its name."""
    assert origin_fault(origin) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://kasbah.example",
        "http://127.0.0.1:8080",
        "https://192.0.2.1",
        "https://[2001:db8::1]",
        "https://kasbah.example/",
        "https://kasbah.example:443",
        "https://Kasbah.example",
        "https://user@kasbah.example",
        "https://kasbah.example?x",
        "https://*.kasbah.example",
        "https://bücher.example",
        "https://kasbah.example:port",
        "https://kasbah.example.",
        "ftp://kasbah.example",
        "kasbah.example",
        "null",
        "",
    ],
)
def test_an_origin_that_no_browser_would_name(origin):
    """It is told at the start, not by the first person whose key is refused."""
    assert origin_fault(origin) is not None


def test_an_rp_id_is_the_host_or_a_domain_above_it():
    """Of every origin; a name that merely ends alike is another's."""
    assert rp_id_fault("kasbah.example", ("https://kasbah.example", "https://a.b.kasbah.example:8443")) is None
    assert rp_id_fault("localhost", ("http://localhost:8080", "http://acme.localhost:8080")) is None
    assert rp_id_fault("kasbah", ("https://kasbah",)) is None
    for bad in ("sbah.example", "login.kasbah.example", "other.example", "example", "https://kasbah.example", "", "*"):
        assert rp_id_fault(bad, ("https://kasbah.example",)) is not None, bad
    assert rp_id_fault("kasbah.example", ("https://kasbah.example", "https://kasbah.example.evil.test")) is not None
    assert rp_id_fault("127.0.0.1", ()) is not None


def test_the_public_url_is_the_default():
    """Its host is the RP id; a loopback address is this machine by its name; where no browser takes part, there is none."""
    settings = WebauthnSettings()
    assert settings.relying_party("https://id.kasbah.example/auth") == RelyingParty(
        "id.kasbah.example", "Kasbah", ("https://id.kasbah.example",), UserVerification.PREFERRED
    )
    for local in ("http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080"):
        found = settings.relying_party(local)
        assert found is not None
        assert (found.id, found.origins) == ("localhost", ("http://localhost:8080",))
    assert settings.relying_party("http://kasbah.internal:8080") is None
    assert settings.relying_party("https://192.0.2.7") is None
    assert origin_of("https://KASBAH.example:443/x") == "https://kasbah.example"


def test_what_is_set_wins_over_the_public_url():
    """A front end of another host under the same domain."""
    settings = WebauthnSettings(
        rp_id="kasbah.example", rp_name="Acme", origins=("https://app.kasbah.example",), user_verification="required"
    )
    assert settings.relying_party("https://api.elsewhere.example") == RelyingParty(
        "kasbah.example", "Acme", ("https://app.kasbah.example",), UserVerification.REQUIRED
    )
    wider = WebauthnSettings(rp_id="kasbah.example").relying_party("https://id.kasbah.example")
    assert wider is not None
    assert (wider.id, wider.origins) == ("kasbah.example", ("https://id.kasbah.example",))


@pytest.mark.parametrize(
    ("public_url", "webauthn", "named"),
    [
        ("https://kasbah.example", {"rp_id": "other.example"}, "RP_ID"),
        ("https://kasbah.example", {"rp_id": "login.kasbah.example"}, "RP_ID"),
        ("http://kasbah.internal", {"rp_id": "kasbah.internal"}, "ORIGINS"),
        ("https://kasbah.example", {"rp_id": "other.example", "origins": ["https://kasbah.example"]}, "RP_ID"),
        ("https://kasbah.example", {"rp_id": "example", "origins": ["https://kasbah.example"]}, "RP_ID"),
        ("https://kasbah.example", {"origins": ["https://a.example", "https://b.example"]}, "RP_ID"),
        ("https://kasbah.example", {"origins": ["http://kasbah.example"]}, "ORIGINS"),
        ("https://kasbah.example", {"origins": ["https://kasbah.example"] * 2}, "ORIGINS"),
        ("https://kasbah.example", {"user_verification": "perhaps"}, "USER_VERIFICATION"),
        ("https://kasbah.example", {"rp_name": ""}, "RP_NAME"),
    ],
    ids=str,
)
def test_the_start_refuses_keys_that_could_never_work(public_url, webauthn, named):
    """An RP id that is no suffix of an origin's host, pages that browsers do not trust."""
    with pytest.raises(SettingsError) as refused:
        load_settings(**NEEDED, public_url=public_url, webauthn=webauthn)
    (told,) = refused.value.faults
    assert told.startswith("KASBAH_WEBAUTHN")
    assert named in told


def test_other_deployments_start_as_before():
    """One that no browser offers keys on starts without them."""
    for url in (None, "http://kasbah.internal:8080", "https://kasbah.example"):
        load_settings(**NEEDED, public_url=url)
