"""Reset of a forgotten password over HTTP, with real mails: who gets a link, what it does, and what nobody learns."""

import asyncio
import secrets
from dataclasses import replace

import psycopg
import pytest

from authn import reset_password
from authn.account_flows import AccountFlows
from authn.password_hashing import Verified
from service.http.account_links import ERRANDS
from service.keys import PASSWORDS
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.tenant_settings import TenantLimits
from tests.support.people import PostOffice, post_office

pytestmark = pytest.mark.integration

ASK = "/v1/account/password-reset-request"
RESET = "/v1/account/password-reset"
GOOD = "quiet rivers carry small stones"


async def ask(post: PostOffice, identifier: str, *, tenant: str = "acme", **more):
    """Say that a password was forgotten."""
    headers = {"X-Tenant-ID": tenant} | more.pop("headers", {})
    return await post.post(ASK, {"identifier": identifier}, key="", headers=headers, **more)


async def reset(post: PostOffice, token: str, password: str = GOOD):
    """Complete a reset."""
    return await post.post(RESET, {"token": token, "password": password}, key="")


async def is_password(post: PostOffice, user, password: str) -> bool:
    """Whether an account's password is this one."""
    (stored,) = post.account(user.id, "password_hash")
    return isinstance(await post.app[PASSWORDS].verify(password, stored), Verified)


@pytest.mark.parametrize("identifier", ["alice", "ALICE", "alice@example.org", "Alice@EXAMPLE.org"])
async def test_a_forgotten_password_is_chosen_anew_by_mail(post, identifier):
    """By username or address; sign-ins end, a notice comes, nobody is signed in, the link works once."""
    user = await post.person("alice")
    (epoch,) = post.account(user.id, "auth_epoch")
    assert (await ask(post, identifier)).json == {"status": "accepted"}
    token = await post.token("alice@example.org")
    answer = await reset(post, token)
    assert (answer.status, answer.body) == (204, b"")
    assert "Set-Cookie" not in answer.headers
    assert await is_password(post, user, GOOD)
    now, by, at = post.account(user.id, "auth_epoch, password_set_by, password_reset_at IS NOT NULL")
    assert (now, by, at) == (epoch + 1, "reset", True)
    assert (await reset(post, token, "another long enough passphrase")).status == 410
    assert await is_password(post, user, GOOD)
    notice = (await post.mails("alice@example.org"))[-1]
    assert notice.message["Subject"] == "Your password for acme was changed"
    assert "token=" not in notice.text


async def test_the_answer_never_tells_whether_there_is_an_account(post):
    """Equal bytes for everybody: known, unknown, disabled, unverified, without address, of no tenant, and nonsense."""
    await post.person("alice")
    disabled = await post.person("carol")
    post.execute("UPDATE users SET status = 'disabled' WHERE user_id = %s", disabled.id)
    await post.person("bob", verified=False)
    bodies = set()
    for identifier in ("alice", "carol", "bob", "nobody", "nobody@example.org", "", "@", "x" * 400, "a\0b", "é" * 30):
        answer = await ask(post, identifier)
        bodies.add((answer.status, answer.body, tuple(sorted(set(answer.headers) - {"Date", "X-Request-ID"}))))
    for tenant in ("nobody", "_platform", "_base", "ACME", "a" * 70):
        answer = await ask(post, "alice", tenant=tenant)
        bodies.add((answer.status, answer.body, tuple(sorted(set(answer.headers) - {"Date", "X-Request-ID"}))))
    assert len(bodies) == 1
    await post.mails("alice@example.org")
    assert [mail.recipients for mail in post.server.received] == [["alice@example.org"]]


async def test_the_answer_comes_before_anything_is_looked_up(post):
    """With the accounts out of reach it is the same: nothing about them can show in its time."""
    await post.person("alice")
    with psycopg.connect(post.database_url) as holding:
        holding.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        assert (await ask(post, "alice")).status == 202
        assert (await ask(post, "nobody")).status == 202
    assert len(await post.mails("alice@example.org")) <= 1


async def test_only_a_verified_address_gets_a_link(post):
    """One that an administrator set, and nobody proved, resets nothing; the audit says so."""
    await post.person("bob", verified=False)
    await ask(post, "bob")
    assert await post.mails("bob@example.org") == []
    assert post.query(
        "SELECT event->>'outcome', event->'detail'->>'reason' FROM audit_events "
        "WHERE event->>'action' = 'user.password_reset_request'"
    ) == [("refused", "no_verified_address")]


async def test_password_and_factors_are_not_both_reset_within_a_day(post):
    """Neither a link that is asked for afterwards nor one that was sent before does it; who asks is told by mail."""
    user = await post.person("alice")
    await ask(post, "alice")
    token = await post.token("alice@example.org")
    post.execute("UPDATE users SET factors_reset_at = clock_timestamp() - interval '23 hours'")
    assert (await reset(post, token)).status == 410
    await ask(post, "alice")
    _, told = await post.mails("alice@example.org")
    assert "ask again tomorrow" in told.text
    assert "http" not in told.text
    post.execute("UPDATE users SET factors_reset_at = clock_timestamp() - interval '25 hours'")
    await ask(post, "alice")
    assert (await reset(post, await post.token("alice@example.org"))).status == 204
    assert await is_password(post, user, GOOD)


