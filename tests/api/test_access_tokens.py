"""Access tokens of an issuer as credentials: who they are, what they may do, and when they end."""

import asyncio
import contextlib
import re
import time
from uuid import uuid4

import psycopg
import pytest

from authn.api_keys import SCOPES
from authn.user_rows import raise_auth_epoch
from authz.request import Ref
from authz.rules import RoleLink, Rule
from service.access_tokens import AccessTokens
from service.all_routes import all_routes
from service.keys import CALLERS
from service.oauth_settings import OAuthSettings
from service.routes import Needs
from service.token_reach import is_about_credentials
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.administration import META, Service, rule
from tests.support.issuer import AUDIENCE, Issuer, new_key, serving
from tests.support.persons import People, Person

ALL = "kasbah:decision:check kasbah:policy:read kasbah:policy:write kasbah:key:write kasbah:account:write"
QUESTION = {
    "subject": {"type": "user", "id": "somebody"},
    "action": {"name": "read"},
    "resource": {"type": "record", "id": "1"},
}


def settings(issuer: Issuer, *, jwks: bool = True, introspection: bool = False, **more) -> OAuthSettings:
    return OAuthSettings(
        issuer=issuer.issuer,
        audience=AUDIENCE,
        jwks_url=issuer.jwks_url if jwks else None,
        introspection_url=issuer.introspection_url if introspection else None,
        **more,
    )


class World:
    """A service that takes an issuer's tokens, and an administrator of a tenant."""

    def __init__(self, issuer: Issuer, service: Service, people: People, database_url: str) -> None:
        self.database_url = database_url
        self.issuer = issuer
        self.service = service
        self.people = people
        self.alice: Person
        self.tokens = next(kind for kind in service.app[CALLERS].others if isinstance(kind, AccessTokens))
        self._passed = 0.0
        if self.tokens._signed is not None:
            self.keys = self.tokens._signed._keys
            self.keys._monotonic = lambda: time.monotonic() + self._passed

    def token(self, person: Person | None = None, scope: str = ALL, **changed) -> str:
        """Return a token of a person, issued after whatever happened to the account."""
        return self.issuer.token(str((person or self.alice).id), scope, **changed)

    async def rows(self, token: str, headers=None):
        """Ask for something that needs the scope `policy:read` and the right."""
        return await self.service.get("/v1/tenants/acme/rules", key=token, headers=headers)

    def later(self, seconds: float) -> None:
        """Let time pass for the issuer's keys."""
        self._passed += seconds

    async def demanding(self) -> dict[str, str]:
        """Return the header that demands whatever was written until now."""
        tenant = await self.service.get("/v1/tenants/acme", key=self.service.platform)
        return {"Kasbah-Min-Revision": tenant.headers["Kasbah-Revision"]}

    async def end_sign_ins(self) -> None:
        """Raise the epoch of alice's account, as a change of her password does."""
        async with tenant_unit_of_work(self.people.sessions, self.alice.tenant_id) as work:
            await lock_head(work)
            await raise_auth_epoch(work, self.alice.id)
            head = await raise_head(work, keys=True)
            entry = AuditEntry("password.change", target=self.alice.ref)
            await record_change(work.session, head, "user", META, audit=[entry], touched=[self.alice.ref])

    async def decide(self, token: str):
        """Ask for a decision."""
        return await self.service.post("/access/v1/evaluation", QUESTION, key=token)


@contextlib.asynccontextmanager
async def world(database_url: str, **more):
    """Serve an issuer and a service that takes its tokens."""
    async with serving() as issuer, Service(database_url, oauth=settings(issuer, **more)).serving() as service:
        people = People(service)
        await people.base()
        made = World(issuer, service, people, database_url)
        made.alice = await people.person("acme", "alice", "role:tenant-admin")
        yield made


@pytest.fixture
async def there(own_database_url):
    """As `world`, with keys alone."""
    async with world(own_database_url) as made:
        yield made


