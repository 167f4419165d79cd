"""Addresses in the histories of an account: its owner changes and takes back, an attacker puts one of theirs in place.

Who reads the verified address of an account, once it cannot be taken back any more, is its owner as far as anybody can
tell: then the account is `lost`, and nothing more is asked of it.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta

from authn.sessions import Acr
from tests.support.sessions import signed_in
from tests.support.sign_in_actors import FACTORS, SESSIONS, Account, links_of
from tests.support.sign_in_attacks import Attacker

EMAIL = "/v1/users/me/email"
RESET = "/v1/account/password-reset"
CONFIRM_PAGE, UNDO_PAGE = "/account/confirm-address?", "/account/undo-address?"
CONFIRMATION, UNDO, VERIFICATION = (
    f"/v1/account/{what}" for what in ("address-confirmation", "address-undo", "verification")
)
TO_UNDO_HOURS = 72
LEFT_OPEN = timedelta(minutes=10)
HERE = {"X-Tenant-ID": "acme", "User-Agent": "browser"}
TAKEN_OVER = "somebody else has chosen this one"


@dataclass
class Addresses:
    """Those of an account: its owner's, and the attacker's."""

    account: Account
    attacker: Attacker
    owned: list[str] = field(default_factory=list)
    """The owner's, the first one first."""
    wanted: str = ""
    """What the owner asked for last."""
    settled: bool = False
    """Whether no change can be taken back any more."""
    lost: bool = False

    def __post_init__(self) -> None:
        self.owned = [self.account.address]

    @property
    def foreign(self) -> str:
        """The attacker's own address."""
        return f"mallory-{self.account.name}@example.org"

    @property
    def present(self) -> str:
        """What the account has."""
        return str(self.account.door.account(self.account.user.id, "email")[0])

    # The owner

    async def ask(self) -> bool:
        """Ask for another address, signed in lately."""
        self.wanted = f"{self.account.name}-{len(self.owned)}@example.org"
        return await self._asked(self.wanted, self.account.tokens, [self.account.password])

    async def confirm(self) -> bool:
        """Spend the link that the new one got."""
        self.settled = False
        if not self.wanted or not await self._spends(self.wanted, CONFIRM_PAGE, CONFIRMATION):
            return False
        self.owned.append(self.wanted)
        return self._all_ended()

    async def take_back(self) -> bool:
        """Spend whatever undoes a change, in every mailbox; what the attacker changed is among it."""
        done = [await self._spends(address, UNDO_PAGE, UNDO) for address in self.owned]
        return any(done) and self._all_ended()

    def _all_ended(self) -> bool:
        self.account.leaks.tokens += self.account.tokens
        self.account.tokens = []
        self.account.mailbox = self.present if self.present in self.owned else self.owned[0]
        return True

    # The attacker

    async def put_ones_own(self, token: str) -> None:
        """Change the address to the attacker's, with a session, every password that ever was right, and their mails."""
        self.settled = False
        if await self._asked(self.foreign, [token], self.account.leaks.passwords[-2:]):
            await self._spends(self.foreign, CONFIRM_PAGE, CONFIRMATION)

    async def read_ones_own(self) -> None:
        """Have the password reset, and bind an authenticator, by what comes to the attacker's own address."""
        await self._reset(self.foreign)
        await self.attacker.sign_in(0)
        for challenge in self.account.leaks.challenges[-1:]:
            await self.attacker.ask_for_code(challenge)
            text = " ".join(mail.text for mail in await self.account.door.mails(self.foreign))
            given = [{"code": code} for code in re.findall(r"\b[0-9]{8}\b", text)[-1:]]
            given += [{"ticket": ticket} for ticket in re.findall(r"(?<![\w=-])[\w-]{43}(?![\w-])", text)[-1:]]
            for mailbox in given:
                await self.attacker.bind(challenge, mailbox)

    async def misuse_one_left_open(self) -> None:
        """Do with a session of the owner's, ten minutes after its last proof, what only a fresh one is good for."""
        account, before = self.account, self.stored()
        level = Acr.AAL2 if before[-1] else Acr.AAL1
        user = account.user
        begun = await signed_in(account.door.app, user.tenant_id, user.id, level, ago=LEFT_OPEN)
        await self.attacker.misuse(begun.token)
        await self.put_ones_own(begun.token)
        assert self.stored() == before, "a session that was left open changed something"
        await account.door.ask("DELETE", f"{SESSIONS}/current", key=begun.token)

    async def read_abandoned(self) -> None:
        """Try every link in the mailboxes that the owner has left, once nothing can be taken back from there."""
        before = self.stored()
        for address in self.owned if self.settled else []:
            if address == self.present:
                continue
            text = " ".join(mail.text for mail in await self.account.door.mails(address))
            for token in re.findall(r"token=([\w-]{43})", text):
                for path in (UNDO, CONFIRMATION, VERIFICATION):
                    await self.account.door.post(path, {"token": token}, key="", headers=HERE)
                body = {"token": token, "password": TAKEN_OVER}
                await self.account.door.post(RESET, body, key="", headers=HERE)
        assert self.stored() == before, "an old mailbox gave something away"

    # Time

    def wait(self, hours: int) -> None:
        """Let hours go by, for links, codes and waits, and for whoever is signed in."""
        for table, columns in (
            ("address_changes", ("created_at", "confirmed_at")),
            ("links", ("expires_at",)),
            ("enrolment_codes", ("expires_at",)),
            ("users", ("password_reset_at", "factors_reset_at")),
        ):
            moved = ", ".join(f"{column} = {column} - make_interval(hours => {hours})" for column in columns)
            self.account.door.execute(f"UPDATE {table} SET {moved} WHERE user_id = %s", self.account.user.id)
        self.settled = hours > TO_UNDO_HOURS
        self.account.door.execute("UPDATE throttles SET ends_at = ends_at - make_interval(hours => %s)", hours)
        self.lost = self.lost or (hours > TO_UNDO_HOURS and self.present not in self.owned)

    def stored(self) -> tuple[object, ...]:
        """Return what an attacker would change."""
        return self.account.door.query(
            "SELECT email, password_hash, (SELECT array_agg(authenticator_id ORDER BY 1) FROM authenticators AS a "
            "WHERE a.user_id = u.user_id AND confirmed_at IS NOT NULL) FROM users AS u WHERE user_id = %s",
            self.account.user.id,
        )[0]

    async def _asked(self, address: str, tokens: list[str], passwords: list[str]) -> bool:
        for token in reversed(tokens):
            for password in passwords:
                self.account.door.later(7200)
                body = {"email": address, "current_password": password}
                if (await self.account.door.post(EMAIL, body, key=token)).status == 202:
                    return True
        return False

    async def _spends(self, address: str, page: str, path: str) -> bool:
        done = False
        for token in reversed(links_of(await self.account.door.mails(address), page)):
            answer = await self.account.door.post(path, {"token": token}, key="", headers=HERE)
            done = done or answer.status == 204
        return done

    async def _reset(self, address: str) -> None:
        asked = {"identifier": self.account.name}
        await self.account.door.post("/v1/account/password-reset-request", asked, key="", headers=HERE)
        for token in links_of(await self.account.door.mails(address), "/account/password-reset?")[-1:]:
            body = {"token": token, "password": TAKEN_OVER}
            if (await self.account.door.post(RESET, body, key="", headers=HERE)).status == 204:
                self.account.leaks.passwords.append(TAKEN_OVER)


async def find_way_back(addresses: Addresses) -> None:
    """Get the owner in again, as documented: the address taken back, a new password by mail, a reset of factors."""
    account = addresses.account
    if addresses.present not in addresses.owned:
        assert await addresses.take_back(), "the address is not to be had back"
        assert addresses.present in addresses.owned
    addresses.wait(TO_UNDO_HOURS + 1)
    account.ticket = None
    assert await account.reset_password(), "no new password by mail"
    if await account.sign_in():
        return
    addresses.wait(25)
    reset = await account.administer("factors/reset")
    assert reset.status == 202, reset.body
    account.keys, account.phone, account.codes = [], None, []
    assert await account.sign_in(), "no new authenticator by a ticket"
    shown = await account.door.get(FACTORS, key=account.tokens[-1])
    assert len(shown.json["factors"]) == 1, shown.body
