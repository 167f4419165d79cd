"""People of a development server: an administrator and two users of the first sample tenant.

They come as everybody's people do: an administrator's key invites them, the mail with the link arrives in the outbox,
and the link makes the account, with a password that nobody but this machine's state directory holds. The
administrator binds an authenticator, too, whose secret is kept there as well.
"""

import email
import email.policy
import json
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyotp

from service.processes import StartError

MAIL_TIMEOUT_SECONDS = 30
ANSWER_TIMEOUT_SECONDS = 30
BUSY_TIMEOUT_SECONDS = 60
"""A machine that does much else hashes passwords slowly, since that gives way to everything."""
PASSWORD_BYTES = 18
OWN_SERVER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks our own server, whatever proxy the environment names for others."""

STEP_SECONDS = 30

_TOKEN = re.compile(r"/account/invitation\?token=([A-Za-z0-9_-]{43})")
_CODE = re.compile(r"^\s*([0-9]{8})\s*$", re.MULTILINE)
_PAUSE_SECONDS = 0.1
_NOT_AUTHENTICATED = 401
_NOT_FOUND = 404
_BUSY = 503


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody to invite."""

    username: str
    display_name: str
    role: str
    enrols: bool = False
    """Whether they bind an authenticator."""


PEOPLE = (
    Person("ada", "Ada Administrator", "role:tenant-admin", enrols=True),
    Person("ben", "Ben Editor", "role:editor"),
    Person("cleo", "Cleo Viewer", "role:viewer"),
)


PROOFS = {"password": "password", "authenticator": "authenticator", "api_key": "key"}
"""What proves a person, as the file has it and as people call it."""


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account and what proves it; None stands for what is no longer good."""

    id: str
    email: str
    password: str | None = field(repr=False)
    role: str
    api_key: str | None = field(repr=False)
    authenticator: Mapping[str, Any] | None = field(default=None, repr=False)
    """Of who bound one: its `id`, `secret` (base32), `uri` for an app, and the `recovery_codes`."""
    password_changed_at: str | None = None
    """When this password was set; another time means another password."""
    status: str = "active"
    ended: tuple[str, ...] = ()
    """What was good when it was written down, and is no longer: of `PROOFS`."""


def code_of(secret: str, *, steps_ago: int = 0) -> str:
    """Return what an authenticator shows, or showed so many steps of 30 seconds ago (RFC 6238)."""
    return pyotp.TOTP(secret).at(int(time.time()) - steps_ago * STEP_SECONDS)


def call(base_url: str, key: str | None, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Ask our own server, again while it is too busy; returns the answer's JSON value, or None when it has none.

    Raises:
        urllib.error.HTTPError: a refusal.
        OSError: no answer.
    """
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base_url}{path}", data, headers, method=method)  # noqa: S310 - our own server
    ends = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            with OWN_SERVER.open(request, timeout=ANSWER_TIMEOUT_SECONDS) as response:
                text = response.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            wait = error.headers.get("Retry-After")
            if error.code != _BUSY or wait is None or time.monotonic() > ends:
                raise
            error.close()
            time.sleep(float(wait))


def has_people(base_url: str, key: str) -> bool:
    """Whether the tenant of a key has any account."""
    return bool(call(base_url, key, "GET", "/v1/users?limit=1")["users"])


def bring_in_people(base_url: str, key: str, slug: str, outbox: Path) -> dict[str, dict[str, Any]]:
    """Invite everybody of `PEOPLE` and accept for them; returns their accounts by username.

    Args:
        base_url: Of the running server.
        key: Of the tenant; may invite and grant.
        slug: The tenant's; stands in the addresses.
        outbox: Where the server leaves mails.

    Raises:
        StartError: one of them could not be brought in.
    """
    try:
        return {person.username: asdict(_bring_in(base_url, key, slug, outbox, person)) for person in PEOPLE}
    except urllib.error.HTTPError as error:
        with error:
            said = error.read().decode("utf-8", "replace")
        raise StartError(f"the people of {slug} were not made: {said}") from error
    except OSError as error:
        raise StartError(f"the people of {slug} were not made: {error}") from error


