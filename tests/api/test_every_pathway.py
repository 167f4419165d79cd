"""Every pathway to a session, gone by accounts that must prove a second factor: without it there is none (ASVS 6.3.4).

Each is gone with all that there is short of the factor: the password, the mailbox, a known device, an administrator's
help. Which routes may answer with a session is read from `docs/openapi.yaml`, so a new one fails here until it has its
line.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from authn.known_devices import remember_device
from authn.sessions import Acr, NewSession
from authn.users import User
from service.keys import SESSIONS
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.administration import Answer, link
from tests.support.paths import ROOT
from tests.support.sessions import signed_in
from tests.support.sign_in import PASSWORD, FrontDoor, front_door
from tests.support.software_authenticator import SoftwareAuthenticator

pytestmark = pytest.mark.integration

OTHER = "another password of hers"
AGENT = {"User-Agent": "browser"}
AT_ACME = {"X-Tenant-ID": "acme"}
TOKEN = re.compile(rb"kasbah_session_")

Pathway = Callable[[FrontDoor, User], Awaitable[list[Answer]]]


@pytest.fixture
async def door(own_database_url: str) -> AsyncIterator[FrontDoor]:
    """The application, with people who have passwords."""
    async with front_door(own_database_url) as running:
        yield running


# Who must prove a second factor, and why


async def enrolled(door: FrontDoor, name: str) -> User:
    """Nobody demands it, but there is one: it is always asked for."""
    user = await door.user(name)
    await door.phone(user)
    door.execute("UPDATE users SET factors_bound_at = clock_timestamp() WHERE user_id = %s", user.id)
    return user


async def by_account(door: FrontDoor, name: str) -> User:
    """The account's own entry demands it, and there is none yet."""
    return await door.user(name, mfa_required=True)


async def by_tenant(door: FrontDoor, name: str) -> User:
    """The tenant demands it of everybody."""
    await _settings(door, {"mfa": {"demand": "required"}})
    return await door.user(name)


async def by_role(door: FrontDoor, name: str) -> User:
    """The tenant demands it of a role that the account has through a group."""
    user = await door.user(name)
    await _settings(door, {"mfa": {"demand": "roles", "roles": ["role:editor"]}})
    for path, member, role in (
        ("memberships", f"user:{user.id}", "group:staff"),
        ("rules", "group:staff", "role:editor"),
    ):
        row = {"add": [link(member, role)]}
        added = await door.post(f"/v1/tenants/acme/{path}", row, key=door.keys["acme"])
        assert added.status == 200, added.body
    return user


async def after_reset(door: FrontDoor, name: str) -> User:
    """An administrator took the factors away; what was mailed lies in the mailbox."""
    user = await enrolled(door, name)
    done = await door.post(f"/v1/users/{user.id}/factors/reset", {"reason": "lost"}, key=door.keys["acme"])
    assert done.status == 202, done.body
    return user


DEMANDS = [enrolled, by_account, by_tenant, by_role, after_reset]


