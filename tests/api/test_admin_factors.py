"""Administrators look at, revoke and reset the second factors of others: what that takes, ends, and never makes easier."""

import asyncio
import json
from datetime import timedelta

import pytest
from click.testing import CliRunner

from authn.change_address import ask_to_change_address
from authn.factor_storage import read_factors
from authn.mailbox_proofs import MailboxGiven, MailboxProven, MailboxWrong, prove_mailbox
from authn.recovery_code_storage import renew_codes
from authn.sessions import Acr
from authn.user_rows import lock_user
from authn.users import normalize_email
from service.cli.root import root
from service.keys import KEY_RING, SESSIONS
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.administration import META
from tests.support.factors import bind_phone
from tests.support.people import PostOffice
from tests.support.sessions import signed_in

pytestmark = pytest.mark.integration

WHY = {"reason": "phone lost, known by voice"}


def path(user) -> str:
    return f"/v1/users/{user.id}/factors"


async def bound(post: PostOffice, name: str, **more):
    """Return an account with a phone and recovery codes, as one that enrolled has them."""
    user = await post.person(name, **more)
    phone = await bind_phone(post.app[SESSIONS], post.app[KEY_RING], user.tenant_id, user.id)
    post.execute("UPDATE users SET factors_bound_at = now() WHERE user_id = %s", user.id)
    async with tenant_unit_of_work(post.app[SESSIONS], user.tenant_id) as work:
        await renew_codes(work, user.id)
    return user, phone


async def factors_of(post: PostOffice, user):
    async with tenant_unit_of_work(post.app[SESSIONS], user.tenant_id) as work:
        return await read_factors(work, user.id)


async def test_a_reset_ends_everything_and_mails_a_ticket(post: PostOffice):
    """Authenticators, codes and sessions are gone at once; the ticket goes to the person, in no answer and no audit."""
    alice, _ = await bound(post, "alice")
    session = await signed_in(post.app, alice.tenant_id, alice.id, Acr.AAL2)
    answer = await post.post(f"{path(alice)}/reset", WHY, key=post.keys["acme"])
    assert (answer.status, answer.json) == (202, {"status": "accepted"})
    assert (await post.get("/v1/users/me", key=session.token)).status == 401
    shown = (await post.get(path(alice), key=post.keys["acme"])).json
    assert shown == {"factors": [], "methods": [], "recovery_codes_left": 0, "enrolment_demanded": True}
    mail = (await post.mails("alice@example.org"))[-1]
    ticket = next(line for line in mail.text.split() if len(line) == 43)
    stored = post.query("SELECT event::text FROM audit_events") + post.query("SELECT changes::text FROM changes")
    assert ticket not in str(stored)
    (event,) = (json.loads(row[0]) for row in stored if '"factor.reset"' in str(row[0]))
    assert (event["target"], event["reason"]) == (alice.ref, WHY["reason"])
    async with tenant_unit_of_work(post.app[SESSIONS], alice.tenant_id) as work:
        held = await lock_user(work, alice.id)
        factors = await read_factors(work, alice.id)
        proven = await prove_mailbox(work, post.app[KEY_RING], held, factors, MailboxGiven(ticket=ticket))
    assert isinstance(proven, MailboxProven)


async def test_after_a_reset_nothing_but_the_ticket_enrols(post: PostOffice):
    """Not the mailed code, not an invitation's ticket, not another account's; not a ticket whose account changed."""
    alice, _ = await bound(post, "alice")
    bob, _ = await bound(post, "bob")
    tickets = {}
    for user in (alice, bob):
        assert (await post.post(f"{path(user)}/reset", WHY, key=post.keys["acme"])).status == 202
        mail = (await post.mails(user.email))[-1]
        tickets[user.id] = next(line for line in mail.text.split() if len(line) == 43)
    ring = post.app[KEY_RING]
    async with tenant_unit_of_work(post.app[SESSIONS], alice.tenant_id) as work:
        held, factors = await lock_user(work, alice.id), await read_factors(work, alice.id)
        for given in (
            MailboxGiven(code="12345678"),
            MailboxGiven(ticket=tickets[bob.id]),
            MailboxGiven(ticket="A" * 43),
            MailboxGiven(),
        ):
            for with_session in (False, True):
                outcome = await prove_mailbox(work, ring, held, factors, given, signed_in=with_session)
                assert outcome == MailboxWrong()
    post.execute("UPDATE users SET auth_epoch = auth_epoch + 1 WHERE user_id = %s", alice.id)
    async with tenant_unit_of_work(post.app[SESSIONS], alice.tenant_id) as work:
        held, factors = await lock_user(work, alice.id), await read_factors(work, alice.id)
        outcome = await prove_mailbox(work, ring, held, factors, MailboxGiven(ticket=tickets[alice.id]))
        assert outcome == MailboxWrong()


