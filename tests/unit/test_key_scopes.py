"""What the scopes of API keys stand for."""

import pytest

from authn.api_keys import SCOPES
from authz.errors import InvalidRowError
from authz.key_scopes import key_scopes
from authz.policy_files import PolicyColumns, parse_policy
from authz.request import Ref
from authz.row_checks import check_rows
from authz.rules import Effect, EntityKind, RoleLink, Rule, StoredEntity
from service.all_routes import all_routes
from service.routes import Needs
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId
from tests.support.paths import ROOT


def test_the_packaged_policy_says_what_every_scope_stands_for():
    """A scope without a row opens what is one's own at most; a row of a scope that is none could never matter."""
    of_rows = {rule.subject.removeprefix("scope:") for rule in key_scopes().rules}
    alone = {route.access.scope for route in all_routes() if isinstance(route.access, Needs) and route.access.by_scope}
    assert of_rows <= SCOPES
    assert SCOPES - of_rows <= alone


def test_the_packaged_policy_only_allows():
    """Scopes add up: no denies, no conditions, and resources of Kasbah's own administration alone."""
    for rule in key_scopes().rules:
        assert (rule.effect, rule.condition) == (Effect.ALLOW, None)
        assert rule.resource.startswith("kasbah:")
        assert rule.action != "*"


def test_a_key_has_the_rights_of_all_its_scopes_and_no_others():
    """Two scopes are their union; no scope is nothing; what no scope names is refused."""
    scopes = key_scopes()
    both = frozenset({"policy:read", "key:write"})
    assert scopes.allow(both, "kasbah:rule", "read")
    assert scopes.allow(both, "kasbah:key", "write")
    assert not scopes.allow(both, "kasbah:rule", "write")
    assert not scopes.allow(both, "kasbah:key", "read")
    assert not scopes.allow(frozenset(), "kasbah:rule", "read")
    assert not scopes.allow(frozenset(SCOPES), "kasbah:unheard-of", "read")
    assert not scopes.allow(frozenset(SCOPES), "record:1", "read")


@pytest.mark.parametrize("odd", ["", "*", "policy:read ", "POLICY:READ", "scope:policy:read", "policy:*"])
def test_a_scope_is_a_name_not_a_pattern(odd):
    """Nothing but the exact scope opens what it stands for."""
    assert not key_scopes().allow(frozenset({odd}), "kasbah:rule", "read")


@pytest.mark.parametrize("tenant_id", [TenantId(BASE_TENANT_ID), PLATFORM_TENANT_ID, TenantId(Ref("acme"))])
def test_no_stored_row_speaks_of_scopes(tenant_id):
    """Not even the platform's: what is built in cannot be added to."""
    base = tenant_id == BASE_TENANT_ID
    rule = Rule("scope:policy:read", "record:1", "read", base=base)
    link = RoleLink(Ref("scope:policy:read"), Ref("role:y"), base=base)
    for row in (rule, Rule("scope:*", "record:1", "read", base=base), link):
        with pytest.raises(InvalidRowError, match="built in|role to role"):
            check_rows([row], tenant_id, PolicyColumns())


def test_a_file_that_speaks_of_scopes_is_reported():
    """With the place, for tenants and for the base."""
    for slug, domain in (("acme", "acme"), ("_base", "*")):
        parsed = parse_policy(f"p, scope:key:write, {domain}, record:1, read\n", slug, PolicyColumns())
        assert [(f.line, f.column, f.code) for f in parsed.findings] == [(1, 4, "key-scope")]
        parsed = parse_policy(f"g, scope:key:write, role:x, {domain}\n", slug, PolicyColumns())
        assert "key-scope" in [f.code for f in parsed.findings]
        assert not parsed.links


@pytest.mark.parametrize("ref", ["kasbah:user", "role:platform-admin"])
def test_a_tenant_stores_no_attributes_of_what_is_the_platforms(ref):
    """A condition of the base could ask for them."""
    for kind in EntityKind:
        with pytest.raises(InvalidRowError, match="belongs to the platform"):
            check_rows([StoredEntity(kind, Ref(ref), {"open": True})], TenantId(Ref("acme")), PolicyColumns())


def test_the_file_is_packaged():
    """`importlib.resources` finds it beside the module, so a wheel that has the package has it."""
    assert (ROOT / "authz" / "key_scopes.csv").is_file()