async def _settings(door: FrontDoor, change: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    done = await door.ask("PATCH", "/v1/tenants/acme/settings", change, key=door.keys["acme"], headers=headers)
    assert done.status == 200, done.body


# The pathways


async def password(door: FrontDoor, user: User) -> list[Answer]:
    """By name and address, and with somebody's session sent along."""
    bearer = {"Authorization": f"Bearer kasbah_session_{'A' * 64}"}
    return [
        await door.login(_name(user)),
        await door.login(_address(user)),
        await door.login(_name(user), headers=bearer),
    ]


async def known_device(door: FrontDoor, user: User) -> list[Answer]:
    """From a device that the account knows."""
    async with tenant_unit_of_work(door.app[SESSIONS], user.tenant_id) as work:
        device = await remember_device(work, user.id, now=datetime.now(UTC), life=timedelta(days=1))
    return [await door.login(_name(user), device=device.token, remember_device=True)]


async def second_step(door: FrontDoor, user: User) -> list[Answer]:
    """Every method with what is no proof, and the options of each."""
    answers = []
    for method, given in (("totp", "000000"), ("recovery_code", "0" * 24), ("webauthn", {"id": "AAAA"})):
        challenge = await _challenge(door, user)
        answers += [await door.options(challenge, method), await door.verify(challenge, method, given)]
    return answers


async def enrolment(door: FrontDoor, user: User) -> list[Answer]:
    """Binding a key of one's own, with a code that was not mailed, and with none of the two steps before."""
    challenge = await _challenge(door, user)
    body = {"challenge": challenge, "method": "webauthn", "name": "mine", "code": "00000000"}
    made = {"challenge": challenge, "attestation": {"id": "AAAA"}}
    return [
        await _enrol(door, "finish", made),
        await _enrol(door, "mail", {"challenge": challenge}),
        await _enrol(door, "begin", body),
        await _enrol(door, "finish", made),
    ]


async def reset_by_mail(door: FrontDoor, user: User) -> list[Answer]:
    """The mailbox and a new password."""
    asked = await door.post(
        "/v1/account/password-reset-request", {"identifier": user.username}, key="", headers=AT_ACME
    )
    return [asked, *await _reset(door, user)]


async def reset_by_an_administrator(door: FrontDoor, user: User) -> list[Answer]:
    """The same, begun by somebody else."""
    started = await door.post(f"/v1/users/{user.id}/password-reset", {"reason": "asked"}, key=door.keys["acme"])
    return [started, *await _reset(door, user)]


async def states(door: FrontDoor, user: User) -> list[Answer]:
    """Disabled, enabled, and in again."""
    answers = [
        await door.post(f"/v1/users/{user.id}/{what}", {"reason": "asked"}, key=door.keys["acme"])
        for what in ("disable", "enable")
    ]
    return [*answers, await door.login(_name(user))]


async def address_change(door: FrontDoor, user: User) -> list[Answer]:
    """Another address, confirmed by its mailbox, taken back by the old one, and signed in with each."""
    session = await _earlier(door, user)
    wanted = {"email": f"new.{_address(user)}", "current_password": PASSWORD}
    asked = await door.post("/v1/users/me/email", wanted, key=session.token)
    confirmed = await _spend(door, "address-confirmation", f"new.{_address(user)}", "/account/confirm-address?")
    by_new = await door.login(f"new.{_address(user)}")
    undone = await _spend(door, "address-undo", _address(user), "/account/undo-address?")
    return [asked, confirmed, by_new, undone, await door.login(_name(user))]


async def personal_key(door: FrontDoor, user: User) -> list[Answer]:
    """A key of the person's own, made by a full sign-in, where sessions are asked for or handed out."""
    session = await _earlier(door, user)
    made = await door.post("/v1/users/me/keys", {"name": "mine"}, key=session.token)
    assert made.status == 201, made.body
    key = made.json["token"]
    return [
        await door.post("/v1/users/me/password", {"current_password": PASSWORD, "new_password": OTHER}, key=key),
        await door.post("/v1/users/me/security-keys", {"name": "mine"}, key=key),
        await door.post("/v1/users/me/factors", {"kind": "totp", "name": "mine"}, key=key),
        await door.post("/v1/users/me/recovery-codes", None, key=key),
        await door.get("/v1/users/me/sessions", key=key),
        await door.login(_name(user), headers={"Authorization": f"Bearer {key}"}),
    ]


async def renewals(door: FrontDoor, user: User) -> list[Answer]:
    """What hands out another token for a session's: none for one that is over, or that nobody has."""
    over = await _earlier(door, user)
    await door.ask("DELETE", "/v1/users/me/sessions", key=over.token)
    answers = []
    for token in (over.token, f"kasbah_session_{'A' * 64}"):
        for method, path, body in _renewals(user):
            answers.append(await door.ask(method, path, body, key=token))
    return answers


PATHWAYS: list[Pathway] = [
    password,
    known_device,
    second_step,
    enrolment,
    reset_by_mail,
    reset_by_an_administrator,
    states,
    address_change,
    personal_key,
    renewals,
]

TRIED = {
    "POST /v1/auth/login": "every pathway ends there",
    "POST /v1/auth/mfa/verify": "second_step",
    "POST /v1/auth/enrolment/finish": "enrolment",
    "POST /v1/users/me/password": "renewals, personal_key",
    "POST /v1/users/me/factors/{factor_id}/confirm": "renewals",
    "DELETE /v1/users/me/factors/{factor_id}": "renewals",
    "POST /v1/users/me/recovery-codes": "renewals, personal_key",
    "POST /v1/users/me/security-keys/{registration_id}": "renewals",
}
"""What may answer with a session, and which pathway tries it."""


def _renewals(user: User) -> list[tuple[str, str, Any]]:
    one = f"{user.id}"
    return [
        ("POST", "/v1/users/me/password", {"current_password": PASSWORD, "new_password": OTHER}),
        ("POST", f"/v1/users/me/factors/{one}/confirm", {"code": "000000"}),
        ("DELETE", f"/v1/users/me/factors/{one}", None),
        ("POST", "/v1/users/me/recovery-codes", None),
        ("POST", f"/v1/users/me/security-keys/{one}", {"attestation": {}}),
    ]


async def _earlier(door: FrontDoor, user: User) -> NewSession:
    """Return a full session, as the account had one before; it is no outcome of the pathway."""
    session = await signed_in(door.app, user.tenant_id, user.id, Acr.AAL2)
    EARLIER.append(str(session.session.session_id))
    return session


EARLIER: list[str] = []


def _name(user: User) -> str:
    return user.username or ""


def _address(user: User) -> str:
    return user.email or ""


async def _challenge(door: FrontDoor, user: User) -> str:
    door.later(7200)
    return str((await door.login(_name(user))).json["challenge"])


async def _enrol(door: FrontDoor, step: str, body: dict[str, Any]) -> Answer:
    return await door.post(f"/v1/auth/enrolment/{step}", body, key="", headers=AGENT)


async def _reset(door: FrontDoor, user: User) -> list[Answer]:
    """Choose another password with what was mailed, if it was, and sign in with it."""
    links = [
        token for mail in await door.mails(_address(user)) for token in _links(mail.text, "/account/password-reset?")
    ]
    answers = [
        await door.post("/v1/account/password-reset", {"token": token, "password": OTHER}, key="") for token in links
    ]
    return [*answers, await door.login(_name(user), OTHER), await door.login(_name(user))]


async def _spend(door: FrontDoor, what: str, address: str, page: str) -> Answer:
    token = [token for mail in await door.mails(address) for token in _links(mail.text, page)][-1]
    return await door.post(f"/v1/account/{what}", {"token": token}, key="")


def _links(text: str, page: str) -> list[str]:
    return [line.partition("token=")[2] for line in text.splitlines() if page in line]


def begun(door: FrontDoor) -> list[str]:
    """Return the sessions that ever began or went on, but those of before."""
    found = door.query("SELECT event FROM audit_events")
    said = [event for (event,) in found if event["action"] in {"session.begin", "session.renew"}]
    return [event["detail"]["session"] for event in said if event["detail"]["session"] not in EARLIER]


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: demand.__name__)
async def test_no_pathway_leads_past_the_second_factor(door, demand):
    """No answer holds a token, and no session began; a password that is right leads to a challenge at most."""
    for number, pathway in enumerate(PATHWAYS):
        user = await demand(door, f"person{number}")
        for answer in await pathway(door, user):
            assert answer.status < 500, (pathway, answer.body)
            assert TOKEN.search(answer.body) is None, (pathway, answer.body)
            assert TOKEN.search(str(dict(answer.headers)).encode()) is None, pathway
        assert begun(door) == [], pathway
        door.later(7200)
        answers = [await door.login(_name(user), known) for known in (PASSWORD, OTHER)]
        asked = {answer.json["status"] for answer in answers if answer.status == 200}
        assert asked == {"mfa_required" if demand is enrolled else "enrollment_required"}, pathway