async def test_password_and_factors_are_never_both_reset_within_a_day(post: PostOffice):
    """Whichever comes first: the other one is refused for a day, to administrators and to mailed links alike."""
    alice, _ = await bound(post, "alice")
    bob, _ = await bound(post, "bob")
    post.execute("UPDATE users SET password_reset_at = now() - interval '23 hours' WHERE user_id = %s", alice.id)
    answer = await post.post(f"{path(alice)}/reset", WHY, key=post.keys["acme"])
    assert (answer.status, answer.problem) == (409, "reset-not-possible")
    assert (await factors_of(post, alice)).enrolled
    post.execute("UPDATE users SET password_reset_at = now() - interval '25 hours' WHERE user_id = %s", alice.id)
    assert (await post.post(f"{path(alice)}/reset", WHY, key=post.keys["acme"])).status == 202
    asked = {"identifier": "bob"}
    await post.post("/v1/account/password-reset-request", asked, key="", headers={"X-Tenant-ID": "acme"})
    link = await post.token("bob@example.org")
    assert (await post.post(f"{path(bob)}/reset", WHY, key=post.keys["acme"])).status == 202
    spent = {"token": link, "password": "quiet rivers carry small stones"}
    assert (await post.post("/v1/account/password-reset", spent, key="")).status == 410
    started = await post.post(f"/v1/users/{bob.id}/password-reset", WHY, key=post.keys["acme"])
    assert (started.status, started.problem) == (409, "reset-not-possible")


async def test_no_ticket_goes_to_an_address_that_can_be_taken_back(post: PostOffice):
    """For 72 hours after its person changed it; or until the old one's holder took it back."""
    alice, _ = await bound(post, "alice")
    new = normalize_email("mallory@example.org")
    await ask_to_change_address(post.flows, post.tenants["acme"], alice.id, new, meta=META)
    link = {"token": await post.token("mallory@example.org")}
    assert (await post.post("/v1/account/address-confirmation", link, key="")).status == 204
    answer = await post.post(f"{path(alice)}/reset", WHY, key=post.keys["acme"])
    assert (answer.status, answer.problem) == (409, "reset-not-possible")
    assert (await factors_of(post, alice)).enrolled
    post.execute("UPDATE address_changes SET created_at = created_at - interval '73 hours'")
    assert (await post.post(f"{path(alice)}/reset", WHY, key=post.keys["acme"])).status == 202


async def test_a_reset_of_the_password_leaves_the_factors(post: PostOffice):
    """By mail, whoever asked for it: authenticators and codes stay, and are asked for as before."""
    alice, phone = await bound(post, "alice")
    asked = {"identifier": "alice"}
    await post.post("/v1/account/password-reset-request", asked, key="", headers={"X-Tenant-ID": "acme"})
    spent = {"token": await post.token("alice@example.org"), "password": "quiet rivers carry small stones"}
    assert (await post.post("/v1/account/password-reset", spent, key="")).status == 204
    factors = await factors_of(post, alice)
    assert (factors.enrolled, factors.enrolment_demanded, factors.recovery_codes_left) == (True, False, 10)
    shown = (await post.get(path(alice), key=post.keys["acme"])).json
    assert [one["id"] for one in shown["factors"]] == [str(phone.id)]


async def test_what_cannot_be_reset_says_why(post: PostOffice):
    """No factor ever, no verified address, disabled, too often, no reason, nobody; and nothing changes by it."""
    nobody = await post.person("nobody")
    unverified, _ = await bound(post, "bob", verified=False)
    disabled, _ = await bound(post, "carol")
    post.execute("UPDATE users SET status = 'disabled' WHERE user_id = %s", disabled.id)
    for user in (nobody, unverified, disabled):
        answer = await post.post(f"{path(user)}/reset", WHY, key=post.keys["acme"])
        assert (answer.status, answer.problem) == (409, "reset-not-possible"), user.username
    assert (await factors_of(post, unverified)).enrolled
    alice, _ = await bound(post, "alice")
    answers = [await post.post(f"{path(alice)}/reset", WHY, key=post.keys["acme"]) for _ in range(4)]
    assert [answer.status for answer in answers] == [202, 202, 202, 409]
    assert (await post.post(f"{path(alice)}/reset", {"reason": " "}, key=post.keys["acme"])).status == 400
    for user_id in ("nonsense", str(nobody.tenant_id)):
        assert (await post.post(f"/v1/users/{user_id}/factors/reset", WHY, key=post.keys["acme"])).status == 404
        assert (await post.get(f"/v1/users/{user_id}/factors", key=post.keys["acme"])).status == 404


