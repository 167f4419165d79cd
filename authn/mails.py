"""What a mail is: its kind, to whom, and the values that its text names. The text is made when it is sent."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from authn.errors import InvalidMailboxError

MAX_MAILBOX_OCTETS = 254
"""RFC 5321 section 4.5.3.1.3 allows a path of 256 octets, the angle brackets among them."""

MAX_NAME = 64
"""Characters of a name that a mail shows."""

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029<>()\[\]\\,;:\"]")
"""What is legal only in quotes, or would end a header, a command or an address."""


class MailKind(StrEnum):
    """Every mail that is ever sent; `authn/mail_texts.py` has a text for each."""

    VERIFY = "verify"
    INVITATION = "invitation"
    INVITATION_TAKEN = "invitation-taken"
    RESET = "reset"
    RESET_NOT_YET = "reset-not-yet"
    ADDRESS_CONFIRM = "address-confirm"
    ADDRESS_TAKEN = "address-taken"
    ADDRESS_NOTICE = "address-notice"
    ADDRESS_SET = "address-set"
    ADDRESS_UNDONE = "address-undone"
    WELCOME = "welcome"
    PASSWORD_CHANGED = "password-changed"  # noqa: S105 - a kind of mail
    USERNAME_CHANGED = "username-changed"
    FACTOR_CHANGED = "factor-changed"
    ENROLMENT_CODE = "enrolment-code"
    FACTORS_RESET = "factors-reset"
    RECOVERY_CODE_USED = "recovery-code-used"
    KEY_CHANGED = "key-changed"
    SIGN_IN_REFUSED = "sign-in-refused"
    SIGN_IN_LOCKED = "sign-in-locked"
    NEW_DEVICE = "new-device"
    SECURITY_KEY_COPIED = "security-key-copied"
    ACCOUNT_DISABLED = "account-disabled"
    ACCOUNT_ENABLED = "account-enabled"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to queue.

    `to` is one address, without a name. `values` are what the kind's text names; `token`, where there is one, becomes
    the link. `user_id` is whose account it is about; `expires_at` is when it is worth nothing any more (of a link).
    """

    kind: MailKind
    to: str
    values: Mapping[str, str] = field(repr=False)
    user_id: UUID | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address as mail servers take it: `domain` is ASCII (IDNA A-labels), `local` may be more (RFC 6531)."""

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


def parse_mailbox(text: str) -> Mailbox:
    """Return the one address in `text`.

    SECURITY: whatever could begin another header, command or recipient is refused here, before it is stored, though
    the libraries that write headers and commands refuse it again.

    Raises:
        InvalidMailboxError: no address, more than one, a name beside it, quotes, or too long.
    """
    local, at, domain = text.rpartition("@")
    if not at or not local or "@" in local or _FORBIDDEN.search(text) is not None:
        raise InvalidMailboxError("not one plain mail address")
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise InvalidMailboxError("not one plain mail address")
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode("ascii")
        except UnicodeError:
            raise InvalidMailboxError("the address's domain is no domain name") from None
    labels = domain.split(".")
    if any(re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", label) is None for label in labels):
        raise InvalidMailboxError("the address's domain is no domain name")
    mailbox = Mailbox(local, domain.lower())
    if len(str(mailbox).encode()) > MAX_MAILBOX_OCTETS:
        raise InvalidMailboxError("the address is too long")
    return mailbox


def plain_name(text: str, otherwise: str = "") -> str:
    """Return a name that someone chose, as a mail may show it: one line, at most 64 characters, nothing to click on.

    SECURITY: a mail of ours must not carry another's message; mail programs make links of everything that looks like
    an address, so a name with such a thing in it is not shown at all.
    """
    return _one_line(text, otherwise) if re.search(r"\w\.\w", text) is None else otherwise


def plain_username(text: str) -> str:
    """Return a username as a mail to its owner may show it; it may have dots, unlike what `plain_name` shows."""
    return _one_line(text, "—")


def _one_line(text: str, otherwise: str) -> str:
    name = " ".join(text.split())
    if not name or not name.isprintable() or re.search(r"[/@\\<>]|:\S", name) is not None:
        return otherwise
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
