"""Every write of every route, tried by everybody who could want more: nobody's rights grow by their own doing.

The operations come from `docs/openapi.yaml`. One without attempts here, and without a reason why it cannot widen
anything, fails: whoever adds a route says how it could be misused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from authz.evaluate import evaluate_many
from authz.granting import catalogue
from authz.plan import plan_digest
from authz.request import Action, EvaluationRequest, Ref, parse_ref
from authz.rules import EntityKind, Owner, RoleLink, Rule, Source, StoredEntity
from service.keys import NODE
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId
from tests.support.administration import Service, at, link, rule
from tests.support.paths import ROOT
from tests.support.persons import People, Person
from tests.support.service_accounts import Program, program

METHODS = ("post", "put", "patch", "delete")
REFUSED = {401, 403, 404, 409, 410, 412, 422, 429}
SAMPLES = [("kasbah:role/boss", "grant"), ("kasbah:group/team", "grant"), ("kasbah:permission/doc:1", "grant")]
ORDINARY = [("secret:1", "read"), ("secret:2", "read"), ("doc:1", "read")]
POWER = "more powerful than anybody"


@dataclass(frozen=True)
class Attempt:
    """One request. `may_pass`: it may be answered with success, as long as nobody's rights grow."""

    method: str
    path: str
    body: Any = None
    may_pass: bool = False
    malformed: bool = False


@dataclass
class Actor:
    """Who tries. A service's key has no subject, and nobody is nobody."""

    name: str
    key: str
    ref: Ref | None = None
    home: TenantId | None = None


@dataclass
class World:
    """An installation with everybody in it."""

    service: Service
    people: People
    acme: TenantId
    actors: list[Actor] = field(default_factory=list)
    puppet: Person | None = None
    boss: Person | None = None
    boss_key: str = ""
    service_key: str = ""
    mighty_program: Program | None = None
    platform_key: str = ""
    mighty_invitation: str = ""
    spare_invitation: str = ""
    mighty_revision: int = 0
    number: int = 0

    def fresh(self) -> str:
        """A name that nobody has."""
        self.number += 1
        return f"fresh{self.number}"


@pytest.fixture
async def world(admin: Service) -> World:
    """A tenant with everybody who could want more, one who has more, and an account that does as it is told."""
    people = People(admin)
    await people.base()
    await people.write(BASE_TENANT_ID, [Rule("role:boss", "kasbah:*", "*", base=True, owner=Owner.API)])
    made = World(admin, people, await people.tenant_id("acme"))
    await people.tenant_id("spare")
    await people.write(
        made.acme,
        [
            Rule("role:boss", "secret:1", "read", owner=Owner.API),
            Rule("role:tracked", "secret:2", "read", condition="subject.properties.level > 5", owner=Owner.API),
            Rule("role:tracked", "doc:1", "read", owner=Owner.API),
        ],
    )
    made.boss = await people.person("acme", "boss", "role:boss")
    made.puppet = await people.person("acme", "puppet", "role:member", "group:team")
    given_roles = {
        "member": ("role:member",),
        "user-admin": ("role:user-admin",),
        "security-auditor": ("role:security-auditor",),
        "policy-author": ("role:policy-author",),
        "tenant-admin": ("role:tenant-admin",),
    }
    for name, given in given_roles.items():
        person = await people.person("acme", name, *given, "role:tracked")
        made.actors.append(Actor(name, person.key, person.ref, made.acme))
    foreign = await people.person("beta", "foreign", "role:tenant-admin")
    made.actors.append(Actor("another tenant's administrator", foreign.key, foreign.ref, foreign.tenant_id))
    operator = await people.person(None, "operator", "role:platform-operator")
    made.actors.append(Actor("platform-operator", operator.key, operator.ref, PLATFORM_TENANT_ID))
    worker = await program(admin, "acme", "worker", "role:tenant-admin", "role:tracked")
    made.actors.append(Actor("a service account", worker.key, Ref(worker.ref), made.acme))
    for scopes in (("policy:read", "policy:write"), ("user:read", "user:write"), ("key:read", "key:write")):
        made.actors.append(Actor(f"a key with {scopes[1]}", await admin.tenant("acme", *scopes)))
    narrow = await admin.post("/v1/keys", {"name": "narrow", "scopes": ["policy:read", "policy:write"]})
    made.actors.append(Actor("a platform key with policy:write", narrow.json["token"], home=PLATFORM_TENANT_ID))
    made.actors.append(Actor("a key for service accounts", await admin.tenant("acme", "service-account:write")))
    made.actors.append(Actor("nobody", ""))
    made.mighty_program = await program(admin, "acme", "mighty", BOSS)
    made.boss_key, made.service_key, made.platform_key = await victims(admin, made)
    await mighty_history(made)
    for name, roles_of in (("mighty_invitation", [BOSS]), ("spare_invitation", [])):
        body = {"email": f"{made.fresh()}@example.com", "roles": roles_of}
        sent = await admin.post("/v1/invitations?tenant=acme", body)
        assert sent.status == 201, sent.body
        setattr(made, name, sent.json["id"])
    return made


