"""API keys as values: what a token is made of, what a key may be, and from when on it is none."""

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from authn.api_keys import (
    MAX_BURST,
    MAX_PER_SECOND,
    MAX_PERSONAL_LIFE,
    PERSONAL_LIFE,
    SCOPES,
    KeyLimit,
    checked_key_name,
    hash_token,
    is_token,
    new_api_key,
)
from authn.errors import InvalidKeyLimitError, InvalidKeyNameError, KeyLifeError, UnknownScopeError
from authn.service_accounts import ServiceAccountId
from authn.sessions import Acr
from authn.users import UserId
from tenancy.ids import TenantId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = TenantId(uuid4())
ENTROPY = bytes(range(36))


def new(**changed):
    """Return token, key and hash of a key named `ci`."""
    plain = {"scopes": frozenset({"policy:read"}), "key_id": uuid4(), "entropy": ENTROPY, "now": NOW}
    return new_api_key(TENANT, changed.pop("name", "ci"), **plain | changed)


def test_a_token_is_a_prefix_and_256_random_bits():
    """Each of the 36 bytes counts; what is stored is the hash of the whole."""
    token, key, stored = new()
    assert re.fullmatch(r"kasbah_00010203_[A-Za-z0-9_-]{43}", token)
    assert is_token(token)
    assert key.prefix == "00010203"
    assert stored == hash_token(token) == hashlib.sha256(token.encode()).digest()
    for place in range(36):
        other = bytearray(ENTROPY)
        other[place] ^= 1
        assert new(entropy=bytes(other))[0] != token
    assert new(entropy=ENTROPY + b"more")[0] == token
    with pytest.raises(ValueError, match="too little entropy"):
        new(entropy=ENTROPY[:-1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kasbah_",
        "x{}",
        "{}x",
        "{}\n",
        " {}",
        "KASBAH_00010203_" + "A" * 43,
        "kasbah_0001020G_" + "A" * 43,
        "\ud800",
    ],
)
def test_what_has_another_shape_is_no_token(text):
    """No look-up is made for it."""
    assert not is_token(text.format(new()[0]))
    assert len(hash_token(text)) == 32


def test_a_key_is_what_was_asked_for_and_may_always_ask_for_decisions():
    """With its owner, its limit, and how well its maker had proven who they are."""
    maker, replaced, limit = UserId(uuid4()), new()[1].id, KeyLimit(5, 10)
    _, key, _ = new(
        ttl=timedelta(days=1), created_by="user:x", owner_id=maker, limit=limit, replaces=replaced, acr=Acr.AAL2
    )
    assert (key.tenant_id, key.name, key.created_at, key.expires_at) == (TENANT, "ci", NOW, NOW + timedelta(days=1))
    assert key.scopes == {"policy:read", "decision:check"}
    assert (key.created_by, key.owner_id, key.limit, key.replaces, key.acr) == (
        "user:x",
        maker,
        limit,
        replaced,
        Acr.AAL2,
    )
    assert key.revoked_at is key.last_used_at is None


def test_what_a_key_is_unless_it_is_said():
    """For ever, nobody's, without limit, and as weak as can be."""
    _, key, _ = new()
    assert (key.expires_at, key.created_by, key.owner_id, key.service_account_id) == (None, "", None, None)
    assert (key.limit, key.replaces, key.acr, key.owner) == (None, None, Acr.AAL1, None)


def test_a_key_belongs_to_a_person_or_a_service_account():
    """The subject whose rights bound what it may do."""
    person, service = UserId(uuid4()), ServiceAccountId(uuid4())
    assert new(owner_id=person, ttl=PERSONAL_LIFE)[1].owner == f"user:{person}"
    assert new(service_account_id=service)[1].owner == f"service:{service}"


def test_a_scope_that_does_not_exist_is_named():
    """The first of them, and those that there are."""
    with pytest.raises(UnknownScopeError, match=r"^`policy:all` is not a scope; there are account:write, audit:read, "):
        new(scopes=frozenset({"policy:read", "policy:all"}))
    assert new(scopes=SCOPES)[1].scopes == SCOPES


def test_a_life_is_longer_than_nothing_and_a_personal_one_has_an_end():
    """A year at most; thirty days if nothing is said."""
    instant = timedelta(microseconds=1)
    assert new(ttl=instant)[1].expires_at == NOW + instant
    for ttl in (timedelta(0), -instant):
        with pytest.raises(ValueError, match="longer than nothing"):
            new(ttl=ttl)
    person = UserId(uuid4())
    assert new(ttl=MAX_PERSONAL_LIFE, owner_id=person)[1].expires_at == NOW + timedelta(days=365)
    for ttl in (None, MAX_PERSONAL_LIFE + instant):
        with pytest.raises(KeyLifeError, match="at most 365 days"):
            new(ttl=ttl, owner_id=person)
    assert new(ttl=MAX_PERSONAL_LIFE + instant)[1].owner is None
    assert timedelta(days=30) == PERSONAL_LIFE


def test_a_key_is_live_until_it_expires_or_is_revoked():
    """Expired from that moment on."""
    _, key, _ = new(ttl=timedelta(hours=1))
    instant = timedelta(microseconds=1)
    assert key.is_live(NOW + timedelta(hours=1) - instant)
    assert not key.is_live(NOW + timedelta(hours=1))
    assert not replace(key, revoked_at=NOW).is_live(NOW)
    assert new()[1].is_live(NOW + timedelta(days=10_000))
    assert not replace(new()[1], revoked_at=NOW).is_live(NOW)


def test_names_are_for_people():
    """Printable, on one line, of up to a hundred characters; blanks around them go."""
    assert checked_key_name("  ci of été  ") == "ci of été"
    assert checked_key_name("x" * 100) == "x" * 100
    for name in ("", "   ", "x" * 101, "two\nlines", "\x1b[31m", "\N{RIGHT-TO-LEFT OVERRIDE}x"):
        with pytest.raises(InvalidKeyNameError, match="1 to 100 printable"):
            new(name=name)


def test_limits_have_bounds_that_are_named():
    """The member that is wrong, as the body has it."""
    assert KeyLimit(1, 1).within(KeyLimit(MAX_PER_SECOND, MAX_BURST))
    assert (MAX_PER_SECOND, MAX_BURST) == (100_000, 1_000_000)
    for limit, member in (
        ((0, 1), "requests_per_second"),
        ((MAX_PER_SECOND + 1, 1), "requests_per_second"),
        ((1, 0), "burst"),
        ((1, MAX_BURST + 1), "burst"),
    ):
        with pytest.raises(InvalidKeyLimitError, match=f"^`{member}` is from 1 to ") as raised:
            KeyLimit(*limit)
        assert raised.value.pointer == f"/limits/{member}"


def test_one_limit_is_within_another_when_it_allows_no_more_of_either():
    """As much is no more."""
    limit = KeyLimit(5, 10)
    assert [limit.within(KeyLimit(*other)) for other in ((5, 10), (6, 11), (4, 10), (5, 9), (4, 11), (6, 9))] == [
        *[True] * 2,
        *[False] * 4,
    ]
