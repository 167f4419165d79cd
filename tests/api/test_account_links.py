"""Links over HTTP: what each does, once, and everything that makes one do nothing."""

import asyncio
import json
import secrets
from uuid import UUID

import pytest

from authn.account_flows import holder_of, lock_active
from authn.address_changes import confirm_change
from authn.change_address import ACCOUNT_LIMIT, ask_to_change_address
from authn.links import LIFETIMES, LinkPurpose, hash_link_token, issue_link
from authn.user_rows import lock_user, raise_auth_epoch, set_email
from authn.users import normalize_email
from authn.verify_address import ask_to_verify
from service.keys import SESSIONS
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.administration import META
from tests.support.people import PostOffice
from tests.support.sessions import signed_in

pytestmark = pytest.mark.integration

SPENDING = {
    "/v1/account/verification": LinkPurpose.VERIFY,
    "/v1/account/address-confirmation": LinkPurpose.CONFIRM_ADDRESS,
    "/v1/account/address-undo": LinkPurpose.UNDO_ADDRESS,
}


async def spend(post: PostOffice, path: str, token: str, **more):
    """Spend a link."""
    return await post.post(path, {"token": token}, key="", **more)


async def verification(post: PostOffice, username: str = "alice"):
    """Return an unverified account and the token that was mailed to it."""
    user = await post.person(username, verified=False)
    await ask_to_verify(post.flows, post.tenants["acme"], user.id, meta=META)
    return user, await post.token(f"{username}@example.org")


async def change(post: PostOffice, user, email: str) -> None:
    """Ask for another address."""
    await ask_to_change_address(post.flows, post.tenants["acme"], user.id, normalize_email(email), meta=META)


async def test_an_address_is_verified_once(post):
    """The link of the mail does it; the second time it does nothing."""
    user, token = await verification(post)
    assert post.account(user.id, "email_verified_at") == (None,)
    assert (await spend(post, "/v1/account/verification", token)).status == 204
    (at,) = post.account(user.id, "email_verified_at")
    assert at is not None
    assert (await spend(post, "/v1/account/verification", token)).status == 410
    assert post.account(user.id, "email_verified_at") == (at,)
    assert post.query("SELECT event->>'action', event->>'actor' FROM audit_events ORDER BY seq DESC LIMIT 1") == [
        ("user.address_verify", f"user:{user.id}")
    ]


async def test_of_fifty_at_once_one_spends_a_link(post):
    """One success, one entry in the audit."""
    _, token = await verification(post)
    answers = await asyncio.gather(*(spend(post, "/v1/account/verification", token) for _ in range(50)))
    assert sorted(answer.status for answer in answers) == [204] + [410] * 49
    assert post.query("SELECT count(*) FROM audit_events WHERE event->>'action' = 'user.address_verify'") == [(1,)]


async def test_whatever_a_link_lacks_the_answer_is_the_same(post):
    """Unknown, malformed, spent, expired, of another purpose, another tenant, void: equal bytes, nothing changed."""
    user, token = await verification(post)

    async def refused(path: str, token: str, **more) -> bytes:
        answer = await spend(post, path, token, **more)
        assert (answer.status, answer.problem) == (410, "link-not-valid"), (path, token)
        return answer.body

    bodies = {
        await refused("/v1/account/verification", text)
        for text in (
            secrets.token_urlsafe(32),
            "",
            "x",
            token + "x",
            token[:-1],
            token.swapcase(),
            "\u00fc" * 43,
            "é\0",
        )
    }
    for path in SPENDING:
        if path != "/v1/account/verification":
            bodies.add(await refused(path, token))
    bodies.add(await refused("/v1/account/verification", token, headers={"X-Tenant-ID": "beta"}))
    bodies.add(await refused("/v1/account/verification?tenant=nobody", token))
    post.execute("UPDATE links SET expires_at = clock_timestamp() WHERE user_id = %s", user.id)
    bodies.add(await refused("/v1/account/verification", token))
    post.execute("UPDATE links SET expires_at = clock_timestamp() + interval '1 day' WHERE user_id = %s", user.id)
    for status in ("suspended", "deleted"):
        post.execute("UPDATE tenants SET status = %s WHERE slug = 'acme'", status)
        bodies.add(await refused("/v1/account/verification", token))
    post.execute("UPDATE tenants SET status = 'active' WHERE slug = 'acme'")
    post.execute("UPDATE users SET status = 'disabled' WHERE user_id = %s", user.id)
    bodies.add(await refused("/v1/account/verification", token))
    post.execute("UPDATE users SET status = 'active' WHERE user_id = %s", user.id)
    assert len(bodies) == 1
    assert post.account(user.id, "email_verified_at") == (None,)
    assert (await spend(post, "/v1/account/verification", token, headers={"X-Tenant-ID": "acme"})).status == 204


