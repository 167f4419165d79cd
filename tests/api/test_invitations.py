"""Invitations over HTTP, with real mails: from the administrator's word to the account, and every way that must fail."""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from service.keys import NEW_PASSWORDS
from tests.support.administration import link, rule
from tests.support.people import PostOffice

pytestmark = pytest.mark.integration

PATH = "/v1/invitations"
ACCEPT = "/v1/account/invitation"
GOOD = "quiet rivers carry small stones"


async def invite(post: PostOffice, email: str = "carol@example.org", *, key: str | None = None, **more):
    """Invite somebody into `acme`."""
    return await post.post(PATH, {"email": email} | more, key=key or post.keys["acme"])


async def accept(post: PostOffice, token: str, username: str = "carol", password: str = GOOD, **more):
    """Make the account."""
    return await post.post(ACCEPT, {"token": token, "username": username, "password": password} | more, key="")


async def test_an_invited_person_gets_an_account_with_roles_by_mail(post):
    """Invite, mail, accept: verified address, roles that decide at once, a welcome, the whole story in the audit."""
    await post.post("/v1/tenants/acme/rules", {"add": [rule("role:editor", "doc:*", "write")]}, key=post.keys["acme"])
    made = await invite(post, roles=["role:editor", "group:staff"], display_name="Carol Example", reason="new hire")
    assert made.status == 201
    assert made.headers["Location"] == f"{PATH}/{made.json['id']}"
    token = await post.token("carol@example.org")
    assert token not in made.body.decode()
    answer = await accept(post, token)
    assert answer.status == 201
    user_id = answer.json["user"]["id"]
    user = {
        "id": made.json["user_id"],
        "subject": f"user:{user_id}",
        "username": "carol",
        "email": "carol@example.org",
        "display_name": "Carol Example",
    }
    assert len(answer.json["enrolment_ticket"].pop("token")) == 43
    assert answer.json | {"enrolment_ticket": None} == {"user": user, "key": None, "enrolment_ticket": None}
    assert await post.allowed(post.keys["acme"], f"user:{user_id}", "write", "doc:1")
    verified, by, count = post.account(
        UUID(user_id),
        "email_verified_at IS NOT NULL, password_set_by, (SELECT users_count FROM tenants WHERE slug = 'acme')",
    )
    assert (verified, by, count) == (True, "user", 1)
    shown = (await post.get(f"{PATH}/{made.json['id']}", key=post.keys["acme"])).json
    assert (shown["status"], shown["email"], shown["display_name"]) == ("accepted", None, None)
    assert (await post.mails("carol@example.org"))[-1].message["Subject"] == "Your account at acme is ready"
    story = post.query("SELECT event->>'action', event->>'actor', event->>'reason' FROM audit_events ORDER BY at, seq")
    assert story[-1][:2] == ("invitation.accept", f"user:{user_id}")
    assert ("invitation.create", "new hire") in {(action, reason) for action, _, reason in story}
    assert "carol" not in repr(post.query("SELECT event::text FROM audit_events"))


async def test_a_first_personal_key_comes_with_the_account(post):
    """Until people can sign in, they act through it; it does what they may."""
    made = await invite(post)
    answer = await accept(post, await post.token("carol@example.org"), key_name="first")
    token = answer.json["key"]["token"]
    me = await post.get("/v1/users/me", key=token)
    assert (me.status, me.json["id"]) == (200, made.json["user_id"])
    assert (await post.get("/v1/users", key=token)).status == 403


