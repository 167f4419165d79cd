"""An attacker who knows more of an account than anybody should, and tries whatever that is good for.

The attacker sends from the owner's network with the owner's program, knows every password that ever was right, reads
challenges while they wait, and all else when it was used: codes, assertions, recovery codes, tokens of sessions, copies
of what Valkey holds. What the attacker has not is the owner's mailbox and the owner's authenticators.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio as aioredis

from tests.support.administration import Answer
from tests.support.sign_in_actors import (
    CODES,
    ENROLMENT,
    FACTORS,
    OWN_KEYS,
    OWN_PASSWORD,
    SECURITY_KEYS,
    SESSIONS,
    Account,
)
from tests.support.software_authenticator import Credential, SoftwareAuthenticator, new_private_key, unb64

_TOKEN = re.compile(r"kasbah_session_[A-Za-z0-9_-]+")
SELF = "/v1/keys/self"
_AGENT = {"User-Agent": "browser"}

Copy = dict[bytes, tuple[int, bytes]]
"""What Valkey held: values and how long they still lived, by key."""


@dataclass
class Attacker:
    """After one account."""

    account: Account
    keys: list[str] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)

    async def sign_in(self, known: int) -> None:
        """Give a password that was right once, and keep what comes of it; make a key of it, if it is a session."""
        passwords = self.account.leaks.passwords
        self.account.door.later(7200)
        answer = self._read(await self.account.door.login(self.account.name, passwords[-1 - known % len(passwords)]))
        if answer.status == 200 and answer.json["status"] == "authenticated":
            made = await self._post(OWN_KEYS, {"name": "mine"}, answer.json["session"]["token"])
            self.keys += [made.json["token"]] if made.status == 201 else []

    async def prove(self, challenge: str, method: str, given: str | dict[str, Any]) -> None:
        """Answer a challenge with something that is guessed, or was seen."""
        self.account.door.later(7200)
        self._read(await self.account.door.verify(challenge, method, given))

    async def forge_assertion(self, challenge: str) -> None:
        """Answer it with a key of one's own under the name of the owner's."""
        self.account.door.later(7200)
        asked = await self.account.door.options(challenge, "webauthn")
        if asked.status != 200:
            return
        for known in asked.json["options"]["allowCredentials"]:
            mine = Credential(
                unb64(known["id"]), "localhost", self.account.user.id.bytes, new_private_key("ES256"), 999
            )
            given = SoftwareAuthenticator(self.account.door.origin).get(asked.json["options"], credential=mine)
            self._read(await self.account.door.verify(challenge, "webauthn", given))

    async def enrol(self, challenge: str, mailbox: dict[str, str]) -> None:
        """Have a code mailed, and bind an authenticator of one's own on the way in."""
        await self.ask_for_code(challenge)
        await self.bind(challenge, mailbox)

    async def bind(self, challenge: str, mailbox: dict[str, str]) -> None:
        """Bind an authenticator of one's own by something that proves a mailbox."""
        begun = await self._post(
            f"{ENROLMENT}/begin", {"challenge": challenge, "method": "webauthn", "name": "mine"} | mailbox, ""
        )
        if begun.status == 200:
            made = SoftwareAuthenticator(self.account.door.origin).create(begun.json["public_key"])
            await self._post(f"{ENROLMENT}/finish", {"challenge": challenge, "attestation": made}, "")

    async def ask_for_code(self, challenge: str) -> None:
        """Have a code mailed, to wherever the account's mails go."""
        await self._post(f"{ENROLMENT}/mail", {"challenge": challenge}, "")

    async def misuse(self, token: str) -> None:
        """Do with a session, or with what was one, whatever would lead further."""
        for path, body in (
            (SECURITY_KEYS, {"name": "mine"}),
            (SECURITY_KEYS, {"name": "mine", "code": "00000000"}),
            (FACTORS, {"kind": "totp", "name": "mine"}),
            (CODES, None),
            (OWN_KEYS, {"name": "mine"}),
        ):
            answer = await self._post(path, body, token)
            if answer.status == 201 and path == OWN_KEYS:
                self.keys.append(answer.json["token"])
        wanted = f"{self.account.name} was taken over"
        for known in self.account.leaks.passwords[-2:]:
            self.account.door.later(7200)
            done = await self._post(OWN_PASSWORD, {"current_password": known, "new_password": wanted}, token)
            if done.status == 200:
                self.account.password = wanted
                self.account.leaks.passwords.append(wanted)

    async def copy_valkey(self) -> None:
        """Keep what Valkey holds."""
        async with self._valkey() as valkey:
            names = [name async for name in valkey.scan_iter("*")]
            held = {name: (await valkey.pttl(name), await valkey.dump(name)) for name in names}
        self.copies.append({name: (life, value) for name, (life, value) in held.items() if value is not None})

    async def forget_valkey(self) -> None:
        """Let everything in it run out."""
        async with self._valkey() as valkey:
            await valkey.flushdb()

    async def restore_valkey(self, copy: Copy) -> None:
        """Put an older copy back, over whatever there is."""
        async with self._valkey() as valkey:
            await valkey.flushdb()
            for name, (life, value) in copy.items():
                await valkey.restore(name, max(life, 0), value, replace=True)

    async def check(self) -> None:
        """Assert that nothing in the attacker's hands is a sign-in that is stronger than a password alone allows."""
        more = self.account.proves_more()
        for token in self.account.leaks.tokens:
            answer = await self.account.door.get(SESSIONS, key=token)
            if answer.status in {401, 403}:  # over, or the tenant is closed
                continue
            assert answer.status == 200, answer.body
            (current,) = [session for session in answer.json["sessions"] if session["current"]]
            assert current["acr"] == "aal1", "a session of two factors"
            assert not more, "a session without the second factor that is asked for"
            if self.account.everybody:
                assert (await self.account.door.get(SELF, key=token)).status == 401, "a session from before the demand"
        for key in self.keys:
            assert (await self.account.door.get(OWN_KEYS, key=key)).status == 401 or not more, "a key of such a session"

    async def _post(self, path: str, body: Any, token: str) -> Answer:
        return self._read(await self.account.door.post(path, body, key=token, headers=_AGENT))

    def _read(self, answer: Answer) -> Answer:
        leaks, found = self.account.leaks, answer.body.decode()
        leaks.tokens += [token for token in _TOKEN.findall(found) if token not in leaks.tokens]
        if answer.status == 200 and "challenge" in answer.json:
            leaks.challenges.append(answer.json["challenge"])
        return answer

    def _valkey(self) -> aioredis.Redis:
        return aioredis.Redis.from_url(self.account.door._valkey.url.get_secret_value())