@pytest.mark.parametrize("demand", DEMANDS, ids=lambda demand: demand.__name__)
async def test_with_the_factor_there_is_a_session(door, demand):
    """The other side: the tests above refuse nobody who has what is asked for."""
    user = await demand(door, "alice")
    half = (await door.login(_name(user))).json
    challenge = half["challenge"]
    if demand is enrolled:
        door.execute("DELETE FROM authenticators WHERE user_id = %s", user.id)
        phone = await door.phone(user)
        done = await door.verify(challenge, "totp", phone.code())
    else:
        mailbox: dict[str, str]
        if demand is after_reset:
            mailbox = {
                "ticket": next(word for word in (await door.mails(_address(user)))[-1].text.split() if len(word) == 43)
            }
        else:
            await _enrol(door, "mail", {"challenge": challenge})
            mailbox = {"code": re.findall(r"\b[0-9]{8}\b", (await door.mails(_address(user)))[-1].text)[0]}
        body = {"challenge": challenge, "method": "webauthn", "name": "mine"} | mailbox
        begun_with = await _enrol(door, "begin", body)
        assert begun_with.status == 200, begun_with.body
        made = SoftwareAuthenticator(door.origin).create(begun_with.json["public_key"])
        done = await _enrol(door, "finish", {"challenge": challenge, "attestation": made})
    assert done.status == 200, done.body
    assert done.json["session"]["acr"] == "aal2"
    assert len(begun(door)) == 1


