"""The administration's lines of the route table."""

from service.http import (
    admin_changes,
    admin_export,
    admin_history,
    admin_keys,
    admin_model,
    admin_policy,
    admin_rows,
    admin_tenants,
)
from service.http.admin import LARGE_BODY
from service.routes import Needs, Route

_T = "/v1/tenants/{tenant}"

ADMIN_ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/v1/tenants",
        admin_tenants.list_tenants,
        Needs("tenant:read", "kasbah:tenant", "read", tenant=False, platform=True),
    ),
    Route(
        "POST",
        "/v1/tenants",
        admin_tenants.create,
        Needs("tenant:write", "kasbah:tenant", "create", tenant=False, platform=True),
        seconds=None,
    ),
    Route("GET", _T, admin_tenants.read_tenant, Needs("tenant:read", "kasbah:tenant", "read", base=True, gone=True)),
    Route("GET", f"{_T}/rules", admin_rows.list_rules, Needs("policy:read", "kasbah:rule", "read", base=True)),
    Route(
        "POST",
        f"{_T}/rules",
        admin_rows.change_rules,
        Needs("policy:write", "kasbah:rule", "write", base=True),
        seconds=None,
    ),
    Route(
        "GET",
        f"{_T}/memberships",
        admin_rows.list_memberships,
        Needs("policy:read", "kasbah:membership", "read", home=True),
    ),
    Route(
        "POST",
        f"{_T}/memberships",
        admin_rows.change_memberships,
        Needs("policy:write", "kasbah:membership", "write", home=True),
        seconds=None,
    ),
    Route("GET", f"{_T}/entities", admin_rows.list_entities, Needs("policy:read", "kasbah:entity", "read")),
    Route(
        "POST",
        f"{_T}/entities",
        admin_rows.change_entities,
        Needs("policy:write", "kasbah:entity", "write"),
        seconds=None,
    ),
    Route(
        "POST",
        f"{_T}/policy/plan",
        admin_policy.plan_policy,
        Needs("policy:read", "kasbah:policy", "plan", base=True),
        LARGE_BODY,
        seconds=None,
        bulk=True,
    ),
    Route(
        "POST",
        f"{_T}/policy/apply",
        admin_policy.apply,
        Needs("policy:write", "kasbah:policy", "apply", base=True),
        LARGE_BODY,
        seconds=None,
        bulk=True,
    ),
    Route(
        "POST",
        f"{_T}/policy/rollback",
        admin_policy.rollback,
        Needs("policy:write", "kasbah:policy", "rollback", base=True),
        seconds=None,
        bulk=True,
    ),
    Route(
        "GET", f"{_T}/policy/history", admin_history.history, Needs("policy:read", "kasbah:policy", "read", base=True)
    ),
    Route(
        "GET",
        f"{_T}/policy/export",
        admin_export.export,
        Needs("policy:read", "kasbah:policy", "read", base=True),
        seconds=None,
        bulk=True,
    ),
    Route(
        "GET",
        f"{_T}/changes",
        admin_changes.changes,
        Needs("policy:read", "kasbah:policy", "read", base=True),
        seconds=None,
    ),
    Route(
        "GET",
        f"{_T}/changes/{{revision}}/items",
        admin_history.change_items,
        Needs("policy:read", "kasbah:policy", "read", base=True),
    ),
    Route("GET", f"{_T}/keys", admin_keys.list_keys, Needs("key:read", "kasbah:key", "read")),
    Route("POST", f"{_T}/keys", admin_keys.create, Needs("key:write", "kasbah:key", "write"), seconds=None),
    Route(
        "POST",
        f"{_T}/keys/{{key_id}}/rotate",
        admin_keys.rotate,
        Needs("key:write", "kasbah:key", "write"),
        seconds=None,
    ),
    Route("PATCH", f"{_T}/keys/{{key_id}}", admin_keys.change, Needs("key:write", "kasbah:key", "write"), seconds=None),
    Route(
        "DELETE", f"{_T}/keys/{{key_id}}", admin_keys.revoke, Needs("key:write", "kasbah:key", "write"), seconds=None
    ),
    Route(
        "GET",
        "/v1/keys/self",
        admin_keys.own_key,
        Needs("decision:check", tenant=False, by_scope="a key may always be told what it is"),
    ),
    Route(
        "GET", "/v1/keys", admin_keys.list_keys, Needs("key:read", "kasbah:key", "read", tenant=False, platform=True)
    ),
    Route(
        "POST",
        "/v1/keys",
        admin_keys.create,
        Needs("key:write", "kasbah:key", "write", tenant=False, platform=True),
        seconds=None,
    ),
    Route(
        "POST",
        "/v1/keys/{key_id}/rotate",
        admin_keys.rotate,
        Needs("key:write", "kasbah:key", "write", tenant=False, platform=True),
        seconds=None,
    ),
    Route(
        "PATCH",
        "/v1/keys/{key_id}",
        admin_keys.change,
        Needs("key:write", "kasbah:key", "write", tenant=False, platform=True),
        seconds=None,
    ),
    Route(
        "DELETE",
        "/v1/keys/{key_id}",
        admin_keys.revoke,
        Needs("key:write", "kasbah:key", "write", tenant=False, platform=True),
        seconds=None,
    ),
    Route("GET", "/v1/model", admin_model.read_model, Needs("policy:read", "kasbah:model", "read", tenant=False)),
    Route(
        "POST",
        "/v1/model/plan",
        admin_model.plan_model,
        Needs("policy:read", "kasbah:model", "plan", tenant=False, platform=True),
        seconds=None,
        bulk=True,
    ),
    Route(
        "PUT",
        "/v1/model",
        admin_model.replace_model,
        Needs("policy:write", "kasbah:model", "write", tenant=False, platform=True),
        seconds=None,
        bulk=True,
    ),
)