async def victims(admin: Service, world: World) -> tuple[str, str, str]:
    """Return ids of keys that others would like to end: a person's, a mighty service's, the platform's."""
    everything = {"name": "mighty", "scopes": ["tenant:write", "policy:write", "key:write"]}
    service = await admin.post("/v1/tenants/acme/keys", everything)
    platform = await admin.post("/v1/keys", {"name": "mighty"})
    assert world.boss is not None
    own = (await admin.get("/v1/users/me/keys", key=world.boss.key)).json["keys"][0]
    return own["id"], service.json["id"], platform.json["id"]


async def mighty_history(world: World) -> None:
    """Let there be a revision of the files in which everybody was mighty."""
    first = await apply(world, mighty_rows(world), world.service.platform)
    assert first.status == 200, first.body
    world.mighty_revision = first.json["revision"]
    second = await apply(world, [], world.service.platform)
    assert second.status == 200, second.body


def mighty_rows(world: World) -> list[RoleLink | Rule]:
    """Rows of files that would make everybody mighty."""
    assert world.puppet is not None
    subjects = [actor.ref for actor in world.actors if actor.home == world.acme and actor.ref] + [world.puppet.ref]
    links = [
        RoleLink(Ref(subject), Ref("role:boss"), source=Source("policy.csv", line + 1))
        for line, subject in enumerate(subjects)
    ]
    return [*links, Rule("user:*", "secret:1", "read", source=Source("policy.csv", 90))]


async def apply(world: World, rows: Sequence[RoleLink | Rule], key: str):
    """Apply rows to the tenant at its revision."""
    return await world.service.post("/v1/tenants/acme/policy/apply", await application(world, rows), key=key)


async def application(world: World, rows: Sequence[RoleLink | Rule]) -> dict[str, Any]:
    """Return what an apply sends."""
    revision = (await world.service.get("/v1/tenants/acme")).json["revision"]
    wire = [
        (link(row.member, row.role) if isinstance(row, RoleLink) else rule(row.subject, row.resource, row.action))
        | at(row.source.line)
        for row in rows
    ]
    return {"rows": wire, "revision": revision, "digest": plan_digest(world.acme, rows)}


# --- attempts


Attack = Callable[[World, Actor], Sequence[Attempt]]
BOSS = "role:boss"


def me(world: World, actor: Actor) -> Ref:
    """Whom an actor would make mightier: themselves, or the puppet where they are no person."""
    assert world.puppet is not None
    return actor.ref or world.puppet.ref


def rules(world: World, actor: Actor) -> Sequence[Attempt]:
    """Permissions by name and by wildcard, nested roles, reserved names, and the base itself."""
    own = me(world, actor)
    rows = [
        rule(own, "secret:1"),
        rule(f"{own.partition(':')[0]}:*", "secret:1"),
        rule("*", "secret:1"),
        rule("*", "*", "*"),
        rule(own, "kasbah:user", "write"),
        rule("role:member", "kasbah:*", "*"),
        rule("scope:key:write", "kasbah:*", "*"),
        link("role:member", BOSS),
        link("group:team", BOSS),
        link("role:tracked", BOSS),
        link("role:member", "role:platform-admin"),
    ]
    own_base = [
        rule("role:member", "kasbah:*", "*"),
        rule("*", "kasbah:*", "*"),
        link("role:platform-operator", "role:platform-admin"),
    ]
    passing = ("user:*", "*", own)
    return [
        # A service's key may allow what it likes to others: it has no rights of its own that could grow.
        Attempt(
            "POST",
            "/v1/tenants/acme/rules",
            {"add": [row]},
            may_pass=actor.ref is None and row.get("subject") in passing,
        )
        for row in rows
    ] + [Attempt("POST", "/v1/tenants/_base/rules", {"add": [row]}) for row in own_base]


