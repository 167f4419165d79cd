"""Every request of signing in, factors, sessions and service keys, each with an account that stands just before it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from authn.recovery_code_storage import renew_codes
from authn.sessions import Acr
from service.keys import SESSIONS as UNITS
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.administration import Answer
from tests.support.factors import Phone
from tests.support.service_accounts import ACCOUNTS
from tests.support.sessions import signed_in
from tests.support.sign_in import FrontDoor
from tests.support.sign_in_actors import (
    CODES,
    ENROLMENT,
    FACTORS,
    OWN_PASSWORD,
    SECURITY_KEYS,
    SESSIONS,
    Account,
    open_account,
)
from tests.support.software_authenticator import SoftwareAuthenticator

AGENT = {"User-Agent": "browser"}
NEW_PASSWORD = "an altogether different sentence"
"""What a change of password asks for; the old one is still right when the change was not made."""


@dataclass(frozen=True)
class Ready:
    """An account, and the request that comes next for it. `account` is None where programs ask, not people."""

    account: Account | None
    ask: Callable[[], Awaitable[Answer]]


Prepare = Callable[[FrontDoor, str], Awaitable[Ready]]
STEPS: dict[str, Prepare] = {}


def step(prepare: Prepare) -> Prepare:
    """Enter a step under its function's name."""
    STEPS[prepare.__name__] = prepare
    return prepare


async def _with_key(door: FrontDoor, name: str) -> Account:
    return await open_account(door, name, required=False, phone=False, key=True)


async def _with_phone(door: FrontDoor, name: str) -> Account:
    account = await open_account(door, name, required=False, phone=True, key=False)
    account.steps = 1
    return account


async def _with_codes(door: FrontDoor, name: str) -> Account:
    """Return somebody who lost the key and has the recovery codes."""
    account = await _with_key(door, name)
    async with tenant_unit_of_work(door.app[UNITS], account.user.tenant_id) as work:
        account.codes = list(await renew_codes(work, account.user.id))
    account.keys = []
    return account


async def _challenge(account: Account, status: str = "mfa_required") -> str:
    answer = await account.door.login(account.name, account.password)
    assert answer.json["status"] == status, answer.body
    return str(answer.json["challenge"])


async def _signed_in(door: FrontDoor, name: str, *, key: bool = True) -> tuple[Account, str]:
    account = await open_account(door, name, required=False, phone=False, key=key)
    return account, await _another_session(account)


async def _another_session(account: Account) -> str:
    user, level = account.user, Acr.AAL2 if account.keys else Acr.AAL1
    account.tokens.append((await signed_in(account.door.app, user.tenant_id, user.id, acr=level)).token)
    return account.tokens[-1]


def _posting(door: FrontDoor, path: str, body: Mapping[str, Any] | None, key: str = "", **headers: str) -> Any:
    return lambda: door.post(path, body, key=key, headers=AGENT | headers)


# Signing in


@step
async def login(door: FrontDoor, name: str) -> Ready:
    account = await _with_key(door, name)
    return Ready(account, lambda: door.login(name))


@step
async def login_by_password_alone(door: FrontDoor, name: str) -> Ready:
    account = await open_account(door, name, required=False, phone=False, key=False)
    return Ready(account, lambda: door.login(name))


@step
async def options(door: FrontDoor, name: str) -> Ready:
    account = await _with_key(door, name)
    challenge = await _challenge(account)
    return Ready(account, lambda: door.options(challenge, "webauthn"))


@step
async def verify_code(door: FrontDoor, name: str) -> Ready:
    account = await _with_phone(door, name)
    assert account.phone is not None
    challenge, code = await _challenge(account), account.phone.code()
    return Ready(account, lambda: door.verify(challenge, "totp", code))


@step
async def verify_recovery_code(door: FrontDoor, name: str) -> Ready:
    account = await _with_codes(door, name)
    challenge, code = await _challenge(account), account.codes.pop()
    return Ready(account, lambda: door.verify(challenge, "recovery_code", code))