@pytest.mark.parametrize("purpose", [LinkPurpose.VERIFY, LinkPurpose.CONFIRM_ADDRESS])
async def test_any_change_of_credentials_voids_links(post, purpose):
    """The epoch rose, or the address is another: what was sent before does nothing."""
    user = await post.person("alice")

    async def link() -> str:
        async with tenant_unit_of_work(post.app[SESSIONS], post.tenants["acme"]) as work:
            stored = await lock_user(work, user.id)
            return (await issue_link(work, purpose, holder=holder_of(stored), about_id=user.id)).token

    path = next(path for path, of in SPENDING.items() if of is purpose)
    token = await link()
    async with tenant_unit_of_work(post.app[SESSIONS], post.tenants["acme"]) as work:
        await raise_auth_epoch(work, user.id)
    assert (await spend(post, path, token)).status == 410
    token = await link()
    post.execute("UPDATE users SET email = 'b@example.org', email_key = 'b@example.org' WHERE user_id = %s", user.id)
    assert (await spend(post, path, token)).status == 410


async def test_an_address_changes_when_the_new_one_confirms(post):
    """Until then the old one serves; then sign-ins end, and the new one is verified."""
    user = await post.person("alice")
    (epoch,) = post.account(user.id, "auth_epoch")
    await change(post, user, "new@example.org")
    assert post.account(user.id, "email, auth_epoch") == ("alice@example.org", epoch)
    token = await post.token("new@example.org")
    notice = (await post.mails("alice@example.org"))[-1]
    assert "/account/undo-address?token=" in notice.link
    assert "new@example.org" not in notice.text
    assert (await spend(post, "/v1/account/address-confirmation", token)).status == 204
    email, key, verified, now = post.account(user.id, "email, email_key, email_verified_at, auth_epoch")
    assert (email, key, now) == ("new@example.org", "new@example.org", epoch + 1)
    assert verified is not None
    assert (await spend(post, "/v1/account/address-confirmation", token)).status == 410


async def test_the_old_address_takes_a_change_back_whatever_came_since(post):
    """Changed, changed again and a new password: the first notice still brings the account home, and the rest ends."""
    user = await post.person("alice")
    await change(post, user, "thief@example.org")
    undo = (await post.mails("alice@example.org"))[-1].token
    await spend(post, "/v1/account/address-confirmation", await post.token("thief@example.org"))
    await change(post, user, "second@example.org")
    thiefs_undo = (await post.mails("thief@example.org"))[-1].token
    await spend(post, "/v1/account/address-confirmation", await post.token("second@example.org"))
    await change(post, user, "third@example.org")
    pending = await post.token("third@example.org")
    (epoch,) = post.account(user.id, "auth_epoch")
    assert (await spend(post, "/v1/account/address-undo", undo)).status == 204
    email, verified, now = post.account(user.id, "email, email_verified_at, auth_epoch")
    assert (email, now) == ("alice@example.org", epoch + 1)
    assert verified is not None
    assert (await spend(post, "/v1/account/address-undo", thiefs_undo)).status == 410
    assert (await spend(post, "/v1/account/address-confirmation", pending)).status == 410
    assert (await spend(post, "/v1/account/address-undo", undo)).status == 410
    assert "taken back" in (await post.mails("alice@example.org"))[-1].message["Subject"]


async def test_a_change_that_waits_can_be_taken_back_too(post):
    """Then it can be confirmed no more, and sign-ins end."""
    user = await post.person("alice")
    await change(post, user, "thief@example.org")
    undo = (await post.mails("alice@example.org"))[-1].token
    confirm = await post.token("thief@example.org")
    (epoch,) = post.account(user.id, "auth_epoch")
    assert (await spend(post, "/v1/account/address-undo", undo)).status == 204
    assert post.account(user.id, "email, auth_epoch") == ("alice@example.org", epoch + 1)
    assert (await spend(post, "/v1/account/address-confirmation", confirm)).status == 410


async def test_the_way_back_is_open_for_72_hours(post):
    """By the database's clock, from when the change was asked for."""
    user = await post.person("alice")
    await change(post, user, "thief@example.org")
    hours = "round(extract(epoch FROM expires_at - created_at) / 3600)"
    assert post.query(f"SELECT {hours} FROM links WHERE purpose = 'undo-address'") == [(72,)]
    assert LIFETIMES[LinkPurpose.CONFIRM_ADDRESS].total_seconds() == 86400


async def test_that_an_address_is_taken_is_told_to_its_holder_alone(post):
    """Who asks learns nothing; the holder gets a mail; nothing can be confirmed."""
    alice = await post.person("alice")
    await post.person("bob")
    await change(post, alice, "BOB@example.org")
    await change(post, alice, "free@example.org")
    (mail,) = await post.mails("bob@example.org")
    assert "in use" in mail.message["Subject"]
    assert "alice" not in mail.text
    assert "token=" not in mail.text
    assert [mail.message["Subject"] for mail in post.server.to("alice@example.org")] == [
        "The address of your account at acme is about to change"
    ]