def memberships(world: World, actor: Actor) -> Sequence[Attempt]:
    """Roles for oneself and for the puppet, here and in the platform; the mighty one loses theirs."""
    assert world.puppet is not None
    assert world.boss is not None
    path = "/v1/tenants/acme/memberships"
    own = me(world, actor)
    return [
        Attempt("POST", path, {"add": [link(own, BOSS)]}),
        Attempt("POST", path, {"add": [link(world.puppet.ref, BOSS)]}),
        Attempt("POST", path, {"add": [link(world.puppet.ref, "role:member"), link(own, BOSS)]}),
        Attempt("POST", path, {"add": [link(own, "role:platform-admin")]}),
        Attempt("POST", path, {"remove": [link(world.boss.ref, BOSS)]}, may_pass=actor.ref is None),
        Attempt("POST", "/v1/tenants/_platform/memberships", {"add": [link(own, "role:platform-admin")]}),
        Attempt("POST", "/v1/tenants/_platform/memberships", {"add": [link(own, "role:tenant-admin")]}),
    ]


def entities(world: World, actor: Actor) -> Sequence[Attempt]:
    """Attributes that a condition of one's own asks for, and those of Kasbah's own resources."""
    entity = {"type": "entity", "kind": "subject", "ref": me(world, actor), "properties": {"level": 9}}
    reserved = {"type": "entity", "kind": "resource", "ref": "kasbah:user", "properties": {"open": True}}
    path = "/v1/tenants/acme/entities"
    return [
        Attempt("POST", path, {"add": [entity]}, may_pass=actor.ref is None),
        Attempt("POST", path, {"add": [reserved]}),
    ]


def rollback(world: World, _: Actor) -> Sequence[Attempt]:
    """Back to when everybody was mighty."""
    return [Attempt("POST", "/v1/tenants/acme/policy/rollback", {"to_revision": world.mighty_revision})]


def keys(world: World, actor: Actor) -> Sequence[Attempt]:
    """Keys with more scopes than one's rights."""
    path = "/v1/tenants/acme/keys"
    scopes = (["tenant:write"], ["encryption:write"], ["tenant:write", "policy:write", "key:write", "user:write"])
    return [Attempt("POST", path, {"name": "x", "scopes": each}) for each in scopes] + [
        Attempt("POST", path, {"name": "x", "owner": me(world, actor)}, malformed=True)
    ]


def key_ends(world: World, actor: Actor) -> Sequence[Attempt]:
    """Keys of the mighty, ended; a service's key may end keys, which gives nobody anything."""
    path = "/v1/tenants/acme/keys"
    may = actor.ref is None
    return [
        Attempt("DELETE", f"{path}/{world.service_key}", may_pass=may),
        Attempt("DELETE", f"{path}/{world.boss_key}", may_pass=may),
        Attempt("DELETE", f"{path}/{world.platform_key}"),
    ]


def own_keys(world: World, actor: Actor) -> Sequence[Attempt]:
    """A key that outlives the one that makes it, one with scopes that are none, one for somebody else."""
    assert world.boss is not None
    path = "/v1/users/me/keys"
    return [
        Attempt("POST", path, {"name": "x", "expires_at": "2999-01-01T00:00:00Z"}),
        Attempt("POST", path, {"name": "x", "owner": world.boss.ref}, malformed=True),
        Attempt("POST", path, {"name": "x"}, may_pass=True),
    ]


def accounts(world: World, actor: Actor, method: str, suffix: str, body: Any) -> Sequence[Attempt]:
    """The mighty account, one's own, and one of the platform."""
    assert world.boss is not None
    others = [world.boss.ref, *([] if actor.ref is None else [actor.ref])]
    query = "?reason=why" if method == "DELETE" else ""
    return [Attempt(method, f"/v1/users/{ref.partition(':')[2]}{suffix}{query}", body) for ref in others]


def programs(world: World, actor: Actor) -> Sequence[Attempt]:
    """A service account with roles, with a state, under an id of one's choice, in the platform."""
    path = "/v1/service-accounts?tenant=acme"
    more = ({"roles": [BOSS]}, {"status": "active"}, {"id": me(world, actor)}, {"tenant": "_platform"})
    named = [Attempt("POST", path, {"name": world.fresh()} | each, malformed=True) for each in more]
    plain = Attempt("POST", path, {"name": world.fresh()}, may_pass=True)
    return [*named, plain, Attempt("POST", "/v1/service-accounts?tenant=_platform", {"name": world.fresh()})]


