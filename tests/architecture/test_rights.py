"""Every route that needs a key is decided by the engine, and policies know what it asks."""

import pytest

from authn.api_keys import SCOPES
from authz.compile_model import compile_model
from authz.default_model import DEFAULT_MODEL_TEXT
from authz.key_scopes import key_scopes
from authz.offline import OfflinePolicy
from authz.policy_files import read_directory
from authz.ports import StoredModel
from authz.request import Action, EvaluationRequest, parse_ref
from service.all_routes import all_routes
from service.health import METRICS_ACCESS
from service.routes import Needs, Route
from tests.support.paths import ROOT
from tests.support.policies import NOW


def needs() -> list[Needs]:
    """Return the access of every route that needs a key."""
    return [route.access for route in all_routes() if isinstance(route.access, Needs)] + [METRICS_ACCESS]


def decided() -> list[tuple[str, str]]:
    """Return what routes ask about, (resource, action), once each."""
    return sorted({(access.resource, access.action) for access in needs() if not access.by_scope})


def test_a_route_without_a_decision_says_why():
    """The table refuses one that leaves it open, and one that says both."""
    assert {access.by_scope for access in needs() if not access.resource} == {
        "a key may always be told what it is",
        "whoever knows the present password may replace it",
        "whoever knows the present password may ask for another address",
        "it is about the caller's own keys, and a personal key never does more than its owner may",
        "everyone may be told who they are",
        "it is about the caller's own sessions",
        "it is about the devices that the caller's own account knows",
        "it is about the caller's own second factors",
    }
    for more in ({}, {"resource": "kasbah:x"}, {"action": "read"}):
        with pytest.raises(ValueError, match="resource and action"):
            Needs("policy:read", **more)
    with pytest.raises(ValueError, match="resource and action"):
        Needs("policy:read", "kasbah:rule", "read", by_scope="also")


def test_what_routes_ask_about_is_kasbahs_own():
    """A tenant writes no rule on these names, so it decides nothing about its own administration."""
    for resource, action in decided():
        assert resource.startswith("kasbah:"), resource
        assert action != "*"


@pytest.mark.parametrize("access", needs(), ids=lambda access: f"{access.scope}-{access.resource}-{access.action}")
def test_the_scope_of_a_route_is_the_only_one_that_opens_it(access):
    """What the table says is what the engine decides: this scope alone opens it, all others together do not."""
    assert access.scope in SCOPES
    if access.by_scope:
        return
    assert key_scopes().allow({access.scope}, access.resource, access.action)
    assert not key_scopes().allow(SCOPES - {access.scope}, access.resource, access.action)


def test_every_scope_opens_a_route_or_a_part_of_one():
    """Else nobody could say what it is for."""
    parts = {"decision:assert", "decision:explain"}
    assert {access.scope for access in needs()} | parts == SCOPES


def base() -> OfflinePolicy:
    """The base as it is shipped."""
    directory = read_directory(ROOT / "policies")
    model = compile_model(StoredModel.of(DEFAULT_MODEL_TEXT))
    return OfflinePolicy.from_rows("acme", model, [*directory.base.rules, *directory.base.links], ())


def holders(policy: OfflinePolicy, resource: str, action: str) -> set[str]:
    """Return the roles of the base that may do this."""
    roles = {rule.subject for rule in policy.snapshot.rules}
    asked = {role: EvaluationRequest(parse_ref(role), Action(action), parse_ref(resource)) for role in sorted(roles)}
    return {role for role, question in asked.items() if policy.decide(question, NOW).allowed}


@pytest.mark.parametrize(("resource", "action"), decided())
def test_somebody_may_use_every_route(resource, action):
    """By the shipped base: an administrator of the platform everything, and members nothing that writes."""
    found = holders(base(), resource, action)
    assert "role:platform-admin" in found
    if action != "read":
        assert "role:member" not in found
        assert "role:platform-auditor" not in found or action in {"check", "explain", "plan"}


def test_no_role_of_a_tenant_reaches_what_is_the_platforms():
    """Tenants, models and metrics belong to the platform alone."""
    policy = base()
    for resource, action in (("kasbah:tenant", "create"), ("kasbah:model", "write"), ("kasbah:metrics", "read")):
        roles = {role for role in holders(policy, resource, action) if not role.startswith("role:platform-")}
        assert roles <= {"role:security-auditor", "role:tenant-admin"} if action == "read" else not roles


def test_only_routes_of_platform_keys_are_marked_so():
    """A platform route is one that a tenant's key never uses; it is decided in `_platform`."""
    marked = {(route.method, route.path) for route in all_routes() if _is_platforms(route)}
    assert ("POST", "/v1/tenants") in marked
    assert ("PUT", "/v1/model") in marked


def _is_platforms(route: Route) -> bool:
    return isinstance(route.access, Needs) and route.access.platform


def test_the_page_about_rights_names_every_role():
    """Of the shipped base, once each in its table."""
    text = (ROOT / "docs" / "rights.md").read_text("utf-8")
    rows = [line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `role:")]
    named = [row for row in rows if not row.startswith("role:editor")]
    assert sorted(named) == sorted({rule.subject for rule in read_directory(ROOT / "policies").base.rules})