async def test_a_password_that_is_refused_spends_nothing(post):
    """Every reason is told; then a good one goes through with the same link."""
    user = await post.person("alice")
    await ask(post, "alice")
    token = await post.token("alice@example.org")
    for password, code in (("short", "too_short"), ("alice alice alice", "context"), ("passwordpassword", "common")):
        answer = await reset(post, token, password)
        assert (answer.status, answer.problem) == (422, "password-refused"), password
        assert code in {reason["code"] for reason in answer.json["reasons"]}
    for password in ("", "x" * 5000, "\ud800" if False else "a\0" * 20):
        assert (await reset(post, token, password)).status in {400, 422}
    assert post.account(user.id, "password_hash") == (None,)
    assert (await reset(post, token)).status == 204


async def test_of_many_at_once_one_resets(post):
    """One password is set, by one of them; the others find the link spent."""
    user = await post.person("alice")
    await ask(post, "alice")
    token = await post.token("alice@example.org")
    passwords = [f"{GOOD} number {number}" for number in range(8)]
    answers = await asyncio.gather(*(reset(post, token, password) for password in passwords))
    statuses = [answer.status for answer in answers]
    assert statuses.count(204) == 1
    assert set(statuses) <= {204, 410, 429, 503}
    assert await is_password(post, user, passwords[statuses.index(204)])


async def test_a_reset_voids_the_other_links(post):
    """Two were asked for; after one was used the other is nothing."""
    await post.person("alice")
    await ask(post, "alice")
    first = await post.token("alice@example.org")
    await ask(post, "alice")
    second = await post.token("alice@example.org")
    assert first != second
    assert (await reset(post, second)).status == 204
    assert (await reset(post, first)).status == 410


async def test_one_account_gets_few_mails_whoever_asks(post):
    """Three within the hour, however often it is asked; the owner's last link still works."""
    await post.person("alice")
    for number in range(6):
        await ask(post, "alice" if number % 2 else "alice@example.org")
        await post.app[ERRANDS].settled()
    mails = await post.mails("alice@example.org")
    assert len(mails) == 3
    assert (await reset(post, mails[-1].token)).status == 204


async def test_one_address_cannot_ask_for_everybody(post):
    """After twenty within the hour it waits; the answer before that is the same for all."""
    answers = [await ask(post, f"user{number}") for number in range(21)]
    assert [answer.status for answer in answers] == [202] * 20 + [429]
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert (await ask(post, "alice", headers={"X-Forwarded-For": "192.0.2.7"})).status == 429


async def test_a_tenant_must_be_named_once(post):
    """In the header or the parameter; two that disagree are refused."""
    assert (await post.post(ASK, {"identifier": "alice"}, key="")).status == 400
    assert (await post.post(f"{ASK}?tenant=acme", {"identifier": "alice"}, key="")).status == 202
    assert (await ask(post, "alice", tenant="beta", headers={"X-Tenant-ID": "acme"})).status == 202
    headers = {"X-Tenant-ID": "acme"}
    assert (await post.post(f"{ASK}?tenant=beta", {"identifier": "alice"}, key="", headers=headers)).status == 400


async def test_the_same_name_in_another_tenant_is_another_account(post):
    """A link of one tenant's account does nothing to the other's."""
    here = await post.person("alice")
    there = await post.person("alice", tenant="beta", email="alice@beta.example")
    await ask(post, "alice", tenant="beta")
    assert await post.mails("alice@example.org") == []
    assert (await reset(post, await post.token("alice@beta.example"))).status == 204
    assert post.account(here.id, "password_hash") == (None,)
    assert await is_password(post, there, GOOD)


async def test_people_of_the_platform_reset_theirs_as_everybody(post):
    """Their organization is `_platform`; the mail says the platform's name."""
    post.tenants["_platform"] = PLATFORM_TENANT_ID
    root = await post.person("root", tenant="_platform")
    await ask(post, "root", tenant="_platform")
    assert (await reset(post, await post.token("root@example.org"))).status == 204
    assert await is_password(post, root, GOOD)