def mighty_program(method: str, suffix: str, body: Any = None) -> Attack:
    """The mighty service account, and the actor's own where it is one."""

    def attempts(world: World, actor: Actor) -> Sequence[Attempt]:
        assert world.mighty_program is not None
        ids = [world.mighty_program.id]
        if actor.ref is not None and actor.ref.startswith("service:"):
            ids.append(actor.ref.partition(":")[2])
        query = "?tenant=acme&reason=why" if method == "DELETE" else "?tenant=acme"
        return [Attempt(method, f"/v1/service-accounts/{each}{suffix}{query}", body) for each in ids]

    return attempts


def program_keys(method: str, suffix: str, body: Any = None) -> Attack:
    """Keys of the mighty service account: who has one acts as that account."""

    def attempts(world: World, _: Actor) -> Sequence[Attempt]:
        assert world.mighty_program is not None
        path = f"/v1/service-accounts/{world.mighty_program.id}/keys"
        one = suffix.replace("{key_id}", world.mighty_program.key_id)
        query = "?tenant=acme&reason=why" if method == "DELETE" else "?tenant=acme"
        return [Attempt(method, f"{path}{one}{query}", body)]

    return attempts


LIMITS = {"limits": {"requests_per_second": 1}, "reason": "why"}


def key_changes(world: World, actor: Actor, method: str, suffix: str, body: Any) -> Sequence[Attempt]:
    """Keys of the mighty, replaced or slowed down; a person's and an account's are not changed there at all."""
    assert world.mighty_program is not None
    path = "/v1/tenants/acme/keys"
    # A service's key may slow a service down, as it may end it.
    slower = actor.ref is None and method == "PATCH"
    return [
        Attempt(method, f"{path}/{world.service_key}{suffix}", body, may_pass=slower),
        Attempt(method, f"{path}/{world.boss_key}{suffix}", body),
        Attempt(method, f"{path}/{world.mighty_program.key_id}{suffix}", body),
        Attempt(method, f"{path}/{world.platform_key}{suffix}", body),
    ]


def users(world: World, _: Actor) -> Sequence[Attempt]:
    """An account with roles, with a state, in the platform."""
    more = [
        {"roles": [BOSS]},
        {"status": "active", "auth_epoch": 9},
        {"tenant": "_platform"},
        {"email_verified_at": "2026-01-01T00:00:00Z"},
    ]
    named = [
        Attempt("POST", "/v1/users?tenant=acme", {"username": world.fresh()} | each, malformed=True) for each in more
    ]
    plain = Attempt("POST", "/v1/users?tenant=acme", {"username": world.fresh()}, may_pass=True)
    return [*named, plain, Attempt("POST", "/v1/users?tenant=_platform", {"username": world.fresh()})]


def harmless(reason: str) -> str:
    """Say why nothing can be widened there."""
    return reason


READS = harmless("it reads: what a POST carries is the question")
NO_LINK = "Rk1Yb2xkZXJzLW9mLWxpbmtzLXByb3ZlLW1haWxib3g"


def links(path: str, **more: str) -> Attack:
    """A link that is none: whoever holds a good one acts for the account that it was sent to, and needs no key."""
    return lambda world, actor: [Attempt("POST", path, {"token": NO_LINK} | more)]


def invitations(world: World, actor: Actor) -> Sequence[Attempt]:
    """Somebody new with more than oneself; somebody of the platform."""
    path = "/v1/invitations?tenant=acme"
    new = {"email": f"{world.fresh()}@example.com"}
    return [
        Attempt("POST", path, new | {"roles": [BOSS]}),
        Attempt("POST", path, new | {"roles": ["role:member", BOSS]}),
        Attempt("POST", path, new | {"roles": ["role:platform-admin"]}),
        Attempt("POST", path, new | {"roles": [], "user_id": me(world, actor)}, malformed=True),
        Attempt("POST", path, new, may_pass=True),
        Attempt("POST", "/v1/invitations?tenant=_platform", new | {"roles": ["role:platform-admin"]}),
    ]


PAGES = harmless("a page without a key: what it posts is what `/v1/account/…` takes, and is tried there")