async def test_an_address_that_was_taken_since_is_not_confirmed(post):
    """As if the link did nothing; the account keeps its own."""
    alice = await post.person("alice")
    await change(post, alice, "shared@example.org")
    token = await post.token("shared@example.org")
    await post.person("bob", email="shared@example.org")
    assert (await spend(post, "/v1/account/address-confirmation", token)).status == 410
    assert post.account(alice.id, "email") == ("alice@example.org",)


@pytest.mark.parametrize("wanted", ["set@example.org", None])
async def test_an_address_that_an_administrator_sets_can_be_taken_back(post, wanted):
    """It is not verified and resets nothing; the one before, which was, gets a notice with a way back. So with none."""
    user = await post.person("alice")
    patch = {"email": wanted, "reason": "asked by phone"}
    headers = {"Content-Type": "application/merge-patch+json"}
    answer = await post.ask("PATCH", f"/v1/users/{user.id}", patch, key=post.keys["acme"], headers=headers)
    assert (answer.status, answer.json["email_verified_at"]) == (200, None)
    notice = (await post.mails("alice@example.org"))[-1]
    assert "An administrator" in notice.text
    assert (await spend(post, "/v1/account/address-undo", notice.token)).status == 204
    email, verified = post.account(user.id, "email, email_verified_at IS NOT NULL")
    assert (email, verified) == ("alice@example.org", True)
    assert await post.mails("set@example.org") == []


async def test_an_administrator_has_an_address_verified(post):
    """The address gets the link, the administrator nothing; unknown accounts and other tenants' are 404."""
    user = await post.person("alice", verified=False)
    path = f"/v1/users/{user.id}/verification"
    assert (await post.post(path, None, key=post.keys["acme"])).status == 202
    assert (await spend(post, "/v1/account/verification", await post.token("alice@example.org"))).status == 204
    assert (await post.post(path, None, key=post.keys["acme"])).status == 202
    assert len(await post.mails("alice@example.org")) == 1
    assert (await post.post(path, None, key=post.keys["beta"])).status == 404


async def test_people_ask_for_another_address_with_their_password(post):
    """Their own account's, proven by the present password; what the answer says is the same for a taken address."""
    password = "quiet rivers carry small stones"
    await post.post("/v1/invitations", {"email": "carol@example.org"}, key=post.keys["acme"])
    said = {"username": "carol", "password": password, "key_name": "first"}
    made = await post.post("/v1/account/invitation", {"token": await post.token("carol@example.org"), **said}, key="")
    key = (await signed_in(post.app, post.tenants["acme"], UUID(made.json["user"]["id"]))).token
    await post.person("bob")

    async def asked(email: str, given: str = password):
        return await post.post("/v1/users/me/email", {"email": email, "current_password": given}, key=key)

    for no_session in (post.keys["acme"], made.json["key"]["token"]):
        said = {"email": "x@example.org", "current_password": password}
        assert (await post.post("/v1/users/me/email", said, key=no_session)).problem == "interactive-only"
    assert (await asked("new@example.org", "not the password at all")).problem == "wrong-password"
    taken, free = await asked("bob@example.org"), await asked("new@example.org")
    assert (await asked("no address")).status == 400
    assert (taken.status, taken.body) == (free.status, free.body) == (202, b'{"status": "accepted"}')
    assert (await spend(post, "/v1/account/address-confirmation", await post.token("new@example.org"))).status == 204
    assert post.account(UUID(made.json["user"]["id"]), "email") == ("new@example.org",)


async def test_links_lead_to_the_configured_address_whatever_a_request_says(post):
    """A `Host` header of the attacker's reaches no mail."""
    user = await post.person("alice", verified=False)
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    await post.post("/v1/account/verification", {"token": "x"}, key="", headers=headers)
    await ask_to_verify(post.flows, post.tenants["acme"], user.id, meta=META)
    (mail,) = await post.mails("alice@example.org")
    assert mail.link.startswith("http://127.0.0.1:8080/account/verify?token=")
    assert "evil" not in mail.message.as_string()


async def test_only_hashes_of_tokens_are_stored(post):
    """Who reads the database, audit and queue included, can spend nothing."""
    _, token = await verification(post)
    stored = repr([post.query(f"SELECT * FROM {table}") for table in ("links", "mails", "audit_events", "changes")])
    assert token not in stored
    assert hash_link_token(token).hex() in stored.replace("\\x", "") or repr(hash_link_token(token)) in stored


