"""Service accounts with keys, made over HTTP on the application of `tests/support/administration.py`."""

from dataclasses import dataclass
from typing import Any

from authn.api_keys import SCOPES
from tests.support.administration import Service, link

ACCOUNTS = "/v1/service-accounts"


@dataclass(frozen=True)
class Program:
    """A service account with a key."""

    id: str
    ref: str
    key_id: str
    key: str


async def program(
    admin: Service, tenant: str, name: str, *roles: str, scopes: frozenset[str] = SCOPES, **more: Any
) -> Program:
    """Return a new service account of a tenant with these roles and a key with these scopes."""
    account = await admin.post(f"{ACCOUNTS}?tenant={tenant}", {"name": name})
    assert account.status == 201, account.body
    if roles:
        rows = [link(account.json["subject"], role) for role in roles]
        given = await admin.post(f"/v1/tenants/{tenant}/memberships", {"add": rows})
        assert given.status == 200, given.body
    body = {"name": "test", "scopes": sorted(scopes), "reason": "test"} | more
    made = await admin.post(f"{ACCOUNTS}/{account.json['id']}/keys?tenant={tenant}", body)
    assert made.status == 201, made.body
    return Program(account.json["id"], account.json["subject"], made.json["id"], made.json["token"])