def still_good(base_url: str, key: str, people: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return accounts without what ended since it was written down.

    Args:
        base_url: Of the running server.
        key: Of their tenant; may read accounts.
        people: As they were written down.
    """
    return {name: _as_it_is(base_url, key, account) for name, account in people.items()}


def _bring_in(base_url: str, key: str, slug: str, outbox: Path, person: Person) -> Account:
    address = f"{person.username}@{slug}.example"
    invitation = {"email": address, "roles": [person.role], "display_name": person.display_name}
    known = set(outbox.glob("*.eml"))
    call(base_url, key, "POST", "/v1/invitations", invitation)
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    acceptance = {
        "token": _mailed(outbox, address, known, _TOKEN),
        "username": person.username,
        "display_name": person.display_name,
        "password": password,
    }
    made = call(base_url, None, "POST", "/v1/account/invitation", acceptance)
    login = {"identifier": person.username, "password": password}
    session = call(base_url, None, "POST", f"/v1/auth/login?tenant={slug}", login)["session"]["token"]
    authenticator = None
    if person.enrols:
        session, authenticator = _enrol(base_url, session, outbox, address)
    api_key = call(base_url, session, "POST", "/v1/users/me/keys", {"name": "development key"})["token"]
    changed_at = call(base_url, key, "GET", f"/v1/users/{made['user']['id']}")["password_changed_at"]
    return Account(made["user"]["id"], address, password, person.role, api_key, authenticator, changed_at)


def _enrol(base_url: str, session: str, outbox: Path, address: str) -> tuple[str, dict[str, Any]]:
    """Bind an authenticator with the code that is mailed for it; returns the new session, and what the person has now.

    The code before the present one confirms it, so that the present one is not spent when a person signs in at once.
    """
    known = set(outbox.glob("*.eml"))
    call(base_url, session, "POST", "/v1/users/me/factors/mail")
    wanted = {"kind": "totp", "name": "development authenticator", "code": _mailed(outbox, address, known, _CODE)}
    begun = call(base_url, session, "POST", "/v1/users/me/factors", wanted)
    proof = {"code": code_of(begun["secret"], steps_ago=1)}
    bound = call(base_url, session, "POST", f"/v1/users/me/factors/{begun['id']}/confirm", proof)
    held = {name: begun[name] for name in ("id", "secret", "uri")} | {"recovery_codes": bound["recovery_codes"]}
    return bound["session"]["token"], held


def _mailed(outbox: Path, address: str, known: set[Path], wanted: re.Pattern[str]) -> str:
    """Return what was mailed to an address, once it arrives beside the mails known."""
    ends = time.monotonic() + MAIL_TIMEOUT_SECONDS
    while time.monotonic() < ends:
        for path in set(outbox.glob("*.eml")) - known:
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            found = wanted.search(_text_of(mail))
            if found is not None and str(mail["To"]).endswith(address):
                return found.group(1)
        time.sleep(_PAUSE_SECONDS)
    raise StartError(f"a mail to {address} did not arrive in {outbox}")


def _text_of(mail: "email.message.EmailMessage") -> str:
    body = mail.get_body(("plain",))
    return "" if body is None else str(body.get_content())


def _as_it_is(base_url: str, key: str, account: Mapping[str, Any]) -> dict[str, Any]:
    """Return an account as the server has it now; as it was, where the server does not say."""
    held = dict(account)
    try:
        user = call(base_url, key, "GET", f"/v1/users/{held['id']}")
        bound = call(base_url, key, "GET", f"/v1/users/{held['id']}/factors")["factors"]
        held["status"] = user["status"]
    except urllib.error.HTTPError as error:
        with error:
            if error.code != _NOT_FOUND:
                return held
        user, bound, held["status"] = {}, [], "deleted"
    except OSError:
        return held
    working = {one["id"] for one in bound if one["disabled_at"] is None}
    good = {
        "password": user.get("password_changed_at") == held.get("password_changed_at"),
        "authenticator": (held.get("authenticator") or {}).get("id") in working,
        "api_key": _is_live(base_url, held.get("api_key")),
    }
    held["ended"] = [name for name in PROOFS if not good[name] and (held.get(name) or name in held.get("ended", ()))]
    return held | dict.fromkeys(held["ended"])


def _is_live(base_url: str, key: str | None) -> bool:
    if key is None:
        return False
    try:
        call(base_url, key, "GET", "/v1/keys/self")
    except urllib.error.HTTPError as error:
        with error:
            return error.code != _NOT_AUTHENTICATED
    except OSError:
        pass
    return True
