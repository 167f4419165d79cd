"""An account's owner and its administrator, over HTTP; what others find out of it is kept for them in `Leaks`."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from authn.relying_party import RelyingParty
from authn.users import User
from service import keys
from tests.support.administration import Answer
from tests.support.factors import Phone, bind_security_key
from tests.support.sign_in import PASSWORD, FrontDoor
from tests.support.smtp_server import Received
from tests.support.software_authenticator import SoftwareAuthenticator, b64

FACTORS = "/v1/users/me/factors"
SECURITY_KEYS = "/v1/users/me/security-keys"
CODES = "/v1/users/me/recovery-codes"
SESSIONS = "/v1/users/me/sessions"
OWN_KEYS = "/v1/users/me/keys"
OWN_PASSWORD = "/v1/users/me/password"
ENROLMENT = "/v1/auth/enrolment"

RESET = "/account/password-reset?"
TICKET_LENGTH = 43
_PASSWORDS = (f"{word} purple ladders sing" for word in iter(lambda: secrets.token_hex(4), ""))


@dataclass
class Leaks:
    """What somebody else finds out of an account: each thing when it was used, challenges at once."""

    passwords: list[str] = field(default_factory=list)
    challenges: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    assertions: list[dict[str, Any]] = field(default_factory=list)
    recovery_codes: list[str] = field(default_factory=list)
    tickets: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


@dataclass
class Account:
    """One account, its owner, and who is after it."""

    door: FrontDoor
    user: User
    name: str
    password: str
    leaks: Leaks = field(default_factory=Leaks)
    phone: Phone | None = None
    steps: int = -1
    """The next code of the phone that was not used: three are valid at any moment."""
    keys: list[SoftwareAuthenticator] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    mailbox: str = ""
    ticket: str | None = None
    """Of an accepted invitation."""
    everybody: bool = False
    """Whether its tenant demands a second factor of all its people."""
    half: dict[str, Any] | None = None
    """What a password gave that was not followed up."""

    @property
    def address(self) -> str:
        """Where its owner reads its mails."""
        return self.mailbox or f"{self.name}@example.org"

    # The owner

    async def sign_in(self) -> bool:
        """Sign in with whatever is asked for; return whether it came to a session."""
        self.door.later(7200)
        answer = await self.door.login(self.name, self.password)
        return answer.status == 200 and await self.go_on(answer.json)

    async def begin(self) -> None:
        """Give the password and look away: the challenge is read by somebody else."""
        self.door.later(7200)
        answer = await self.door.login(self.name, self.password)
        if answer.status == 200 and "challenge" in answer.json:
            self.half = answer.json
            self.leaks.challenges.append(answer.json["challenge"])

    async def go_on(self, half: dict[str, Any]) -> bool:
        """Prove what else is asked for."""
        if half["status"] == "authenticated":
            return self._signed_in(half)
        if half["status"] == "mfa_required":
            return await self._prove(half)
        assert half["status"] == "enrollment_required", half
        return await self._enrol(half["challenge"])

    async def _prove(self, half: dict[str, Any]) -> bool:
        self.door.later(7200)
        challenge = half["challenge"]
        for key in self.keys:
            given = await self._assertion(key, challenge)
            if given is not None and await self._verify(challenge, "webauthn", given):
                self.leaks.assertions.append(given)
                return True
        if self.phone is not None and self.steps <= 1:
            code, self.steps = self.phone.code(self.steps), self.steps + 1
            done = await self._verify(challenge, "totp", code)
            self.leaks.codes += [code] if done else []
            return done
        if self.codes:
            code = self.codes.pop()
            done = await self._verify(challenge, "recovery_code", code)
            self.leaks.recovery_codes += [code] if done else []
            return done
        return False

    async def _assertion(self, key: SoftwareAuthenticator, challenge: str) -> dict[str, Any] | None:
        asked = await self.door.options(challenge, "webauthn")
        if asked.status != 200:
            return None
        allowed = {one["id"] for one in asked.json["options"]["allowCredentials"]}
        if b64(key.credentials[0].credential_id) not in allowed:
            return None
        return key.get(asked.json["options"])

    async def _verify(self, challenge: str, method: str, given: str | dict[str, Any]) -> bool:
        answer = await self.door.verify(challenge, method, given)
        return answer.status == 200 and self._signed_in(answer.json)

    def _signed_in(self, answer: dict[str, Any]) -> bool:
        self.tokens.append(answer["session"]["token"])
        return True

    async def _enrol(self, challenge: str) -> bool:
        """Bind a security key on the way in, by the newest ticket or a mailed code."""
        given = await self._mailbox(f"{ENROLMENT}/mail", {"challenge": challenge}, key="")
        body = {"challenge": challenge, "method": "webauthn", "name": "key"} | given
        begun = await self.door.post(f"{ENROLMENT}/begin", body, key="", headers={"User-Agent": "browser"})
        if begun.status != 200:
            return False
        key = SoftwareAuthenticator(self.door.origin)
        made = {"challenge": challenge, "attestation": key.create(begun.json["public_key"])}
        done = await self.door.post(f"{ENROLMENT}/finish", made, key="", headers={"User-Agent": "browser"})
        if done.status != 200:
            return False
        self.keys.append(key)
        self.codes = done.json["recovery_codes"]
        self.leaks.tickets += [given["ticket"]] if "ticket" in given else []
        return self._signed_in(done.json)

    async def _mailbox(self, path: str, body: dict[str, Any], **more: Any) -> dict[str, str]:
        """Return what proves the mailbox: an invitation's ticket, a code that was just mailed, or the ticket there."""
        if self.ticket is not None:
            given, self.ticket = {"ticket": self.ticket}, None
            return given
        before = len(await self.door.mails(self.address))
        asked = await self.door.post(path, body, headers={"User-Agent": "browser"}, **more)
        mails = await self.door.mails(self.address)
        if asked.status == 202:  # a notice of something else may come in between
            codes = [code for mail in mails[before:] for code in re.findall(r"\b[0-9]{8}\b", mail.text)]
            return {"code": codes[-1]} if codes else {}
        tickets = [word for mail in mails for word in mail.text.split() if len(word) == TICKET_LENGTH]
        return {"ticket": tickets[-1]} if tickets else {}

    async def add_key(self) -> bool:
        """Add a security key, signed in lately."""
        for token in reversed(self.tokens):
            body: dict[str, Any] = {"name": "another key"}
            begun = await self.door.post(SECURITY_KEYS, body, key=token)
            if begun.status == 403 and begun.problem == "wrong-code":
                body |= await self._mailbox(f"{FACTORS}/mail", {}, key=token)
                begun = await self.door.post(SECURITY_KEYS, body, key=token)
            if begun.status != 201:
                continue
            key = SoftwareAuthenticator(self.door.origin)
            body = {"attestation": key.create(begun.json["public_key"])}
            done = await self.door.post(f"{SECURITY_KEYS}/{begun.json['id']}", body, key=token)
            if done.status == 200:
                self.keys.append(key)
                self.codes = done.json.get("recovery_codes", self.codes)
                self._goes_on(token, done.json)
                return True
        return False

    async def remove_factor(self) -> bool:
        """Remove the newest authenticator."""
        for token in reversed(self.tokens):
            bound = await self.door.get(FACTORS, key=token)
            if bound.status != 200 or not bound.json["factors"]:
                continue
            last = bound.json["factors"][-1]
            done = await self.door.ask("DELETE", f"{FACTORS}/{last['id']}", key=token)
            if done.status == 200:
                self._goes_on(token, done.json)
                return True
        return False

    async def change_password(self) -> bool:
        """Choose another password, which is found out in time."""
        for token in reversed(self.tokens):
            body = {"current_password": self.password, "new_password": next(_PASSWORDS)}
            self.door.later(7200)
            done = await self.door.post(OWN_PASSWORD, body, key=token)
            if done.status == 200:
                self.password = body["new_password"]
                self.leaks.passwords.append(self.password)
                self._goes_on(token, done.json)
                return True
        return False

    async def reset_password(self) -> bool:
        """Forget it, and choose another by mail."""
        headers = {"X-Tenant-ID": "acme"}
        await self.door.post("/v1/account/password-reset-request", {"identifier": self.name}, key="", headers=headers)
        for token in reversed(links_of(await self.door.mails(self.address), RESET)):
            wanted = next(_PASSWORDS)
            body = {"token": token, "password": wanted}
            done = await self.door.post("/v1/account/password-reset", body, key="", headers=headers)
            if done.status == 204:
                self.password = wanted
                self.leaks.passwords.append(wanted)
                return True
        return False

    async def renew_codes(self) -> bool:
        """Have new recovery codes made; the old ones are found in a drawer."""
        for token in reversed(self.tokens):
            done = await self.door.post(CODES, None, key=token)
            if done.status == 200:
                self.leaks.recovery_codes += self.codes
                self.codes = done.json["recovery_codes"]
                self._goes_on(token, done.json)
                return True
        return False

    async def sign_out(self) -> bool:
        """End the newest session, whose token is then found."""
        while self.tokens:
            token = self.tokens.pop()
            done = await self.door.ask("DELETE", f"{SESSIONS}/current", key=token)
            self.leaks.tokens.append(token)
            if done.status in {200, 204}:
                return True
        return False

    def _goes_on(self, token: str, answer: dict[str, Any]) -> None:
        """The session goes on under another token; whoever finds the old one has it."""
        self.tokens = [answer["session"]["token"]]
        self.leaks.tokens.append(token)

    # The administrator

    async def administer(self, path: str, **body: Any) -> Answer:
        """Change the account with the tenant's own key."""
        return await self.door.post(
            f"/v1/users/{self.user.id}/{path}", {"reason": "asked for"} | body, key=self.door.keys["acme"]
        )

    async def require_factor(self) -> None:
        """Demand a second factor of the account."""
        key = self.door.keys["acme"]
        answer = await self.door.ask(
            "PATCH",
            f"/v1/users/{self.user.id}",
            {"mfa_required": True},
            key=key,
            headers={"Content-Type": "application/merge-patch+json"},
        )
        assert answer.status == 200, answer.body

    def proves_more(self) -> bool:
        """Whether nobody may be signed in without a second factor: it is demanded, or there is one."""
        ((found,),) = self.door.query(
            "SELECT mfa_required OR enrolment_demanded OR status <> 'active' OR EXISTS (SELECT FROM authenticators AS a "
            "WHERE (a.tenant_id, a.user_id) = (u.tenant_id, u.user_id) AND a.confirmed_at IS NOT NULL) "
            "FROM users AS u WHERE user_id = %s",
            self.user.id,
        )
        return bool(found)


def links_of(mails: Iterable[Received], page: str) -> list[str]:
    """Return the tokens of links to a page, oldest first."""
    lines = [line for mail in mails for line in mail.text.splitlines() if page in line]
    return [line.partition("token=")[2] for line in lines]


async def open_account(door: FrontDoor, name: str, *, required: bool, phone: bool, key: bool) -> Account:
    """Make an account, with authenticators that were bound in earlier times."""
    user = await door.user(name, mfa_required=required)
    account = Account(door, user, name, PASSWORD)
    account.leaks.passwords.append(PASSWORD)
    if phone:
        account.phone = await door.phone(user)
    if key:
        account.keys.append(SoftwareAuthenticator(door.origin))
        party = RelyingParty("localhost", "Kasbah", (door.origin,))
        await bind_security_key(door.app[keys.SESSIONS], user.tenant_id, user.id, account.keys[0], party=party)
    if phone or key:
        door.execute("UPDATE users SET factors_bound_at = clock_timestamp() WHERE user_id = %s", user.id)
    return account