async def test_a_token_is_its_person_within_its_scopes(there):
    """What both the policy and the scopes allow; the tenant is the account's."""
    answer = await there.rows(there.token())
    assert answer.status == 200, answer.body
    assert (await there.decide(there.token())).json["decision"] is False
    narrow = there.token(scope="kasbah:decision:check openid policy:read")
    assert (await there.decide(narrow)).status == 200
    refused = await there.rows(narrow)
    assert (refused.status, refused.problem) == (403, "missing-scope")
    me = await there.service.get("/v1/users/me", key=there.token())
    assert me.json["id"] == str(there.alice.id)
    own = await there.service.get("/v1/keys/self", key=narrow)
    assert (own.json["subject"], own.json["scopes"]) == (there.alice.ref, ["decision:check"])
    found = {"subject": {"type": "user"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "1"}}
    assert (await there.service.post("/access/v1/search/subject", found, key=narrow)).status == 200


async def test_scopes_do_not_give_what_the_policy_does_not(there):
    """Policy and scope, not policy or scope: live, as soon as the role is given or gone."""
    bob = await there.people.person("acme", "bob")
    token = there.token(bob)
    refused = await there.rows(token)
    assert (refused.status, refused.problem) == (403, "missing-right")
    row = RoleLink(bob.ref, Ref("role:tenant-admin"))
    await there.people.write(bob.tenant_id, [row])
    assert (await there.rows(token, await there.demanding())).status == 200
    await there.people.take(bob.tenant_id, [row])
    answer = await there.rows(token, await there.demanding())
    assert (answer.status, answer.problem) == (403, "missing-right")
    refused = await there.decide(there.token(bob))
    assert (refused.status, refused.problem) == (403, "missing-right")


async def test_a_token_reaches_no_other_tenant(there):
    """It is bound as a tenant's key is; a person of the platform names one."""
    await there.service.tenant("beta")
    answer = await there.service.get("/v1/tenants/beta/rules", key=there.token())
    assert (answer.status, answer.problem) == (403, "other-tenant")
    root = await there.people.person(None, "root", "role:platform-admin")
    for slug in ("acme", "beta"):
        assert (await there.service.get(f"/v1/tenants/{slug}/rules", key=there.token(root))).status == 200


async def test_what_a_token_writes_is_in_the_audit_under_its_person_and_client(there):
    """Who and by which client; the token itself is nowhere."""
    token = there.token(auth_time=int(time.time()) - 1)
    body = {"add": [rule("user:somebody", "record:1")], "reason": "why not"}
    written = await there.service.post("/v1/tenants/acme/rules", body, key=token)
    assert written.status == 200, written.body
    audit = await there.service.get("/v1/audit?action=policy.change&tenant=acme", key=there.service.platform)
    event = audit.json["events"][0]
    assert (event["actor"], event["credential"]) == (there.alice.ref, "client:client-1")
    assert token.split(".")[2] not in audit.body.decode()


async def test_whoever_is_not_an_account_is_nobody(there):
    """Unknown ids, other spellings of known ones, names, and clients that were given a person's id."""
    known = str(there.alice.id)
    for subject in (str(uuid4()), known.upper(), f"{{{known}}}", known.replace("-", ""), f"user:{known}", "alice", "*"):
        answer = await there.decide(there.issuer.token(subject, ALL))
        assert (answer.status, answer.problem) == (401, "not-authenticated"), subject
    answer = await there.decide(there.issuer.token(known, ALL, client_id=known))
    assert (answer.status, answer.problem) == (401, "not-authenticated")