async def test_an_invitation_lasts_by_the_database_whatever_a_node_believes(post, monkeypatch):
    """A node whose clock is months ahead takes it, and the first key lives for thirty days from now."""
    await invite(post)
    token = await post.token("carol@example.org")

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + timedelta(days=90)

    monkeypatch.setattr("authn.accept_invitation.datetime", Ahead)
    answer = await accept(post, token, key_name="first")
    assert answer.status == 201, answer.body
    left = datetime.fromisoformat(answer.json["key"]["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


async def test_an_invitation_works_once(post):
    """Twenty at once: one account; afterwards the link does nothing."""
    await invite(post)
    token = await post.token("carol@example.org")
    answers = await asyncio.gather(*(accept(post, token, f"carol{number}") for number in range(12)))
    statuses = [answer.status for answer in answers]
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 410, 429, 503}
    assert post.query("SELECT count(*) FROM users") == [(1,)]
    assert (await accept(post, token, "other")).status == 410


async def test_address_and_roles_are_the_invitations(post):
    """Whoever accepts cannot say another address, role, tenant or state."""
    await invite(post)
    token = await post.token("carol@example.org")
    for more in (
        {"email": "eve@evil.example"},
        {"roles": ["role:admin"]},
        {"tenant": "beta"},
        {"email_verified_at": "2026-01-01T00:00:00Z"},
        {"mfa_required": False},
        {"id": str(UUID(int=1))},
    ):
        assert (await accept(post, token, **more)).status == 400, more
    answer = await post.post(
        ACCEPT, {"token": token, "username": "carol", "password": GOOD}, key="", headers={"X-Tenant-ID": "beta"}
    )
    assert answer.status == 410
    assert (await accept(post, token)).status == 201
    assert post.query("SELECT slug FROM users JOIN tenants USING (tenant_id)") == [("acme",)]


async def test_what_is_refused_of_a_person_spends_nothing(post):
    """A taken or bad name, a weak password: told, and tried again with the same link."""
    await post.person("carol", email="other@example.org")
    await invite(post)
    token = await post.token("carol@example.org")
    for username, password, status, problem in (
        ("carol", GOOD, 409, "username-taken"),
        ("CAROL", GOOD, 409, "username-taken"),
        ("a@b", GOOD, 400, "invalid-username"),
        ("", GOOD, 400, "invalid-username"),
        ("carol2", "short", 422, "password-refused"),
        ("carol2", "carol2 carol2 carol2", 422, "password-refused"),
    ):
        answer = await accept(post, token, username, password)
        assert (answer.status, answer.problem) == (status, problem), (username, answer.body)
    assert (await accept(post, token, "carol2")).status == 201


async def test_a_revoked_expired_or_renewed_invitation_does_nothing(post):
    """The old link is dead, the new one of a renewed invitation works."""
    key = post.keys["acme"]
    made = (await invite(post)).json
    token = await post.token("carol@example.org")
    assert (await post.ask("DELETE", f"{PATH}/{made['id']}", key=key)).status == 204
    assert (await accept(post, token)).status == 410
    assert (await post.ask("DELETE", f"{PATH}/{made['id']}", key=key)).status == 204
    assert (await post.post(f"{PATH}/{made['id']}/resend", None, key=key)).status == 404
    made = (await invite(post)).json
    first = await post.token("carol@example.org")
    assert (await post.post(f"{PATH}/{made['id']}/resend", None, key=key)).status == 200
    second = await post.token("carol@example.org")
    assert (await accept(post, first)).status == 410
    post.execute("UPDATE invitations SET expires_at = clock_timestamp()")
    assert (await accept(post, second)).status == 410
    assert (await post.get(f"{PATH}/{made['id']}", key=key)).json["status"] == "expired"
    assert (await post.post(f"{PATH}/{made['id']}/resend", None, key=key)).status == 200
    third = await post.token("carol@example.org")
    days = "round(extract(epoch FROM expires_at - clock_timestamp()) / 86400)"
    assert post.query(f"SELECT {days} FROM invitations WHERE revoked_at IS NULL") == [(7,)]
    assert (await accept(post, third)).status == 201


async def test_a_new_invitation_takes_the_place_of_earlier_ones(post):
    """One address, one open invitation: only the last link works."""
    await invite(post, roles=["role:a"])
    first = await post.token("carol@example.org")
    await invite(post, "CAROL@example.org", roles=["role:b"])
    second = (await post.mails("CAROL@example.org"))[-1].token
    listed = (await post.get(PATH, key=post.keys["acme"])).json["invitations"]
    assert [entry["status"] for entry in listed] == ["revoked", "pending"]
    assert (await accept(post, first)).status == 410
    assert (await accept(post, second)).status == 201


async def test_that_an_address_has_an_account_is_told_to_that_address_alone(post):
    """The inviter's answer is that of any invitation; the holder is told, without a link that makes an account."""
    await post.person("alice")
    taken, free = await invite(post, "ALICE@example.org"), await invite(post, "free@example.org")
    assert taken.status == free.status == 201
    assert {name for name, value in taken.json.items() if value is None} == {
        name for name, value in free.json.items() if value is None
    }
    (mail,) = await post.mails("alice@example.org")
    assert "alice" in mail.text
    assert "token=" not in mail.text
    assert mail.link.endswith("/account/password-reset-request?tenant=acme")


async def test_an_address_that_was_taken_since_makes_no_second_account(post):
    """As if the link did nothing."""
    await invite(post)
    token = await post.token("carol@example.org")
    await post.person("other", email="carol@example.org")
    assert (await accept(post, token)).status == 410
    assert post.query("SELECT count(*) FROM users") == [(1,)]


async def give_base_roles(post: PostOffice) -> None:
    """Write what every tenant starts with, as far as these tests need it."""
    rules = [
        rule("role:user-admin", "kasbah:invitation", "*"),
        rule("role:user-admin", "kasbah:user", "*"),
        rule("role:user-admin", "kasbah:role/*", "grant"),
        rule("role:user-admin", "kasbah:group/*", "grant"),
        rule("role:tenant-admin", "kasbah:key", "write"),
        rule("role:policy-author", "kasbah:rule", "write"),
        rule("role:member", "kasbah:tenant", "read"),
    ]
    links = [link("role:tenant-admin", "role:user-admin")]
    answer = await post.post("/v1/tenants/_base/rules", {"add": [*rules, *links]})
    assert answer.status == 200, answer.body


async def person_with_key(post: PostOffice, username: str, *roles: str) -> tuple[UUID, str]:
    """Return an account with roles, and its personal key."""
    made = await post.post(PATH, {"email": f"{username}@example.org", "roles": list(roles)}, key=post.keys["acme"])
    assert made.status == 201, made.body
    answer = await accept(post, await post.token(f"{username}@example.org"), username, key_name="first")
    assert answer.status == 201, answer.body
    return UUID(answer.json["user"]["id"]), answer.json["key"]["token"]


async def test_nobody_invites_with_roles_that_they_may_not_grant(post):
    """An administrator of users gives ordinary roles, but none with more administrative rights than their own."""
    await give_base_roles(post)
    _, key = await person_with_key(post, "uma", "role:user-admin")
    assert (await invite(post, roles=["role:editor"], key=key)).status == 201
    for role in ("role:tenant-admin", "role:policy-author"):
        answer = await invite(post, f"x{secrets.token_hex(3)}@example.org", roles=[role], key=key)
        assert answer.status == 403, (role, answer.body)
    for role, status in (
        ("role:platform-admin", 422),
        ("user:alice", 422),
        ("editor", 422),
        ("role:", 422),
        ("role:*", 422),
    ):
        answer = await invite(post, roles=[role])
        assert answer.status == status, (role, answer.body)
    assert (await invite(post, roles=["role:a", "role:a"])).status == 400
    _, member = await person_with_key(post, "max", "role:member")
    assert (await invite(post, key=member)).status == 403
    assert (await post.get(PATH, key=member)).status == 403


@pytest.mark.parametrize("how", ["role", "disabled", "deleted"])
async def test_an_invitation_ends_with_the_inviters_rights(post, how):
    """Asked again at acceptance: without the right, or the inviter, no account is made; with it again, it is."""
    await give_base_roles(post)
    uma, key = await person_with_key(post, "uma", "role:user-admin")
    await invite(post, roles=["role:editor"], key=key)
    token = await post.token("carol@example.org")
    if how == "role":
        row = link(f"user:{uma}", "role:user-admin")
        gone = await post.post("/v1/tenants/acme/memberships", {"remove": [row]}, key=post.keys["acme"])
        assert gone.json["removed"] == 1
    elif how == "disabled":
        await post.post(f"/v1/users/{uma}/disable", {"reason": "left"}, key=post.keys["acme"])
    else:
        await post.ask("DELETE", f"/v1/users/{uma}?reason=left", key=post.keys["acme"])
    answer = await accept(post, token)
    assert (answer.status, answer.problem) == (409, "grant-lapsed")
    assert post.query("SELECT count(*) FROM users WHERE username = 'carol'") == [(0,)]
    assert post.query(
        "SELECT event->'detail'->>'reason' FROM audit_events WHERE event->>'outcome' = 'refused' "
        "AND event->>'action' = 'invitation.accept'"
    ) == [("inviter_may_not_grant",)]
    if how == "disabled":
        await post.post(f"/v1/users/{uma}/enable", {"reason": "back"}, key=post.keys["acme"])
        assert (await accept(post, token)).status == 201


async def test_an_inviter_who_loses_the_right_while_a_password_is_hashed_grants_nothing(post, monkeypatch):
    """That takes long, and whoever took the right away was told that it is gone."""
    await give_base_roles(post)
    uma, key = await person_with_key(post, "uma", "role:user-admin")
    await invite(post, roles=["role:editor"], key=key)
    token = await post.token("carol@example.org")
    passwords = post.app[NEW_PASSWORDS]
    choose = passwords.choose

    async def slow(*arguments, **more):
        chosen = await choose(*arguments, **more)
        row = link(f"user:{uma}", "role:user-admin")
        gone = await post.post("/v1/tenants/acme/memberships", {"remove": [row]}, key=post.keys["acme"])
        assert gone.json["removed"] == 1
        return chosen

    monkeypatch.setattr(passwords, "choose", slow)
    answer = await accept(post, token)
    assert (answer.status, answer.problem) == (409, "grant-lapsed")
    assert post.query("SELECT count(*) FROM users WHERE username = 'carol'") == [(0,)]


async def test_an_invitation_of_a_service_ends_with_its_key(post):
    """A revoked key grants nothing any more."""
    made = await post.post(
        "/v1/tenants/acme/keys", {"name": "hr", "scopes": ["invitation:write", "policy:write"]}, key=post.platform
    )
    assert (await invite(post, key=made.json["token"], roles=["role:editor"])).status == 201
    token = await post.token("carol@example.org")
    await post.ask("DELETE", f"/v1/tenants/acme/keys/{made.json['id']}", key=post.platform)
    assert (await accept(post, token)).problem == "grant-lapsed"


async def test_another_tenants_invitations_are_unknown(post):
    """Ids of another tenant are 404, lists are one's own, cursors do not cross."""
    made = (await invite(post)).json
    other = post.keys["beta"]
    assert (await post.get(PATH, key=other)).json["invitations"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/resend")):
        ours = await post.ask(method, f"{PATH}/{made['id']}{path}", key=other)
        unknown = await post.ask(method, f"{PATH}/{UUID(int=7)}{path}", key=other)
        assert (ours.status, ours.body) == (unknown.status, unknown.body)
        assert ours.status == 404
    assert (await post.get(f"{PATH}?limit=1", key=post.keys["acme"])).json["next_cursor"] is None
    await invite(post, "dave@example.org")
    cursor = (await post.get(f"{PATH}?limit=1", key=post.keys["acme"])).json["next_cursor"]
    page = await post.get(f"{PATH}?limit=1&cursor={cursor}", key=post.keys["acme"])
    assert [entry["email"] for entry in page.json["invitations"]] == ["dave@example.org"]
    assert (await post.get(f"{PATH}?cursor={cursor}", key=other)).status == 400


async def test_a_repeated_request_invites_once(post):
    """One `Idempotency-Key`, one invitation, one mail, one answer."""
    headers = {"Idempotency-Key": "hire-7"}
    body = {"email": "carol@example.org"}
    answers = [await post.post(PATH, body, key=post.keys["acme"], headers=headers) for _ in range(3)]
    assert len({answer.body for answer in answers}) == 1
    assert len(await post.mails("carol@example.org")) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"email": "carol@example.org\r\nBcc: eve@evil.example"},
        {"email": "carol@example.org", "display_name": "Carol\r\nBcc: eve@evil.example"},
        {"email": "carol@example.org", "display_name": "\u202e"},
        {"email": "Carol <carol@example.org>"},
        {"email": "a@b.example, c@d.example"},
        {"email": ""},
        {"email": 7},
        {"email": "carol@example.org", "tenant": "beta"},
        {"email": "carol@example.org", "expires_at": "2099-01-01T00:00:00Z"},
        {},
    ],
)
async def test_a_bad_invitation_is_refused(post, body):
    """No header, second recipient or unknown member comes through."""
    answer = await post.post(PATH, body, key=post.keys["acme"])
    assert answer.status == 400
    assert post.query("SELECT (SELECT count(*) FROM invitations), (SELECT count(*) FROM mails)") == [(0, 0)]