@step
async def verify_security_key(door: FrontDoor, name: str) -> Ready:
    account = await _with_key(door, name)
    challenge = await _challenge(account)
    given = account.keys[0].get((await door.options(challenge, "webauthn")).json["options"])
    return Ready(account, lambda: door.verify(challenge, "webauthn", given))


@step
async def sign_in_again(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    challenge = await _challenge(account)
    given = account.keys[0].get((await door.options(challenge, "webauthn")).json["options"])
    headers = {"Authorization": f"Bearer {token}"}
    return Ready(account, lambda: door.verify(challenge, "webauthn", given, headers=headers))


# Enrolment on the way in


async def _enrolling(door: FrontDoor, name: str) -> tuple[Account, str]:
    account = await open_account(door, name, required=True, phone=False, key=False)
    return account, await _challenge(account, "enrollment_required")


async def _begun(account: Account, challenge: str, method: str, mailbox: Mapping[str, str]) -> Any:
    body = {"challenge": challenge, "method": method, "name": "new"} | dict(mailbox)
    begun = await account.door.post(f"{ENROLMENT}/begin", body, key="", headers=AGENT)
    assert begun.status == 200, begun.body
    return begun.json


def _finishing(account: Account, challenge: str, begun: Any) -> Ready:
    """Ask for the last step; what is bound by it is the person's whether the answer comes or not."""
    if begun["method"] == "totp":
        account.phone = Phone.scan(begun)
        given: dict[str, Any] = {"code": account.phone.code()}
        account.steps = 1
    else:
        key = SoftwareAuthenticator(account.door.origin)
        given = {"attestation": key.create(begun["public_key"])}
        account.keys.append(key)
    return Ready(account, _posting(account.door, f"{ENROLMENT}/finish", {"challenge": challenge} | given))


async def _mailed(account: Account, challenge: str) -> dict[str, str]:
    return await account._mailbox(f"{ENROLMENT}/mail", {"challenge": challenge}, key="")


async def _reset(door: FrontDoor, name: str) -> tuple[Account, str]:
    """Return somebody whose authenticators an administrator has reset, and who has the ticket."""
    account = await _with_key(door, name)
    assert (await account.administer("factors/reset")).status == 202
    account.keys = []
    return account, await _challenge(account, "enrollment_required")


@step
async def enrolment_mail(door: FrontDoor, name: str) -> Ready:
    account, challenge = await _enrolling(door, name)
    return Ready(account, _posting(door, f"{ENROLMENT}/mail", {"challenge": challenge}))


@step
async def enrolment_begin_code(door: FrontDoor, name: str) -> Ready:
    account, challenge = await _enrolling(door, name)
    body = {"challenge": challenge, "method": "totp", "name": "new"} | await _mailed(account, challenge)
    return Ready(account, _posting(door, f"{ENROLMENT}/begin", body))


@step
async def enrolment_begin_security_key(door: FrontDoor, name: str) -> Ready:
    account, challenge = await _enrolling(door, name)
    body = {"challenge": challenge, "method": "webauthn", "name": "new"} | await _mailed(account, challenge)
    return Ready(account, _posting(door, f"{ENROLMENT}/begin", body))


@step
async def enrolment_finish_code(door: FrontDoor, name: str) -> Ready:
    account, challenge = await _enrolling(door, name)
    return _finishing(account, challenge, await _begun(account, challenge, "totp", await _mailed(account, challenge)))


@step
async def enrolment_finish_security_key(door: FrontDoor, name: str) -> Ready:
    account, challenge = await _enrolling(door, name)
    begun = await _begun(account, challenge, "webauthn", await _mailed(account, challenge))
    return _finishing(account, challenge, begun)


@step
async def ticket_begin(door: FrontDoor, name: str) -> Ready:
    account, challenge = await _reset(door, name)
    body = {"challenge": challenge, "method": "totp", "name": "new"} | await _mailed(account, challenge)
    assert "ticket" in body
    return Ready(account, _posting(door, f"{ENROLMENT}/begin", body))


@step
async def ticket_finish(door: FrontDoor, name: str) -> Ready:
    account, challenge = await _reset(door, name)
    begun = await _begun(account, challenge, "webauthn", await _mailed(account, challenge))
    return _finishing(account, challenge, begun)


# One's own factors, password and sessions


@step
async def own_code(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name, key=False)
    return Ready(account, _posting(door, f"{FACTORS}/mail", {}, token))


@step
async def own_first_begin(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name, key=False)
    given = await account._mailbox(f"{FACTORS}/mail", {}, key=token)
    return Ready(account, _posting(door, SECURITY_KEYS, {"name": "new"} | given, token))


@step
async def own_begin(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    return Ready(account, _posting(door, FACTORS, {"kind": "totp", "name": "new"}, token))


@step
async def own_confirm(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    begun = await door.post(FACTORS, {"kind": "totp", "name": "new"}, key=token)
    phone = Phone.scan(begun.json)
    return Ready(account, _posting(door, f"{FACTORS}/{phone.id}/confirm", {"code": phone.code()}, token))


@step
async def own_finish_security_key(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    begun = await door.post(SECURITY_KEYS, {"name": "new"}, key=token)
    made = SoftwareAuthenticator(door.origin).create(begun.json["public_key"])
    return Ready(account, _posting(door, f"{SECURITY_KEYS}/{begun.json['id']}", {"attestation": made}, token))


@step
async def own_removal(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    phone = await door.phone(account.user)
    return Ready(account, lambda: door.ask("DELETE", f"{FACTORS}/{phone.id}", key=token, headers=AGENT))


@step
async def new_recovery_codes(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    return Ready(account, _posting(door, CODES, None, token))


@step
async def own_password(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    body = {"current_password": account.password, "new_password": NEW_PASSWORD}
    return Ready(account, _posting(door, OWN_PASSWORD, body, token))


@step
async def own_sessions(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    return Ready(account, lambda: door.get(SESSIONS, key=token, headers=AGENT))


@step
async def end_a_session(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    await _another_session(account)
    shown = (await door.get(SESSIONS, key=token)).json["sessions"]
    (other,) = [one["id"] for one in shown if not one["current"]]
    return Ready(account, lambda: door.ask("DELETE", f"{SESSIONS}/{other}", key=token, headers=AGENT))


@step
async def end_all_sessions(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    return Ready(account, lambda: door.ask("DELETE", SESSIONS, key=token, headers=AGENT))


@step
async def sign_out(door: FrontDoor, name: str) -> Ready:
    account, token = await _signed_in(door, name)
    return Ready(account, lambda: door.ask("DELETE", f"{SESSIONS}/current", key=token, headers=AGENT))


# Administrators, and keys of programs


@step
async def revoke_factor(door: FrontDoor, name: str) -> Ready:
    account = await _with_key(door, name)
    phone = await door.phone(account.user)
    path = f"/v1/users/{account.user.id}/factors/{phone.id}?reason=lost"
    return Ready(account, lambda: door.ask("DELETE", path, key=door.keys["acme"]))


@step
async def reset_factors(door: FrontDoor, name: str) -> Ready:
    account = await _with_key(door, name)
    return Ready(account, lambda: account.administer("factors/reset"))


async def _program(door: FrontDoor, name: str) -> str:
    made = await door.post(ACCOUNTS, {"name": name}, key=door.keys["acme"])
    assert made.status == 201, made.body
    return f"{ACCOUNTS}/{made.json['id']}/keys"


@step
async def service_key(door: FrontDoor, name: str) -> Ready:
    path = await _program(door, name)
    body = {"name": "one", "reason": "it needs one"}
    return Ready(None, lambda: door.post(path, body, key=door.keys["acme"], headers={"Idempotency-Key": name}))


@step
async def service_key_rotation(door: FrontDoor, name: str) -> Ready:
    path = await _program(door, name)
    made = await door.post(path, {"name": "one", "reason": "it needs one"}, key=door.keys["acme"])
    path, body = f"{path}/{made.json['id']}/rotate", {"overlap_seconds": 60, "reason": "due"}
    return Ready(None, lambda: door.post(path, body, key=door.keys["acme"], headers={"Idempotency-Key": name}))