async def test_who_is_invited_into_such_a_tenant_enrols_first(door):
    """Accepting makes an account and no session; its password alone signs in nobody."""
    await _settings(door, {"mfa": {"demand": "required"}})
    await door.post("/v1/invitations", {"email": "bob@example.org"}, key=door.keys["acme"])
    (token,) = [
        token for mail in await door.mails("bob@example.org") for token in _links(mail.text, "/account/invitation?")
    ]
    said = {"token": token, "username": "bob", "password": PASSWORD}
    accepted = await door.post("/v1/account/invitation", said, key="")
    assert accepted.status in {200, 201, 204}, accepted.body
    assert TOKEN.search(accepted.body) is None
    half = await door.login("bob")
    assert half.json["status"] == "enrollment_required"
    assert begun(door) == []


async def test_an_account_that_is_demanded_of_later_signs_in_anew(door):
    """Who signed in by the password alone is out when the account must prove more."""
    user = await door.user("alice")
    token = (await door.login("alice")).json["session"]["token"]
    made = await door.post("/v1/users/me/keys", {"name": "mine"}, key=token)
    headers = {"Content-Type": "application/merge-patch+json"}
    await door.ask("PATCH", f"/v1/users/{user.id}", {"mfa_required": True}, key=door.keys["acme"], headers=headers)
    for credential in (token, made.json["token"]):
        assert (await door.get("/v1/users/me/keys", key=credential)).status == 401


def test_every_route_that_may_answer_with_a_session_is_tried():
    """By its description; one that is added needs a line of `TRIED`, and a pathway."""
    document = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text("utf-8"))

    def holds_session(part: Any, seen: frozenset[str] = frozenset()) -> bool:
        if isinstance(part, list):
            return any(holds_session(item, seen) for item in part)
        if not isinstance(part, dict):
            return False
        reference = part.get("$ref")
        if reference is not None:
            if reference.endswith("/IssuedSession"):
                return True
            if reference in seen:
                return False
            target: Any = document
            for name in reference.removeprefix("#/").split("/"):
                target = target[name]
            return holds_session(target, seen | {reference})
        return any(holds_session(item, seen) for item in part.values())

    found = {
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters" and holds_session(operation["responses"])
    }
    assert found == TRIED.keys()