BAD = {
    "wrong audience": {"aud": "https://other.example"},
    "wrong issuer": {"iss": "https://evil.example"},
    "expired": {"iat": 1_700_000_000, "exp": 1_700_000_300},
    "ID token": {"nonce": "n"},
    "for its client": {"aud": [AUDIENCE, "client-1"]},
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_nobodys_on_every_way_in(there, name):
    """Decisions, administration and gateways alike, and they all look as an unknown key does."""
    token = there.token(**BAD[name])
    unknown = await there.decide("kasbah_00000000_" + "A" * 43)
    for answer in (await there.decide(token), await there.rows(token)):
        assert (answer.status, answer.body) == (401, unknown.body)
        assert answer.headers["WWW-Authenticate"] == unknown.headers["WWW-Authenticate"]
    headers = {"X-Kasbah-Key": token, "X-Kasbah-Subject": "somebody"}
    assert (await there.service.get("/v1/forward-auth", key="", headers=headers)).status == 401


async def test_a_persons_token_is_no_gateways_key(there):
    """What a gateway asks is asked by a service."""
    headers = {"X-Kasbah-Key": there.token(), "X-Kasbah-Subject": "somebody"}
    assert (await there.service.get("/v1/forward-auth", key="", headers=headers)).status == 403


async def test_a_disabled_account_is_out_and_its_token_stays_dead(there):
    """Enabled again, a new sign-in is needed: the token is older than the end of all sign-ins."""
    token = there.token()
    assert (await there.rows(token)).status == 200
    path = f"/v1/users/{there.alice.id}"
    for what, expected in (("disable", 401), ("enable", 401)):
        body = {"reason": "trying it"}
        changed = await there.service.post(f"{path}/{what}?tenant=acme", body, key=there.service.platform)
        assert changed.status == 200, changed.body
        assert (await there.rows(token)).status == expected
        assert (await there.decide(token)).status == expected
    assert (await there.rows(there.token(iat=int(time.time()) + 2))).status == 200


async def test_a_token_from_before_all_sign_ins_ended_is_dead(there):
    """A password that was changed, a factor that was removed: whatever raises the epoch."""
    token, later = there.token(), there.token(iat=int(time.time()) + 5)
    await there.end_sign_ins()
    assert (await there.rows(token, await there.demanding())).status == 401
    assert (await there.rows(later)).status == 200
    # A new token of an old sign-in is an old sign-in.
    old = there.token(iat=int(time.time()) + 5, auth_time=int(time.time()) - 60)
    assert (await there.rows(old)).status == 401


async def test_a_deleted_account_is_nobody(there):
    """Its id is never given again."""
    token = there.token()
    path = f"/v1/users/{there.alice.id}?tenant=acme&reason=gone"
    deleted = await there.service.ask("DELETE", path, key=there.service.platform)
    assert deleted.status == 204, deleted.body
    assert (await there.rows(token)).status == 401


async def test_a_suspended_tenant_refuses_its_peoples_tokens(there):
    """As it refuses their keys."""
    token = there.token()
    assert (await there.rows(token)).status == 200
    suspended = await there.service.post("/v1/tenants/acme/suspend", {"reason": "unpaid"}, key=there.service.platform)
    assert suspended.status == 200, suspended.body
    for answer in (await there.rows(token), await there.decide(token)):
        assert (answer.status, answer.problem) == (403, "tenant-suspended")


async def test_rotation_is_followed_and_strangers_keys_are_not(there):
    """A new key is known within moments, whoever else signs under its id."""
    old = there.issuer.keys[0]
    assert (await there.rows(there.token())).status == 200
    new = there.issuer.rotate(keep=True)
    there.later(11)
    assert (await there.rows(there.token())).status == 200
    assert (await there.rows(there.token(key=old))).status == 200
    assert (await there.rows(there.token(key=new_key(kid=new.kid)))).status == 401
    there.issuer.keys = [new]
    there.later(301)
    await there.rows(there.token())
    for _ in range(100):
        if there.keys._fetching is None:
            break
        await asyncio.sleep(0.01)
    assert (await there.rows(there.token(key=old))).status == 401
    assert (await there.rows(there.token())).status == 200


async def test_an_issuer_that_is_down_from_the_start_is_503(there):
    """Nothing is known, so nothing is refused or allowed; keys of Kasbah's own go on."""
    there.issuer.status = 500
    answer = await there.rows(there.token())
    assert (answer.status, answer.problem) == (503, "issuer-unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await there.rows(there.alice.key)).status == 200
    there.issuer.status = 200
    there.later(3)
    assert (await there.rows(there.token())).status == 200


async def test_made_up_key_ids_do_not_ask_the_issuer_each(there):
    """Two hundred of them, at once, ask it once."""
    assert (await there.rows(there.token())).status == 200
    there.later(11)
    made_up = [there.token(key=new_key(kid=f"made-up-{number}")) for number in range(200)]
    answers = await asyncio.gather(*(there.decide(token) for token in made_up))
    assert {answer.status for answer in answers} == {401}
    assert there.issuer.fetches == 2


async def test_without_introspection_only_jwts_are_looked_at(there):
    """Anything else is unknown, and nobody is asked about it."""
    assert (await there.decide(there.issuer.opaque(str(there.alice.id), ALL))).status == 401
    assert there.issuer.questions == []


async def test_opaque_tokens_are_asked_about(own_database_url):
    """As Ory Hydra's default strategy has it; JWTs beside them are verified here."""
    async with world(own_database_url, introspection=True) as there:
        subject = str(there.alice.id)
        token = there.issuer.opaque(subject, ALL)
        assert (await there.rows(token)).status == 200
        assert (await there.decide(token)).status == 200
        assert (await there.rows(there.token())).status == 200
        assert [question["token"] for question in there.issuer.questions] == [token]
        for changed in ({"aud": []}, {"iss": "https://evil.example"}, {"token_use": "refresh_token"}, {"exp": None}):
            assert (await there.decide(there.issuer.opaque(subject, ALL, **changed))).status == 401, changed
        assert (await there.decide("ory_at_unknown.token")).status == 401
        there.issuer.status = 500
        answer = await there.decide(there.issuer.opaque(subject, ALL))
        assert (answer.status, answer.problem) == (503, "issuer-unavailable")


async def test_jwts_can_be_asked_about_too(own_database_url):
    """Without keys every token is; the issuer's word is then all there is, so a revoked one ends with it."""
    async with world(own_database_url, jwks=False, introspection=True) as there:
        token = there.token()
        there.issuer.active[token] = {"active": True} | there.issuer.claims(str(there.alice.id), ALL)
        assert (await there.rows(token)).status == 200
        assert (await there.rows(there.token())).status == 401
        assert there.issuer.fetches == 0


async def test_credentials_of_kasbahs_own_never_leave_it(own_database_url):
    """A damaged key or session is no token of the issuer's: it would be told a secret but for a letter."""
    async with world(own_database_url, introspection=True) as there:
        for damaged in (
            there.alice.key[:-1],
            f"{there.alice.key}A",
            "kasbah_session_" + "A" * 60,
            "kasbah_challenge_x",
        ):
            assert (await there.decide(damaged)).status == 401
        yesterdays = "m3trics-token-of-yesterday"
        assert (await there.service.get("/metrics", key=yesterdays)).status == 401
        for odd in ("a b", "\u00e4", "x" * 8000 + "!", ""):
            answer = await there.service.post(
                "/access/v1/evaluation", QUESTION, key="", headers={"Authorization": f"Bearer {odd}"}
            )
            assert answer.status == 401
        assert there.issuer.questions == []


async def test_a_client_that_acts_for_itself_is_its_service_account(there):
    """Policy and scope, as for people, but nobody signed in, so nothing asks how lately."""
    made = await there.service.post("/v1/service-accounts?tenant=acme", {"name": "billing"}, key=there.service.platform)
    assert made.status == 201, made.body
    account = made.json["id"]

    def token(scope: str = ALL, **changed) -> str:
        return there.issuer.token(account, scope, **({"client_id": account} | changed))

    assert (await there.rows(token())).problem == "missing-right"
    await there.people.write(there.alice.tenant_id, [RoleLink(Ref(f"service:{account}"), Ref("role:tenant-admin"))])
    demanded = await there.demanding()
    assert (await there.rows(token(), demanded)).status == 200
    assert (await there.rows(token("kasbah:decision:check"), demanded)).problem == "missing-scope"
    assert (await there.decide(token())).status == 200
    body = {"add": [rule("user:somebody", "record:1")]}
    written = await there.service.post("/v1/tenants/acme/rules", body, key=token())
    assert written.status == 200, written.body
    audit = await there.service.get("/v1/audit?action=policy.change&tenant=acme", key=there.service.platform)
    event = audit.json["events"][0]
    assert (event["actor"], event["credential"]) == (f"service:{account}", f"client:{account}")

    # A person's token with the same id, and a client's with a person's, are nobody's.
    assert (await there.rows(token(client_id="client-1"))).status == 401
    refused = await there.service.post("/v1/tenants/acme/keys", {"name": "mine"}, key=token())
    assert (refused.status, refused.problem) == (403, "interactive-only")

    old = token()
    for what in ("disable", "enable"):
        path = f"/v1/service-accounts/{account}/{what}?tenant=acme"
        changed = await there.service.post(path, {"reason": "trying it"}, key=there.service.platform)
        assert changed.status == 200, changed.body
        assert (await there.rows(old)).status == 401
    assert (await there.rows(token(iat=int(time.time()) + 2))).status == 200


async def test_without_an_issuer_no_token_is_taken(own_database_url):
    """Signed by whomever."""
    async with Service(own_database_url).serving() as service:
        people = People(service)
        alice = await people.person("acme", "alice")
        answer = await service.post("/access/v1/evaluation", QUESTION, key=Issuer().token(str(alice.id), ALL))
        assert (answer.status, answer.problem) == (401, "not-authenticated")


async def test_what_became_of_tokens_is_counted(there):
    """By reason, without names."""
    await there.rows(there.token())
    await there.rows(there.token(aud="https://other.example"))
    totals = there.tokens.totals()
    assert totals["access_token_taken"] == 1
    assert totals["access_token_refused_audience"] == 1
    assert sum(totals.values()) == 2


async def test_a_change_asks_the_issuer_for_a_fresh_sign_in(there):
    """RFC 9470: what the session of a person would have to prove, the token of one has to say."""
    body = {"add": [rule("user:somebody", "record:1")]}
    now = int(time.time())
    for said in ({}, {"acr": "aal2"}, {"auth_time": now - 1000}, {"auth_time": str(now)}, {"auth_time": now - 10**6}):
        answer = await there.service.post("/v1/tenants/acme/rules", body, key=there.token(**said))
        assert (answer.status, answer.problem) == (401, "insufficient-user-authentication"), said
        assert 'error="insufficient_user_authentication"' in answer.headers["WWW-Authenticate"]
        assert (answer.json["acr_values"], answer.json["max_age"]) == ("aal1", 900)
    fresh = there.token(auth_time=now - 10)
    assert (await there.service.post("/v1/tenants/acme/rules", body, key=fresh)).status == 200


async def test_an_account_with_a_second_factor_must_have_proven_it(there):
    """The level that the account can reach, as the issuer says it was reached."""
    with psycopg.connect(there.database_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO authenticators (tenant_id, user_id, authenticator_id, kind, name, credential_id, public_key, "
            "sign_count, confirmed_at) VALUES (%s, %s, gen_random_uuid(), 'webauthn', 'key', 'x', 'x', 0, now())",
            (there.alice.tenant_id, there.alice.id),
        )
    await there.end_sign_ins()  # binding a factor ends them, and nodes look at the account anew
    demanded, now = await there.demanding(), int(time.time()) + 2
    body = {"add": [rule("user:somebody", "record:1")]}
    for acr, status in ((None, 401), ("aal1", 401), ("gold", 401), ("aal2", 200)):
        token = there.token(iat=now, auth_time=now, acr=acr)
        answer = await there.service.post("/v1/tenants/acme/rules", body, key=token, headers=demanded)
        assert answer.status == status, acr
        assert status == 200 or answer.json["acr_values"] == "aal2"


async def test_conditions_see_the_sign_in_that_the_issuer_tells_of(there):
    """`auth.*` of the person's own questions; a deny says which sign-in would help."""
    await there.people.write(
        there.alice.tenant_id,
        [
            Rule(there.alice.ref, Ref("doc:strong"), "read", condition='auth.acr == "aal2"'),
            Rule(there.alice.ref, Ref("doc:fresh"), "read", condition='now - auth.time < duration("300s")'),
        ],
    )
    demanded, now = await there.demanding(), int(time.time())

    async def ask(resource: str, **said):
        question = QUESTION | {
            "subject": {"type": "user", "id": str(there.alice.id)},
            "resource": {"type": "doc", "id": resource},
        }
        token = there.token(**said)
        answer = await there.service.post("/access/v1/evaluation", question, key=token, headers=demanded)
        assert answer.status == 200, answer.body
        return answer.json["decision"], answer.json["context"]["kasbah"].get("step_up")

    assert await ask("strong", acr="aal2", amr=["pwd", "otp", "mfa"]) == (True, None)
    for said in ({}, {"acr": "aal1"}, {"acr": "AAL2"}, {"ext": {"acr": ["aal2"]}}):
        decision, step_up = await ask("strong", **said)
        assert (decision, step_up["acr_values"]) == (False, ["aal2"]), said
    assert await ask("strong", ext={"acr": "aal2"}) == (True, None)
    assert (await ask("fresh", auth_time=now - 10))[0] is True
    assert (await ask("fresh", auth_time=now - 600))[0] is False
    assert (await ask("fresh"))[0] is False


async def test_an_account_that_must_prove_two_factors_has_no_token_that_does_not_say_so(there):
    """Whatever the token is used for, reading and deciding included; the issuer is told what to ask for."""
    with psycopg.connect(there.database_url, autocommit=True) as owner:
        owner.execute("UPDATE users SET mfa_required = true WHERE user_id = %s", (there.alice.id,))
    await there.end_sign_ins()
    demanded, now = await there.demanding(), int(time.time()) + 2
    for said in ({}, {"acr": "aal1"}, {"amr": ["pwd", "otp", "mfa"]}):
        answer = await there.rows(there.token(iat=now, **said), demanded)
        assert (answer.status, answer.problem) == (401, "insufficient-user-authentication"), said
        assert answer.json["acr_values"] == "aal2"
        assert (await there.decide(there.token(iat=now, **said))).status == 401
    assert (await there.rows(there.token(iat=now, acr="aal2"), demanded)).status == 200


async def test_a_tenants_demand_on_everybody_is_met_by_what_the_issuer_says(there):
    """On whatever a person asks for; a client that acts for itself signs nobody in."""
    made = await there.service.post("/v1/service-accounts?tenant=acme", {"name": "billing"}, key=there.service.platform)
    service = there.issuer.token(made.json["id"], ALL, client_id=made.json["id"])
    assert (await there.decide(there.token())).status == 200
    await there.service.ask("PUT", "/v1/tenants/acme/settings", {"mfa": {"demand": "required"}})
    demanded = await there.demanding()
    for said in ({}, {"acr": "aal1"}):
        answer = await there.rows(there.token(**said), demanded)
        assert (answer.status, answer.problem) == (401, "insufficient-user-authentication"), said
        assert (await there.decide(there.token(**said))).status == 401
    assert (await there.rows(there.token(acr="aal2"), demanded)).status == 200
    assert (await there.rows(service, demanded)).problem == "missing-right"  # taken; it has no role


CREDENTIALS = re.compile(
    r"/(keys|password|password-reset|email|factors|recovery-codes|sessions|failures|webauthn|rotate)(/|$)"
)


def test_every_route_about_credentials_refuses_tokens():
    """A route to come that makes or ends one has to say so, by its scope, its action, or as interactive."""
    routes = [route for route in all_routes() if isinstance(route.access, Needs) and route.method != "GET"]
    found = [route for route in routes if CREDENTIALS.search(route.label)]
    assert len(found) > 5
    assert [route.label for route in found if not is_about_credentials(route.access)] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/tenants/acme/keys", {"name": "mine"}),
        ("DELETE", "/v1/tenants/acme/keys/00000000-0000-7000-8000-000000000000", None),
        ("POST", "/v1/users/me/keys", {"name": "mine"}),
        ("POST", "/v1/users/me/password", {"current_password": "a", "new_password": "b"}),
        ("POST", "/v1/users/me/email", {"email": "a@example.org", "password": "b"}),
    ],
)
async def test_no_token_makes_or_ends_credentials(there, method, path, body):
    """Whatever its scopes and its person's rights, however fresh its sign-in."""
    scope = " ".join(f"kasbah:{scope}" for scope in SCOPES)
    token = there.token(scope=scope, auth_time=int(time.time()), acr="aal2")
    answer = await there.service.ask(method, path, body, key=token)
    assert (answer.status, answer.problem) == (403, "interactive-only")