async def test_who_was_invited_is_forgotten_long_after(post):
    """30 days after the end; the next invitation of the tenant does it, and what the audit sealed opens no more."""
    made = (await invite(post)).json
    await post.ask("DELETE", f"{PATH}/{made['id']}", key=post.keys["acme"])
    post.execute("UPDATE invitations SET revoked_at = clock_timestamp() - interval '31 days'")
    await invite(post, "dave@example.org")
    shown = (await post.get(f"{PATH}/{made['id']}", key=post.keys["acme"])).json
    assert (shown["email"], shown["status"]) == (None, "revoked")
    assert post.query("SELECT wrapped FROM subject_keys WHERE subject_id = %s", UUID(made["user_id"])) == [(None,)]


async def test_a_suspended_tenants_invitations_rest(post):
    """They do nothing while it is suspended, and work when it is active again."""
    await invite(post)
    token = await post.token("carol@example.org")
    post.execute("UPDATE tenants SET status = 'suspended' WHERE slug = 'acme'")
    assert (await accept(post, token)).status == 410
    post.execute("UPDATE tenants SET status = 'active' WHERE slug = 'acme'")
    assert (await accept(post, token)).status == 201


async def test_there_is_no_self_registration(post):
    """Nothing without an invitation makes an account."""
    for token in (secrets.token_urlsafe(32), "", "null"):
        assert (await accept(post, token)).status == 410
    assert (await post.post("/v1/users", {"username": "eve"}, key="")).status == 401


async def test_roles_that_the_account_was_granted_before_it_was_made_stay(post):
    """Its id is known from the invitation on; what both say is there once, and counted once."""
    made = await invite(post, roles=["role:editor", "role:reader"])
    subject = f"user:{made.json['user_id']}"
    row = {"add": [link(subject, "role:editor")]}
    assert (await post.post("/v1/tenants/acme/memberships", row, key=post.keys["acme"])).status == 200
    assert (await accept(post, await post.token("carol@example.org"))).status == 201
    rows = post.query("SELECT role FROM memberships WHERE subject = %s ORDER BY role", subject)
    assert rows == [("role:editor",), ("role:reader",)]
    assert post.query("SELECT memberships_count FROM tenants WHERE slug = 'acme'") == [(2,)]