async def test_an_administrator_starts_a_reset_and_sees_nothing_of_it(post):
    """The account's own address gets the link, the answer holds none, and a reason stands in the audit."""
    user = await post.person("alice")
    path = f"/v1/users/{user.id}/password-reset"
    key = post.keys["acme"]
    answer = await post.post(path, {"reason": "lost"}, key=key)
    assert (answer.status, answer.json) == (202, {"status": "accepted"})
    token = await post.token("alice@example.org")
    assert token not in str(answer.headers)
    hours = "round(extract(epoch FROM expires_at - created_at) / 3600)"
    assert post.query(f"SELECT {hours} FROM links") == [(24,)]
    assert post.query(
        "SELECT event->>'reason', event->>'target' FROM audit_events "
        "WHERE event->>'action' = 'user.password_reset_request'"
    ) == [("lost", f"user:{user.id}")]
    assert (await reset(post, token)).status == 204
    for body in ({}, {"reason": ""}, {"reason": "x", "email": "eve@evil.example"}, {"reason": "x", "password": "y"}):
        assert (await post.post(path, body, key=key)).status == 400, body
    for other in (f"/v1/users/{secrets.token_hex(16)}/password-reset", "/v1/users/me/password-reset"):
        assert (await post.post(other, {"reason": "x"}, key=key)).status == 404
    assert (await post.post(path, {"reason": "x"}, key=post.keys["beta"])).status == 404


async def test_an_administrator_is_told_why_there_is_no_link(post):
    """Without a verified address, and within a day of another reset."""
    bob = await post.person("bob", verified=False)
    answer = await post.post(f"/v1/users/{bob.id}/password-reset", {"reason": "x"}, key=post.keys["acme"])
    assert (answer.status, answer.problem) == (409, "reset-not-possible")
    alice = await post.person("alice")
    post.execute("UPDATE users SET factors_reset_at = clock_timestamp() WHERE user_id = %s", alice.id)
    answer = await post.post(f"/v1/users/{alice.id}/password-reset", {"reason": "x"}, key=post.keys["acme"])
    assert (answer.status, answer.problem) == (409, "reset-not-possible")
    assert await post.mails("alice@example.org") == []


async def test_too_much_at_once_is_refused_before_it_is_known_what_it_is_about(post):
    """A full house answers 503 for known and unknown alike."""
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    assert isinstance(post.flows, AccountFlows)
    for _ in range(64):
        post.app[ERRANDS].begin("test", wait)
    await post.person("alice")
    answers = [await ask(post, name) for name in ("alice", "nobody")]
    gate.set()
    assert {(answer.status, answer.problem) for answer in answers} == {(503, "overloaded")}


async def test_made_up_names_do_not_use_up_a_tenants_resets(post, monkeypatch):
    """Only what would be mailed counts: strangers without a known name keep nobody from a reset."""
    await post.person("alice")
    await post.person("bob", verified=False)
    monkeypatch.setattr(reset_password, "TENANT_LIMIT", replace(reset_password.TENANT_LIMIT, most=1))
    for identifier in ("nobody", "nobody@example.org", "bob", "alice", "alice"):
        await ask(post, identifier)
        await post.app[ERRANDS].settled()
    assert len(await post.mails("alice@example.org")) == 1


async def test_every_way_to_a_password_keeps_the_platforms_bounds(own_database_url):
    """A reset, an invitation and the first administrator ask for what the platform asks for, not for the default."""
    async with post_office(own_database_url, limits=TenantLimits(min_password_length=40)) as post:
        await post.person("alice")
        await ask(post, "alice")
        invited = await post.post("/v1/invitations", {"email": "bob@example.org"}, key=post.keys["acme"])
        assert invited.status == 201
        first = await post.bootstrap.administrator_token()
        accept = {"token": await post.token("bob@example.org"), "username": "bob"}
        begin = {"token": first.token, "username": "root1", "email": "root@example.org"}
        long = f"{GOOD}, and many more of them"
        assert len(GOOD) < 40 <= len(long)
        for path, body, done in (
            (RESET, {"token": await post.token("alice@example.org")}, 204),
            ("/v1/account/invitation", accept, 201),
            ("/v1/bootstrap", begin, 201),
        ):
            refused = await post.post(path, body | {"password": GOOD}, key="")
            assert (refused.status, refused.problem) == (422, "password-refused"), path
            assert [reason["code"] for reason in refused.json["reasons"]] == ["too_short"], path
            assert (await post.post(path, body | {"password": long}, key="")).status == done, path


async def test_where_a_reset_was_asked_from_ends_with_the_account(post):
    """Nobody showed who asked, but it was most likely the person: their address is not kept in the clear."""
    user = await post.person("alice")
    key = post.keys["acme"]
    await ask(post, "alice")
    assert (await reset(post, await post.token("alice@example.org"))).status == 204
    path = "/v1/audit?action=user.password_reset_request&personal=true"
    (event,) = (await post.get(path, key=key)).json["events"]
    assert event["actor"] == "anonymous"
    assert event["actor_personal"] == {"subject": str(user.id), "fields": {"address": "127.0.0.1"}}
    stored = "SELECT event::text FROM audit_events WHERE event->>'action' LIKE 'user.password_reset%%'"
    assert "127.0.0.1" not in repr(post.query(stored))
    assert (await post.ask("DELETE", f"/v1/users/{user.id}?reason=gone", key=key)).status == 204
    (event,) = (await post.get(path, key=key)).json["events"]
    assert event["actor_personal"]["fields"] is None