async def test_one_lost_phone_is_revoked_at_once(post: PostOffice):
    """The other one goes on; with the last one the codes go, and the password is still not enough."""
    alice, lost = await bound(post, "alice")
    kept = await bind_phone(post.app[SESSIONS], post.app[KEY_RING], alice.tenant_id, alice.id, "tablet")
    session = await signed_in(post.app, alice.tenant_id, alice.id, Acr.AAL2)
    answer = await post.ask("DELETE", f"{path(alice)}/{lost.id}?reason=lost", key=post.keys["acme"])
    assert answer.status == 204
    assert (await post.get("/v1/users/me", key=session.token)).status == 401
    shown = (await post.get(path(alice), key=post.keys["acme"])).json
    assert [one["id"] for one in shown["factors"]] == [str(kept.id)]
    assert (shown["recovery_codes_left"], shown["enrolment_demanded"]) == (10, False)
    assert (await post.ask("DELETE", f"{path(alice)}/{lost.id}?reason=lost", key=post.keys["acme"])).status == 404
    assert (await post.ask("DELETE", f"{path(alice)}/{kept.id}", key=post.keys["acme"])).status == 400
    assert (await post.ask("DELETE", f"{path(alice)}/{kept.id}?reason=lost", key=post.keys["acme"])).status == 204
    shown = (await post.get(path(alice), key=post.keys["acme"])).json
    assert (shown["recovery_codes_left"], shown["enrolment_demanded"]) == (0, True)
    assert (await post.mails("alice@example.org"))[-1].message["Subject"] == "How you sign in to acme was changed"


async def test_another_tenants_accounts_have_no_factors_here(post: PostOffice):
    """404 for their ids, as for ids of nobody; nothing happens to them."""
    alice, phone = await bound(post, "alice")
    for method, where, body in (
        ("GET", path(alice), None),
        ("POST", f"{path(alice)}/reset", WHY),
        ("DELETE", f"{path(alice)}/{phone.id}?reason=x", None),
    ):
        assert (await post.ask(method, where, body, key=post.keys["beta"])).status == 404
    assert (await factors_of(post, alice)).enrolled
    bob, _ = await bound(post, "bob", tenant="beta")
    answer = await post.ask("DELETE", f"{path(bob)}/{phone.id}?reason=x", key=post.keys["beta"])
    assert answer.status == 404


async def test_a_session_resets_only_when_it_is_fresh(post: PostOffice):
    """Five minutes; an administrator's key is bounded by its scopes instead."""
    alice, _ = await bound(post, "alice")
    boss = await post.person("boss")
    grant = {"add": [{"type": "link", "member": boss.ref, "role": "role:user-admin"}]}
    assert (await post.post("/v1/tenants/acme/memberships", grant, key=post.keys["acme"])).status == 200
    old = await signed_in(post.app, boss.tenant_id, boss.id, ago=timedelta(minutes=6))
    for answer in (
        await post.post(f"{path(alice)}/reset", WHY, key=old.token),
        await post.ask("DELETE", f"{path(alice)}/{alice.id}?reason=x", key=old.token),
    ):
        assert answer.status in {401, 403}
    assert (await factors_of(post, alice)).enrolled


async def test_the_command_line_does_the_same(post: PostOffice, monkeypatch, tmp_path):
    """List, revoke, reset; by name, with a reason."""
    monkeypatch.chdir(tmp_path)
    _, phone = await bound(post, "alice")

    async def run(*arguments: str):
        environment = {"KASBAH_URL": post.url, "KASBAH_API_KEY": post.keys["acme"]}
        return await asyncio.to_thread(CliRunner().invoke, root, ["user", *arguments], env=environment)

    listed = await run("factors", "alice")
    assert (str(phone.id) in listed.stdout, "recovery codes left: 10" in listed.stdout) == (True, True), listed.output
    assert (await run("revoke-factor", "alice", str(phone.id))).exit_code == 2
    for unasked in (("revoke-factor", "alice", str(phone.id)), ("reset-factors", "alice")):
        refused = await run(*unasked, "--reason", "lost")
        assert (refused.exit_code, "use --yes" in refused.stderr) == (2, True)
    assert str(phone.id) in (await run("factors", "alice")).stdout
    revoked = await run("revoke-factor", "alice", str(phone.id), "--reason", "lost", "--yes")
    assert (revoked.exit_code, revoked.stdout.splitlines()[0]) == (0, f"revoked {phone.id}"), revoked.output
    for said in (revoked.stdout, (await run("factors", "alice")).stdout):
        assert "`kasbah user reset-factors` mails a ticket" in said
    assert (await run("reset-factors", "alice", "--reason", "lost", "--yes")).exit_code == 0
    assert (await run("reset-factors", "nobody", "--reason", "lost", "--yes")).exit_code == 5
    assert len(await post.mails("alice@example.org")) == 2
