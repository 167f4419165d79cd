"""What the check for isolation needs in each tenant: one object for every variable that a path of the API has."""

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from service.isolation_cases import Question, Reply, Side

Send = Callable[[Question], Awaitable[Reply]]

REVISIONS_AHEAD = 12
"""A revision of the other tenant's is one that the asking one has not reached."""


class CheckStoppedError(Exception):
    """The check could not be made; it says nothing about isolation."""


class NoMakerError(CheckStoppedError):
    """A path has a variable that no object is known for: add its maker to `MAKERS`."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant while its objects are made: asked with its own key, or the platform's."""

    slug: str
    key: str = field(repr=False)
    send: Send
    mark: str
    """A word by which rows are asked for."""
    secret: str
    """A word that stands in those rows, and is told to nobody else."""

    async def post(self, path: str, body: Any) -> Any:
        """POST with the tenant's own key, and return the answer's JSON."""
        return await ask(self.send, "POST", path, self.key, body)

    async def get(self, path: str) -> Any:
        """GET with the tenant's own key."""
        return await ask(self.send, "GET", path, self.key)


async def ask(send: Send, method: str, path: str, key: str, body: Any = None) -> Any:
    """Send JSON and return JSON; raises `CheckStoppedError` for any refusal."""
    headers = {"Authorization": f"Bearer {key}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    reply = await send(Question(method, path, headers, None if body is None else json.dumps(body).encode()))
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - success
        raise CheckStoppedError(f"{method} {path} answered {reply.status}: {reply.body[:500].decode(errors='replace')}")
    return json.loads(reply.body) if reply.body else None


def _word(kind: str) -> str:
    """Return a name that nothing else has."""
    return f"{kind}-{secrets.token_hex(6)}"


def _uuid() -> str:
    digits = secrets.token_hex(16)
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


async def _key(tenant: Tenant) -> str:
    made = await tenant.post(f"/v1/tenants/{tenant.slug}/keys", {"name": "isolation check"})
    return str(made["id"])


async def _user(tenant: Tenant) -> str:
    made = await tenant.post("/v1/users", {"username": tenant.mark, "display_name": tenant.secret})
    return str(made["id"])


async def _service_account(tenant: Tenant) -> str:
    made = await tenant.post("/v1/service-accounts", {"name": tenant.mark, "description": tenant.secret})
    return str(made["id"])


async def _session(_: Tenant) -> str:
    """No key makes a session, nor what a session begins, so this is nobody's: the paths are tried all the same."""
    return _uuid()


async def _factor(_: Tenant) -> str:
    """No key binds an authenticator either."""
    return _uuid()


async def _invitation(tenant: Tenant) -> str:
    made = await tenant.post("/v1/invitations", {"email": f"{tenant.mark}@example.com"})
    return str(made["id"])


async def _revision(tenant: Tenant) -> str:
    """Return a revision that others have not reached: numbers are alike in all tenants."""
    path, made = f"/v1/tenants/{tenant.slug}/rules", {"revision": 0}
    for number in range(REVISIONS_AHEAD):
        row = {"type": "rule", "subject": "user:nobody", "resource": f"isolation-check:{number}", "action": "read"}
        made = await tenant.post(path, {"add": [row]})
    return str(made["revision"])


async def _slug(tenant: Tenant) -> str:
    return tenant.slug


async def _any_path(_: Tenant) -> str:
    """A path of an application behind a gateway belongs to nobody."""
    return "records/1"


async def _page_word(_: Tenant) -> str:
    """A word in the address of a page is the same for everybody."""
    return "verify"


MAKERS: Mapping[str, Callable[[Tenant], Awaitable[str]]] = MappingProxyType(
    {
        "key_id": _key,
        "user_id": _user,
        "service_account_id": _service_account,
        "session_id": _session,
        "device_id": _session,
        "factor_id": _factor,
        "registration_id": _session,
        "invitation_id": _invitation,
        "revision": _revision,
        "slug": _slug,
        "path": _any_path,
        "purpose": _page_word,
        "what": _page_word,
    }
)
"""What is made for a variable of a path, by its name."""

UNKNOWN: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "key_id": _uuid,
        "user_id": _uuid,
        "service_account_id": _uuid,
        "session_id": _uuid,
        "device_id": _uuid,
        "factor_id": _uuid,
        "registration_id": _uuid,
        "invitation_id": _uuid,
        "revision": lambda: "900000",
        "slug": lambda: _word("nobody"),
        "path": lambda: "records/1",
        "purpose": lambda: "verify",
        "what": lambda: "verify",
    }
)
"""The same, for what nobody has."""

CURSORS = MappingProxyType({"cursor": "/v1/tenants/{tenant}/rules?limit=1"})
"""Lists whose cursors are tried elsewhere."""


async def side_of(slug: str, key: str, variables: frozenset[str], send: Send) -> Side:
    """Make the objects of a tenant.

    Args:
        slug: Its name.
        key: One of its keys, with every scope.
        variables: All that paths have, `tenant` left out.
        send: Sends a request.

    Raises:
        NoMakerError: there is one that nothing is known for.
        CheckStoppedError: an object could not be made.
    """
    missing = sorted(variables - MAKERS.keys())
    if missing:
        raise NoMakerError(f"no maker for `{missing[0]}` in service/isolation_objects.py")
    mark, secret = _word("mark"), _word("secret")
    tenant = Tenant(slug, key, send, mark, secret)
    rule = {"type": "rule", "subject": f"user:{mark}", "resource": f"doc:{secret}", "action": "read"}
    await tenant.post(f"/v1/tenants/{slug}/rules", {"add": [rule]})
    pairs = ((f"user:{mark}", f"role:{secret}"), (f"user:{secret}", f"role:{mark}"))
    links = [{"type": "link", "member": member, "role": role} for member, role in pairs]
    await tenant.post(f"/v1/tenants/{slug}/memberships", {"add": links})
    entity = {"type": "entity", "kind": "subject", "ref": f"user:{mark}", "properties": {"word": secret}}
    await tenant.post(f"/v1/tenants/{slug}/entities", {"add": [entity]})
    objects = {name: await MAKERS[name](tenant) for name in sorted(variables)}
    for name, path in CURSORS.items():
        objects[name] = str((await tenant.get(path.replace("{tenant}", slug)))["next_cursor"])
    objects |= {"actor": f"user:{mark}", "subject": f"user:{mark}", "role": f"role:{mark}"}
    objects |= {"q": mark, "identifier": mark}
    if "user_id" in objects:
        objects["target"] = f"user:{objects['user_id']}"
    return Side(slug, key, MappingProxyType(objects), (secret,))


def nobodys(variables: frozenset[str], like: Side) -> Side:
    """Return names and ids that no tenant has, for all that `like` has."""
    objects = {name: UNKNOWN[name]() for name in variables}
    mark = _word("mark")
    for name, value in like.objects.items():
        if name not in objects:
            objects[name] = f"{value.partition(':')[0]}:{mark}" if ":" in value else mark
    return Side(_word("nobody"), "", MappingProxyType(objects))