ATTEMPTS: dict[tuple[str, str], Attack | str] = {
    ("POST", "/access/v1/evaluation"): READS,
    ("POST", "/access/v1/evaluations"): READS,
    ("POST", "/access/v1/search/subject"): READS,
    ("POST", "/access/v1/search/resource"): READS,
    ("POST", "/access/v1/search/action"): READS,
    ("POST", "/v1/tenants/{tenant}/policy/plan"): READS,
    ("POST", "/v1/model/plan"): READS,
    ("POST", "/account/{purpose}"): PAGES,
    ("POST", "/account/invitation"): PAGES,
    ("POST", "/account/password-reset"): PAGES,
    ("POST", "/account/password-reset-request"): PAGES,
    ("POST", "/v1/account/verification"): links("/v1/account/verification"),
    ("POST", "/v1/account/address-confirmation"): links("/v1/account/address-confirmation"),
    ("POST", "/v1/account/address-undo"): links("/v1/account/address-undo"),
    ("POST", "/v1/account/password-reset"): links("/v1/account/password-reset", password="quiet rivers carry stones"),
    ("POST", "/v1/account/invitation"): links(
        "/v1/account/invitation", password="quiet rivers carry stones", username="eve"
    ),
    ("POST", "/v1/account/password-reset-request"): harmless("it sends a link to the account's own verified address"),
    ("POST", "/v1/auth/login"): harmless("whoever proves who they are has what they have, and no more"),
    ("POST", "/v1/auth/mfa/options"): harmless("as above"),
    ("POST", "/v1/auth/mfa/verify"): harmless("as above"),
    ("POST", "/v1/auth/enrolment/mail"): harmless("as above"),
    ("POST", "/v1/auth/enrolment/begin"): harmless("as above"),
    ("POST", "/v1/auth/enrolment/finish"): harmless("as above"),
    ("DELETE", "/v1/users/{user_id}/sign-in/failures"): lambda world, actor: accounts(
        world, actor, "DELETE", "/sign-in/failures", None
    ),
    ("DELETE", "/v1/users/{user_id}/sign-in/devices"): lambda world, actor: accounts(
        world, actor, "DELETE", "/sign-in/devices", None
    ),
    ("DELETE", "/v1/sign-in/failures"): harmless("it lets networks try again, whose tries are judged as ever"),
    ("POST", "/v1/invitations"): invitations,
    ("DELETE", "/v1/invitations/{invitation_id}"): lambda world, actor: [
        # Nobody gets anything by it.
        Attempt("DELETE", f"/v1/invitations/{world.spare_invitation}?tenant=acme", may_pass=True)
    ],
    ("POST", "/v1/invitations/{invitation_id}/resend"): lambda world, actor: [
        Attempt("POST", f"/v1/invitations/{world.mighty_invitation}/resend?tenant=acme")
    ],
    ("POST", "/v1/users/{user_id}/password-reset"): lambda world, actor: accounts(
        world, actor, "POST", "/password-reset", {"reason": "why"}
    ),
    ("POST", "/v1/users/{user_id}/verification"): lambda world, actor: accounts(
        world, actor, "POST", "/verification", None
    ),
    ("POST", "/v1/users/me/email"): lambda world, actor: [
        Attempt("POST", "/v1/users/me/email", {"email": "mine@example.com", "current_password": "a guess of mine"})
    ],
    ("POST", "/v1/tenants/{tenant}/rules"): rules,
    ("POST", "/v1/tenants/{tenant}/memberships"): memberships,
    ("POST", "/v1/tenants/{tenant}/entities"): entities,
    ("POST", "/v1/tenants/{tenant}/policy/rollback"): rollback,
    ("POST", "/v1/tenants/{tenant}/keys"): keys,
    ("DELETE", "/v1/tenants/{tenant}/keys/{key_id}"): key_ends,
    ("POST", "/v1/keys"): lambda world, actor: [Attempt("POST", "/v1/keys", {"name": "x", "scopes": ["policy:write"]})],
    ("DELETE", "/v1/keys/{key_id}"): lambda world, actor: [Attempt("DELETE", f"/v1/keys/{world.platform_key}")],
    ("POST", "/v1/tenants/{tenant}/keys/{key_id}/rotate"): lambda world, actor: key_changes(
        world, actor, "POST", "/rotate", {"overlap_seconds": 0}
    ),
    ("PATCH", "/v1/tenants/{tenant}/keys/{key_id}"): lambda world, actor: key_changes(
        world, actor, "PATCH", "", LIMITS
    ),
    ("POST", "/v1/keys/{key_id}/rotate"): lambda world, actor: [
        Attempt("POST", f"/v1/keys/{world.platform_key}/rotate", {"overlap_seconds": 0})
    ],
    ("PATCH", "/v1/keys/{key_id}"): lambda world, actor: [Attempt("PATCH", f"/v1/keys/{world.platform_key}", LIMITS)],
    ("POST", "/v1/users/me/keys/{key_id}/rotate"): lambda world, actor: [
        Attempt("POST", f"/v1/users/me/keys/{world.boss_key}/rotate", {"overlap_seconds": 0})
    ],
    ("PATCH", "/v1/users/me/keys/{key_id}"): lambda world, actor: [
        Attempt("PATCH", f"/v1/users/me/keys/{world.boss_key}", LIMITS)
    ],
    ("POST", "/v1/service-accounts"): programs,
    ("PATCH", "/v1/service-accounts/{service_account_id}"): mighty_program("PATCH", "", {"name": "meek"}),
    ("DELETE", "/v1/service-accounts/{service_account_id}"): mighty_program("DELETE", ""),
    ("POST", "/v1/service-accounts/{service_account_id}/disable"): mighty_program(
        "POST", "/disable", {"reason": "why"}
    ),
    ("POST", "/v1/service-accounts/{service_account_id}/enable"): mighty_program("POST", "/enable", {"reason": "why"}),
    ("POST", "/v1/service-accounts/{service_account_id}/keys"): program_keys(
        "POST", "", {"name": "x", "reason": "why"}
    ),
    ("POST", "/v1/service-accounts/{service_account_id}/keys/{key_id}/rotate"): program_keys(
        "POST", "/{key_id}/rotate", {"overlap_seconds": 0, "reason": "why"}
    ),
    ("PATCH", "/v1/service-accounts/{service_account_id}/keys/{key_id}"): program_keys("PATCH", "/{key_id}", LIMITS),
    ("DELETE", "/v1/service-accounts/{service_account_id}/keys/{key_id}"): program_keys("DELETE", "/{key_id}"),
    ("POST", "/v1/users/me/keys"): own_keys,
    ("DELETE", "/v1/users/me/keys/{key_id}"): lambda world, actor: [
        Attempt("DELETE", f"/v1/users/me/keys/{world.boss_key}")
    ],
    ("POST", "/v1/users/me/password"): lambda world, actor: [
        Attempt(
            "POST", "/v1/users/me/password", {"current_password": "guess", "new_password": "nine purple ladders sing"}
        )
    ],
    ("POST", "/v1/users"): users,
    ("POST", "/v1/users/import"): lambda world, actor: [
        # Bad lines are told, and accounts that are there are left as they are.
        Attempt("POST", "/v1/users/import?tenant=acme&reason=why", IMPORT, may_pass=True)
    ],
    ("PATCH", "/v1/users/{user_id}"): lambda world, actor: accounts(
        world, actor, "PATCH", "", {"email": "mine@example.com", "reason": "why"}
    ),
    ("DELETE", "/v1/users/{user_id}"): lambda world, actor: accounts(world, actor, "DELETE", "", None),
    ("POST", "/v1/users/{user_id}/disable"): lambda world, actor: accounts(
        world, actor, "POST", "/disable", {"reason": "why"}
    ),
    ("DELETE", "/v1/users/{user_id}/sessions"): lambda world, actor: accounts(
        world, actor, "DELETE", "/sessions", None
    ),
    ("DELETE", "/v1/users/{user_id}/sessions/{session_id}"): lambda world, actor: accounts(
        world, actor, "DELETE", "/sessions/018f0000-0000-7000-8000-000000000000", None
    ),
    ("DELETE", "/v1/users/me/sessions"): harmless("no key may use it, and a session ends its own person's alone"),
    ("DELETE", "/v1/users/me/sessions/{session_id}"): harmless("as above"),
    ("DELETE", "/v1/users/me/devices"): harmless("as above"),
    ("DELETE", "/v1/users/me/devices/{device_id}"): harmless("as above"),
    ("DELETE", "/v1/users/{user_id}/factors/{factor_id}"): lambda world, actor: accounts(
        world, actor, "DELETE", "/factors/018f0000-0000-7000-8000-000000000000", None
    ),
    ("POST", "/v1/users/{user_id}/factors/reset"): lambda world, actor: accounts(
        world, actor, "POST", "/factors/reset", {"reason": "why"}
    ),
    ("POST", "/v1/users/me/factors"): harmless("no key may use it, and a session changes its own person's alone"),
    ("POST", "/v1/users/me/factors/mail"): harmless("as above"),
    ("POST", "/v1/users/me/factors/{factor_id}/confirm"): harmless("as above"),
    ("PATCH", "/v1/users/me/factors/{factor_id}"): harmless("as above"),
    ("DELETE", "/v1/users/me/factors/{factor_id}"): harmless("as above"),
    ("POST", "/v1/users/me/recovery-codes"): harmless("as above"),
    ("POST", "/v1/users/me/security-keys"): harmless("as above"),
    ("POST", "/v1/users/me/security-keys/{registration_id}"): harmless("as above"),
    ("POST", "/v1/users/{user_id}/enable"): lambda world, actor: accounts(
        world, actor, "POST", "/enable", {"reason": "why"}
    ),
    ("POST", "/v1/tenants"): lambda world, actor: [
        Attempt("POST", "/v1/tenants", {"slug": world.fresh()}, may_pass=actor.name == "platform-operator")
    ],
    ("PATCH", "/v1/tenants/{tenant}"): lambda world, actor: [
        Attempt("PATCH", "/v1/tenants/spare", {"display_name": "x"}, may_pass=actor.name == "platform-operator"),
        Attempt("PATCH", "/v1/tenants/_platform", {"display_name": "x"}),
    ],
    ("DELETE", "/v1/tenants/{tenant}"): lambda world, actor: [
        Attempt("DELETE", f"/v1/tenants/{slug}?reason=why") for slug in ("_platform", "_base")
    ],
    ("POST", "/v1/tenants/{tenant}/suspend"): lambda world, actor: [
        Attempt("POST", f"/v1/tenants/{slug}/suspend", {"reason": "why"}) for slug in ("_platform", "_base")
    ],
    ("POST", "/v1/tenants/{tenant}/reactivate"): lambda world, actor: [
        Attempt("POST", f"/v1/tenants/{slug}/reactivate", {"reason": "why"}) for slug in ("_platform", "_base")
    ],
    ("POST", "/v1/tenants/{tenant}/restore"): lambda world, actor: [
        Attempt("POST", f"/v1/tenants/{slug}/restore", {"reason": "why"}) for slug in ("_platform", "_base")
    ],
    ("PUT", "/v1/tenants/{tenant}/settings"): lambda world, actor: [
        Attempt("PUT", "/v1/tenants/acme/settings", {"roles": [BOSS]}, malformed=True)
    ],
    ("PATCH", "/v1/tenants/{tenant}/settings"): lambda world, actor: [
        Attempt("PATCH", "/v1/tenants/acme/settings", {"roles": [BOSS]}, malformed=True)
    ],
    ("PUT", "/v1/model"): lambda world, actor: [Attempt("PUT", "/v1/model", {"text": OPEN_MODEL})],
    ("POST", "/v1/encryption/rotation"): lambda world, actor: [Attempt("POST", "/v1/encryption/rotation", {})],
    ("POST", "/v1/bootstrap"): lambda world, actor: [
        Attempt(
            "POST",
            "/v1/bootstrap",
            {
                "token": "kasbah-bootstrap_" + "A" * 43,
                "username": "eve",
                "email": "eve@example.com",
                "password": "x" * 20,
            },
        )
    ],
}
"""Attempts by operation, or why there are none. `policy/apply` is tried below: what it sends depends on the revision."""