async def test_one_address_cannot_go_on_trying(post):
    """After so many attempts 429 with a time to wait, before the link is looked at, good or not."""
    _, token = await verification(post)
    answers = [await spend(post, "/v1/account/verification", secrets.token_urlsafe(32)) for _ in range(61)]
    assert [answer.status for answer in answers] == [410] * 60 + [429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 600
    assert (await spend(post, "/v1/account/verification", token)).status == 429
    post.execute("UPDATE throttles SET ends_at = clock_timestamp()")
    assert (await spend(post, "/v1/account/verification", token)).status == 204


async def test_tries_of_a_flood_are_counted_exactly(post):
    """Two hundred at once are judged no more often than the limit says."""
    answers = await asyncio.gather(
        *(spend(post, "/v1/account/verification", secrets.token_urlsafe(32)) for _ in range(100))
    )
    assert sorted(answer.status for answer in answers) == [410] * 60 + [429] * 40


@pytest.mark.parametrize("path", SPENDING)
async def test_only_json_and_only_what_is_known_is_read(post, path):
    """Forms, text, unknown and repeated members: 400, and nothing is spent."""
    token = json.dumps(secrets.token_urlsafe(32))
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        answer = await post.post(
            path, b'{"token": %s}' % token.encode(), key="", headers={"Content-Type": content_type}
        )
        assert answer.status == 400
    for body in (b"{}", b'{"token": 1}', b'{"token": "a", "token": "b"}', b'{"token": "a", "user": "b"}', b"[]"):
        assert (await post.post(path, body, key="")).status == 400


async def test_giving_an_address_away_does_not_keep_it_from_being_taken_back(post):
    """To an account that never proved it; that one is left without an address, and the audit says so."""
    user = await post.person("alice")
    key = post.keys["acme"]
    body = {"email": "other@example.org", "reason": "mine now"}
    assert (await post.ask("PATCH", f"/v1/users/{user.id}", body, key=key)).status == 200
    token = await post.token("alice@example.org")
    squatter = await post.post("/v1/users", {"username": "squatter", "email": "Alice@example.org"}, key=key)
    assert squatter.status == 201
    assert (await spend(post, "/v1/account/address-undo", token)).status == 204
    assert post.account(user.id, "email, email_verified_at IS NOT NULL") == ("alice@example.org", True)
    assert post.account(UUID(squatter.json["id"]), "email, email_verified_at, auth_epoch") == (None, None, 2)
    told = post.query("SELECT event->>'action', event->>'target' FROM audit_events ORDER BY seq DESC LIMIT 2")
    assert told == [("user.update", squatter.json["subject"]), ("user.address_undo", f"user:{user.id}")]


async def test_an_address_that_its_holder_proved_since_is_not_taken_from_them(post):
    """Who reads its mails has it in another account, and keeps it there."""
    user = await post.person("alice")
    body = {"email": "other@example.org", "reason": "x"}
    assert (await post.ask("PATCH", f"/v1/users/{user.id}", body, key=post.keys["acme"])).status == 200
    token = await post.token("alice@example.org")
    other = await post.person("alice-again", email="alice@example.org")
    assert (await spend(post, "/v1/account/address-undo", token)).status == 410
    assert post.account(other.id, "email, email_verified_at IS NOT NULL") == ("alice@example.org", True)


async def test_who_asks_for_another_address_waits_for_whoever_confirms_one(post):
    """They lock in one order: neither fails, however they meet."""
    user = await post.person("alice")
    await change(post, user, "first@example.org")
    ((change_id,),) = post.query("SELECT change_id FROM address_changes")
    async with tenant_unit_of_work(post.app[SESSIONS], post.tenants["acme"]) as work:
        # As `confirm_address` does, stopped half way.
        await lock_active(work)
        assert await confirm_change(work, change_id) is not None
        asking = asyncio.create_task(change(post, user, "second@example.org"))
        async with asyncio.timeout(60):
            while not post.query("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - PostgreSQL changes
                await asyncio.sleep(0.02)
        await set_email(work, user.id, normalize_email("first@example.org"), verified_at=None)
    await asking
    assert post.query("SELECT new_email FROM address_changes WHERE state = 'pending'") == [("second@example.org",)]


async def test_an_account_cannot_flood_addresses_of_others(post):
    """Each request mails to an address of the asker's choice: so many an hour, then none is sent."""
    user = await post.person("alice")
    for number in range(ACCOUNT_LIMIT.most):
        await change(post, user, f"victim+{number}@example.net")
    wait = await ask_to_change_address(
        post.flows, post.tenants["acme"], user.id, normalize_email("victim@example.net"), meta=META
    )
    assert wait is not None
    assert await post.mails("victim@example.net") == []
    other = await post.person("bob")
    await change(post, other, "bob2@example.net")
    assert len(await post.mails("bob2@example.net")) == 1
