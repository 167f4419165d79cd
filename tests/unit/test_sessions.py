"""Sessions as values: tokens, lifetimes, levels, renewal."""

import re
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.sessions import (
    MAX_DEVICE,
    MAX_SESSIONS,
    Acr,
    Amr,
    NewSession,
    Proof,
    Session,
    device_of,
    digest_of,
    home_of_session,
    is_session_token,
    lifetimes,
    make_token,
    reaches,
    renewed,
    strengthened,
)
from tenancy.ids import TenantId
from tenancy.tenant_settings import SessionSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def session(**changed) -> Session:
    """A session of an hour idle and a day in all, that began now."""
    plain = Session(
        session_id=uuid4(),
        tenant_id=TenantId(uuid4()),
        user_id=uuid4(),
        auth_epoch=1,
        acr=Acr.AAL1,
        amr=("pwd",),
        auth_time=NOW,
        created_at=NOW,
        expires_at=NOW + 24 * HOUR,
        idle_seconds=3600,
        last_seen_at=NOW,
    )
    return replace(plain, **changed)


def test_a_token_says_where_to_look_and_holds_256_random_bits():
    """Two of them are never alike; what is stored is not a part of it."""
    tenant_id = TenantId(uuid4())
    entropy = secrets.token_bytes(32)
    token = make_token(tenant_id, entropy)
    assert re.fullmatch(r"kasbah_session_[A-Za-z0-9_-]{64}", token)
    assert is_session_token(token)
    assert home_of_session(token) == tenant_id
    assert digest_of(token) != digest_of(make_token(tenant_id, secrets.token_bytes(32)))
    assert digest_of(token) not in token
    with pytest.raises(ValueError, match="32 random bytes"):
        make_token(tenant_id, entropy[:-1])


@given(st.text(max_size=90))
def test_what_has_another_shape_is_no_token(text):
    """No look-up is made for it, and nothing about it can fail."""
    assert is_session_token(text) == bool(re.fullmatch(r"kasbah_session_[A-Za-z0-9_-]{64}", text))


@given(st.from_regex(r"\Akasbah_session_[A-Za-z0-9_-]{64}\Z"))
def test_every_token_of_the_shape_names_a_tenant(token):
    """Existing or not: looking it up is what decides."""
    assert is_session_token(token)
    assert home_of_session(token).int >= 0


def test_it_is_over_at_its_limits_and_not_before():
    """Idle and absolute, to the second; use moves the one and never the other; a clock that goes back moves nothing."""
    fresh = session()
    for after, over in ((HOUR - SECOND, False), (HOUR, True)):
        assert fresh.is_over(NOW + after) is over
    used = fresh.seen(NOW + 24 * HOUR - 2 * SECOND)
    for after, over in ((24 * HOUR - SECOND, False), (24 * HOUR, True), (25 * HOUR, True)):
        assert used.is_over(NOW + after) is over
    assert used.seen(NOW) == used


@pytest.mark.parametrize(
    ("idle", "absolute", "acr", "expected"),
    [
        (3600, 86_400, Acr.AAL1, (3600, 86_400)),
        (3600, 86_400, Acr.AAL2, (3600, 86_400)),
        (7200, 30 * 86_400, Acr.AAL1, (7200, 30 * 86_400)),
        (7200, 30 * 86_400, Acr.AAL2, (3600, 86_400)),
        (60, 300, Acr.AAL2, (60, 300)),
        (3600, 300, Acr.AAL1, (300, 300)),
    ],
)
def test_lifetimes_are_the_tenants_within_the_standards(idle, absolute, acr, expected):
    """NIST SP 800-63B-4 section 2.2.3: at AAL2 an hour idle and a day in all, whatever a tenant sets."""
    found, life = lifetimes(SessionSettings(idle, absolute), acr)
    assert (found, life.total_seconds()) == expected


def test_levels_are_ordered():
    """The higher stands for the lower, not the other way round."""
    assert [(held, wanted) for held in Acr for wanted in Acr if not reaches(held, wanted)] == [(Acr.AAL1, Acr.AAL2)]


def test_names_of_what_was_proven_are_the_standards():
    """RFC 8176 section 2: other services read them in tokens and decisions."""
    assert [name.value for name in Amr] == ["pwd", "otp", "hwk", "mfa"]
    assert [level.value for level in Acr] == ["aal1", "aal2"]


def test_what_a_session_is_unless_it_is_said():
    """No device, and nobody has to enrol."""
    plain = session()
    assert (plain.device, plain.address, plain.must_enrol, MAX_SESSIONS) == ("", None, False, 50)
    assert not Proof(Acr.AAL1, ("pwd",), NOW).must_enrol


def test_a_renewed_session_proves_no_more_and_lasts_no_longer():
    """Another id and epoch; level, time of the proof, and the absolute end stay."""
    old = session(acr=Acr.AAL2, must_enrol=True)
    new = renewed(old, session_id=uuid4(), auth_epoch=2, now=NOW + HOUR / 2)
    assert new.session_id != old.session_id
    assert (new.auth_epoch, new.last_seen_at) == (2, NOW + HOUR / 2)
    kept = ("acr", "amr", "auth_time", "created_at", "expires_at", "idle_seconds", "must_enrol", "device", "address")
    assert all(getattr(new, name) == getattr(old, name) for name in kept)


def test_a_second_factor_strengthens_a_session_and_prolongs_nothing():
    """The level is that of both factors, within the limits of that level; the time of the password's proof stays."""
    old = session(acr=Acr.AAL1, amr=("pwd",), expires_at=NOW + 100 * HOUR, idle_seconds=7200)
    new = strengthened(old, ("otp", "mfa"))
    assert (new.acr, new.amr) == (Acr.AAL2, ("pwd", "otp", "mfa"))
    assert (new.auth_time, new.idle_seconds, new.expires_at) == (old.auth_time, 3600, old.created_at + 24 * HOUR)
    recovered = session(acr=Acr.AAL2, amr=("pwd", "mfa"), expires_at=NOW + HOUR, idle_seconds=60)
    assert strengthened(recovered, ("hwk", "mfa")).amr == ("pwd", "hwk", "mfa")
    assert strengthened(recovered, ("hwk", "mfa")).ends_at == recovered.ends_at


def test_what_devices_call_themselves_is_shown_safely():
    """No control characters, no endless names."""
    assert device_of("Mozilla/5.0\x1b[31m\r\n (X11)\0") == "Mozilla/5.0[31m (X11)"
    assert len(device_of("x" * 5000)) == MAX_DEVICE == 200
    assert device_of("\N{RIGHT-TO-LEFT OVERRIDE}abc") == "abc"


def test_no_token_is_shown_by_accident():
    """Neither in a log nor in a traceback."""
    token = make_token(TenantId(uuid4()), secrets.token_bytes(32))
    assert token not in repr(NewSession(token, session()))