IMPORT = b"\n".join(
    (
        b'{"username": "imported", "roles": ["role:boss"]}',
        b'{"username": "boss", "password_hash": "$2b$12$C6UzMDM.H6dfI/f/IKcEeO5ZQGxrm2ZyRzZt0vyVnQW0mXfjEcDzS"}',
    )
)
OPEN_MODEL = (
    (ROOT / "policies" / "model.conf")
    .read_text("utf-8")
    .replace("(g(r.sub, p.sub, r.dom) || keyMatch(r.sub, p.sub))", "(r.sub == p.sub || r.sub != p.sub)")
)
"""Whoever asks has every right that anybody has."""
APPLY = ("POST", "/v1/tenants/{tenant}/policy/apply")


def operations() -> set[tuple[str, str]]:
    """Return every write of the OpenAPI file."""
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text("utf-8"))
    found = {(method.upper(), path) for path, item in document["paths"].items() for method in METHODS if method in item}
    return {operation for operation in found if "/forward-auth" not in operation[1]}


def test_every_write_has_attempts():
    """A new operation fails here until it says how it could be misused, or why it cannot."""
    assert operations() == {*ATTEMPTS, APPLY}
    assert "r.sub != p.sub" in OPEN_MODEL


# --- what must not happen


async def rights(world: World, ref: Ref, tenant_id: TenantId) -> set[tuple[str, str]]:
    """Return what somebody may do in one domain, asked of the engine."""
    pairs = [*((right.resource, right.action) for right in sorted(catalogue().pairs)), *SAMPLES, *ORDINARY]
    questions = [EvaluationRequest(parse_ref(ref), Action(action), parse_ref(resource)) for resource, action in pairs]
    node = world.service.app[NODE]
    least = (await node.watch(tenant_id)).revision
    decisions = await evaluate_many(node, tenant_id, questions, min_revision=least)
    return {pair for pair, decision in zip(pairs, decisions, strict=True) if decision.allowed}


