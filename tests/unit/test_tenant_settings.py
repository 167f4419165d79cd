"""Settings of tenants: read strictly, merged as RFC 7396 says, held inside the platform's bounds."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tenancy.errors import InvalidSettingsError, SettingsOutOfBoundsError
from tenancy.settings_bounds import relaxes, require_within, tightened
from tenancy.settings_document import (
    RESERVED_CLAIMS,
    differences,
    merge_patch,
    parse_settings,
    read_stored,
    show_settings,
)
from tenancy.tenant_settings import MfaDemand, MfaSettings, TenantLimits, TenantSettings

DEFAULTS = TenantSettings()


def test_an_empty_document_is_the_defaults():
    """And what differs from them is what is stored."""
    assert parse_settings({}, DEFAULTS) == DEFAULTS
    assert differences(DEFAULTS, DEFAULTS) == {}
    changed = parse_settings({"password": {"min_length": 20}, "branding": {"name": "Acme"}}, DEFAULTS)
    assert differences(changed, DEFAULTS) == {"password": {"min_length": 20}, "branding": {"name": "Acme"}}
    assert changed.password.min_length_with_mfa == 8


def test_a_document_survives_being_shown_and_read():
    """Every member, also lists of objects."""
    document = {
        "password": {"blocked_words": ["acme"], "deviations": [{"rule": "max_age_days:90", "reason": "auditor"}]},
        "mfa": {"demand": "roles", "roles": ["role:admin"]},
        "sessions": {"idle_seconds": 600, "absolute_seconds": 7200},
        "sign_in": {"max_failures": 20},
        "allowed_claims": ["roles", "email"],
        "branding": {"logo_url": "https://acme.example/logo.svg", "accent_colour": "#1a7f37"},
    }
    settings = parse_settings(document, DEFAULTS)
    assert parse_settings(show_settings(settings), DEFAULTS) == settings
    assert read_stored(differences(settings, DEFAULTS), DEFAULTS) == settings


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ([], ""),
        ({"password": []}, "/password"),
        ({"passwords": {}}, "/passwords"),
        ({"a/b~c": {}}, "/a~1b~0c"),
        ({"password": {"hash": "x"}}, "/password/hash"),
        ({"password": {"min_length": 7}}, "/password/min_length"),
        ({"password": {"min_length": 65}}, "/password/min_length"),
        ({"password": {"min_length": True}}, "/password/min_length"),
        ({"password": {"min_length": 15.0}}, "/password/min_length"),
        ({"password": {"min_length": None}}, "/password/min_length"),
        ({"password": {"min_length_with_mfa": 16}}, "/password/min_length_with_mfa"),
        ({"password": {"max_length": 63}}, "/password/max_length"),
        ({"password": {"blocked_words": ["ok", ""]}}, "/password/blocked_words/1"),
        ({"password": {"blocked_words": ["a", "a"]}}, "/password/blocked_words/1"),
        ({"password": {"blocked_words": "acme"}}, "/password/blocked_words"),
        ({"password": {"check_breached": 1}}, "/password/check_breached"),
        ({"password": {"composition": "upper"}}, "/password/composition"),
        ({"password": {"max_age_days": 90}}, "/password/max_age_days"),
        ({"password": {"deviations": [{"rule": "history:5"}]}}, "/password/deviations/0/reason"),
        ({"password": {"deviations": [{"rule": "history:5", "reason": "  "}]}}, "/password/deviations/0/reason"),
        ({"password": {"deviations": [{"rule": "no rule", "reason": "x"}]}}, "/password/deviations/0/rule"),
        ({"mfa": {"demand": "never"}}, "/mfa/demand"),
        ({"mfa": {"demand": []}}, "/mfa/demand"),
        ({"mfa": {"demand": "roles"}}, "/mfa/roles"),
        ({"mfa": {"roles": ["role:a"]}}, "/mfa/roles"),
        ({"mfa": {"demand": "roles", "roles": ["user:a"]}}, "/mfa/roles/0"),
        ({"sessions": {"idle_seconds": 59}}, "/sessions/idle_seconds"),
        ({"sessions": {"idle_seconds": 3600, "absolute_seconds": 3599}}, "/sessions/idle_seconds"),
        ({"sign_in": {"first_wait_seconds": 29}}, "/sign_in/first_wait_seconds"),
        ({"sign_in": {"max_failures": 101}}, "/sign_in/max_failures"),
        ({"sign_in": {"failures_before_wait": 6, "max_failures": 5}}, "/sign_in/failures_before_wait"),
        ({"sign_in": {"first_wait_seconds": 60, "longest_wait_seconds": 30}}, "/sign_in/first_wait_seconds"),
        ({"allowed_claims": ["two words"]}, "/allowed_claims/0"),
        ({"branding": {"name": "two\nlines"}}, "/branding/name"),
        ({"branding": {"accent_colour": "red"}}, "/branding/accent_colour"),
        ({"branding": {"accent_colour": "#FFF;}"}}, "/branding/accent_colour"),
    ],
)
def test_what_no_tenant_can_have_is_named(document, pointer):
    """With an RFC 6901 pointer to the member at fault."""
    with pytest.raises(InvalidSettingsError) as raised:
        parse_settings(document, DEFAULTS)
    assert raised.value.pointer == pointer


@pytest.mark.parametrize(
    "url",
    [
        "http://acme.example/logo.svg",
        "javascript:alert(1)",
        "//acme.example/logo.svg",
        "https:acme.example",
        "https:///logo.svg",
        "https://user:secret@acme.example/",
        "https://acme.example@evil.example/",
        "https://acme.example\\@evil.example/",
        'https://acme.example/"onload="x',
        "https://acme.example/<script>",
        "https://acme.example/a b",
        "https://acme.example/\n",
        "https://аcme.example/",
        "https://[::1",
        "https://acme.example:port/",
        "HTTPS://acme.example/",
        "https://" + "a" * 500,
        7,
    ],
)
def test_only_plain_https_addresses_are_links(url):
    """SECURITY: they are shown on pages and in mails."""
    for member in ("logo_url", "support_url"):
        with pytest.raises(InvalidSettingsError):
            parse_settings({"branding": {member: url}}, DEFAULTS)


@pytest.mark.parametrize("claim", sorted(RESERVED_CLAIMS))
def test_no_tenant_gives_a_claim_that_the_token_itself_says(claim):
    """SECURITY: a tenant that sets `sub` or `aud` would say who somebody is."""
    with pytest.raises(InvalidSettingsError):
        parse_settings({"allowed_claims": [claim]}, DEFAULTS)


@pytest.mark.parametrize(
    ("said", "document", "pointer"),
    [
        ({}, {"password": {"min_length": 14, "min_length_with_mfa": 8}}, "/password/min_length"),
        (
            {"min_password_length_with_mfa": 10},
            {"password": {"min_length_with_mfa": 9}},
            "/password/min_length_with_mfa",
        ),
        ({"check_breached": True}, {"password": {"check_breached": False}}, "/password/check_breached"),
        ({"mfa_required": True}, {"mfa": {"demand": "optional"}}, "/mfa/demand"),
        ({}, {"sessions": {"idle_seconds": 3601}}, "/sessions/idle_seconds"),
        ({}, {"sessions": {"absolute_seconds": 86_401}}, "/sessions/absolute_seconds"),
        ({"max_sign_in_failures": 50}, {"sign_in": {"max_failures": 51}}, "/sign_in/max_failures"),
        ({}, {"allowed_claims": ["roles", "birthdate"]}, "/allowed_claims/1"),
    ],
)
def test_a_tenant_is_never_laxer_than_the_platform(said, document, pointer):
    """Refused when written; tightened when the bound came after it was written."""
    bounds = TenantLimits(**said)
    defaults = tightened(DEFAULTS, bounds)
    require_within(defaults, bounds)
    settings = parse_settings(document, defaults)
    with pytest.raises(SettingsOutOfBoundsError) as raised:
        require_within(settings, bounds)
    assert raised.value.pointer == pointer
    tight = tightened(settings, bounds)
    require_within(tight, bounds)
    assert parse_settings(show_settings(tight), defaults) == tight


def test_stricter_than_the_platform_stays_as_it_is():
    """Bounds tighten, they never loosen."""
    strict = {"password": {"min_length": 30}, "mfa": {"demand": "required"}, "sessions": {"idle_seconds": 300}}
    settings = parse_settings(strict, DEFAULTS)
    assert tightened(settings, TenantLimits()) is settings
    assert settings.mfa.demand is MfaDemand.REQUIRED


def test_members_of_a_newer_version_do_not_stop_an_older_node():
    """Two versions run side by side during an upgrade."""
    stored = {"password": {"min_length": 20, "novel": 1}, "novelty": {"a": 1}}
    assert read_stored(stored, DEFAULTS).password.min_length == 20


def test_bounds_that_make_no_sense_are_refused_at_start():
    """A platform cannot ask for passwords longer than a tenant can."""
    with pytest.raises(ValueError, match="min_password_length"):
        TenantLimits(min_password_length=65)


def test_no_platform_goes_below_what_a_password_alone_must_have():
    """NIST SP 800-63B-4 section 3.1.1.2: 15 code points where it signs in alone, 8 beside a second factor."""
    with pytest.raises(ValueError, match="`min_password_length` must be from 15"):
        TenantLimits(min_password_length=14)
    with pytest.raises(ValueError, match="`min_password_length_with_mfa` must be from 8"):
        TenantLimits(min_password_length_with_mfa=7)
    least = tightened(DEFAULTS, TenantLimits(min_password_length=15, min_password_length_with_mfa=8)).password
    assert (least.min_length, least.min_length_with_mfa) == (15, 8)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_is_rfc_7396s(target, patch, result):
    """Its appendix A, every line."""
    assert merge_patch(target, patch) == result


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


_MEMBERS = [*show_settings(DEFAULTS), "x"]
_INNER = [*show_settings(DEFAULTS)["password"], *show_settings(DEFAULTS)["mfa"]]


@limits(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(_MEMBERS), _JSON | st.dictionaries(st.sampled_from(_INNER), _JSON)))
def test_any_document_is_read_or_refused_with_a_pointer(document):
    """Never another failure; what is read can be shown and read again."""
    pointer = ""
    try:
        settings = parse_settings(document, DEFAULTS)
    except InvalidSettingsError as error:
        pointer = error.pointer
    else:
        assert parse_settings(show_settings(settings), DEFAULTS) == settings
    assert not pointer or pointer.startswith("/")


@pytest.mark.parametrize(
    ("before", "after", "less"),
    [
        (("optional",), ("required",), False),
        (("optional",), ("roles", "role:a"), False),
        (("roles", "role:a"), ("roles", "role:a", "role:b"), False),
        (("roles", "role:a"), ("required",), False),
        (("roles", "role:a", "role:b"), ("roles", "role:a"), True),
        (("roles", "role:a"), ("optional",), True),
        (("required",), ("roles", "role:a"), True),
        (("required",), ("optional",), True),
        (("required",), ("required",), False),
    ],
)
def test_what_relaxes_the_demand_for_second_factors(before, after, less):
    """Whoever had to prove one and need not any more."""
    one, two = (MfaSettings(MfaDemand(demand), tuple(roles)) for demand, *roles in (before, after))
    assert relaxes(two, one) is less