async def held(world: World, actor: Actor) -> dict[str, set[tuple[str, str]]]:
    """Return the rights of an actor and of the puppet, in every domain where they could have got some."""
    assert world.puppet is not None
    refs = [ref for ref in (actor.ref, world.puppet.ref) if ref is not None]
    homes = {world.acme, PLATFORM_TENANT_ID, *([] if actor.home is None else [actor.home])}
    return {f"{ref} in {home}": await rights(world, ref, home) for ref in refs for home in homes}


async def test_nobody_widens_their_rights(world: World) -> None:
    """Everybody tries everything: refused as documented, or nothing came of it."""
    assert world.boss is not None
    for actor in world.actors:
        await world.people.write(world.acme, [RoleLink(world.boss.ref, Ref(BOSS))])
        before = await held(world, actor)
        own = set().union(*before.values())
        for attack in [each for _, each in sorted(ATTEMPTS.items(), key=str)]:
            for attempt in [] if isinstance(attack, str) else attack(world, actor):
                await tried(world, actor, attempt)
        applied = await world.service.post(
            "/v1/tenants/acme/policy/apply", await application(world, mighty_rows(world)), key=actor.key
        )
        assert applied.status in REFUSED, (actor.name, applied.status)
        after = await held(world, actor)
        for where, now in after.items():
            allowed = before[where] if actor.ref is not None and str(actor.ref) in where else own
            # What a service's key allowed others on ordinary resources is its office; administration is not.
            grown = (
                now - before[where]
                if actor.ref is not None
                else {pair for pair in now - allowed if pair[0].startswith("kasbah:")}
            )
            assert not grown, (actor.name, where, grown)


async def tried(world: World, actor: Actor, attempt: Attempt) -> None:
    """Send one attempt and judge its answer."""
    headers = {"Content-Type": "application/x-ndjson"} if isinstance(attempt.body, bytes) else {}
    if actor.home == PLATFORM_TENANT_ID and "tenant" not in attempt.path:
        headers["X-Tenant-ID"] = "_platform" if "/users/me/" in attempt.path else "acme"
    answer = await world.service.ask(attempt.method, attempt.path, attempt.body, key=actor.key, headers=headers)
    said = (actor.name, attempt, answer.status, answer.body)
    assert answer.status != 500, said
    if answer.status < 300:
        assert attempt.may_pass, said
        if "token" in (answer.json if answer.body else {}):
            await powerless(world, actor, answer.json)
    else:
        assert answer.status in REFUSED or (attempt.malformed and answer.status == 400), said


async def powerless(world: World, actor: Actor, made: dict[str, Any]) -> None:
    """A key that was made does nothing that its maker does not."""
    for method, path, body in (
        ("POST", "/v1/tenants", {"slug": world.fresh()}),
        ("PUT", "/v1/model", {"text": OPEN_MODEL}),
        ("GET", "/v1/tenants/acme/keys", None),
        ("GET", "/v1/users?tenant=acme", None),
    ):
        ours = await world.service.ask(method, path, body, key=actor.key)
        theirs = await world.service.ask(method, path, body, key=made["token"])
        assert theirs.status >= 400 or ours.status < 300, (actor.name, method, path)


async def test_the_attempts_are_no_empty_claims(world: World) -> None:
    """The platform's key, which may do everything, succeeds with what the others are refused."""
    assert world.puppet is not None
    puppet = Actor("puppet", world.puppet.key, world.puppet.ref, world.acme)
    before = await held(world, puppet)
    path = "/v1/tenants/acme/memberships"
    assert (await world.service.post(path, {"add": [link(world.puppet.ref, BOSS)]})).status == 200
    gained = (await held(world, puppet))[f"{world.puppet.ref} in {world.acme}"] - before[
        f"{world.puppet.ref} in {world.acme}"
    ]
    assert {("secret:1", "read"), ("kasbah:key", "write"), ("kasbah:role/boss", "grant")} <= gained
    back = await world.service.post("/v1/tenants/acme/policy/rollback", {"to_revision": world.mighty_revision})
    assert back.status in {200, 409}, back.body
    assert isinstance(StoredEntity(EntityKind.SUBJECT, Ref("user:x"), {}), StoredEntity)
