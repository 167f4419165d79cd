"""The text of every kind of mail. Plain text: there is nothing to load, and nothing that hides where a link leads."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from string import Template

from authn.mails import MailKind, plain_name, plain_username


@dataclass(frozen=True, slots=True)
class Brand:
    """How the tenant presents itself in mails. `support_url` is https, or None."""

    name: str
    support_url: str | None = None


@dataclass(frozen=True, slots=True)
class MailText:
    """A mail's subject (one line) and body (lines, no markup)."""

    subject: str
    body: str


_NOT_YOU = "If this was not you, ask for help at once."
_UNASKED = "If you did not ask for this, do nothing: without the link nothing changes."

_TEXTS: Mapping[MailKind, tuple[str, str]] = {
    MailKind.VERIFY: (
        "Confirm your address for $tenant",
        (
            "Please confirm that this address belongs to your account at $tenant:\n\n$link\n\n"
            f"The link works once, until $until.\n{_UNASKED}"
        ),
    ),
    MailKind.INVITATION: (
        "You are invited to $tenant",
        (
            "You are invited to an account at $tenant. Choose a username and a password here:\n\n$link\n\n"
            "The link works once, until $until, and for this address only.\n"
            "If you do not expect this invitation, do nothing: without the link no account is made."
        ),
    ),
    MailKind.INVITATION_TAKEN: (
        "You have an account at $tenant",
        (
            "Someone invited you to $tenant, but this address has an account there already: $username.\n"
            "You can go on using it. If you forgot its password, ask for a new one here:\n\n$link"
        ),
    ),
    MailKind.RESET: (
        "Choose a new password for $tenant",
        (
            "A new password was asked for, for your account $username at $tenant. Choose it here:\n\n$link\n\n"
            f"The link works once, until $until.\n{_UNASKED} Your password stays as it is."
        ),
    ),
    MailKind.RESET_NOT_YET: (
        "No new password for $tenant yet",
        (
            "A new password was asked for, for your account $username at $tenant. Its second factors were reset "
            "within the last day, and nobody replaces both on one day: ask again tomorrow. Your password stays.\n"
            "If you cannot wait, or did not ask for this, ask your administrator for help."
        ),
    ),
    MailKind.ADDRESS_CONFIRM: (
        "Confirm your new address for $tenant",
        (
            "This address shall become that of an account at $tenant. Confirm it here:\n\n$link\n\n"
            f"The link works once, until $until. Until then the old address stays.\n{_UNASKED}"
        ),
    ),
    MailKind.ADDRESS_TAKEN: (
        "This address is in use at $tenant",
        (
            "Someone asked that this address become that of another account at $tenant. It belongs to the account "
            "$username there, so nothing was changed.\nIf it was you, use that account, or change its address first."
        ),
    ),
    MailKind.ADDRESS_NOTICE: (
        "The address of your account at $tenant is about to change",
        (
            "Someone asked that the account $username at $tenant get another address than this one. It changes as soon "
            "as the new address is confirmed.\n\nIf this was not you, take it back here:\n\n$link\n\n"
            "That works until $until, also after the change: this address is the account's again, and everyone who is "
            "signed in is signed out. Choose a new password afterwards."
        ),
    ),
    MailKind.ADDRESS_SET: (
        "The address of your account at $tenant was changed",
        (
            "An administrator took this address away from the account $username at $tenant, or gave it another one.\n\n"
            "If that is not right, take it back here:\n\n$link\n\n"
            "That works until $until: this address is the account's again, and everyone who is signed in is signed out."
        ),
    ),
    MailKind.ADDRESS_UNDONE: (
        "The change of your address at $tenant was taken back",
        "The account $username at $tenant has its former address again, and everyone who was signed in to it is signed "
        "out. Links that were sent before work no more.\n" + _NOT_YOU,
    ),
    MailKind.WELCOME: (
        "Your account at $tenant is ready",
        f"Your account $username at $tenant was made, and this address confirmed.\n{_NOT_YOU}",
    ),
    MailKind.PASSWORD_CHANGED: (
        "Your password for $tenant was changed",
        f"The password of your account $username at $tenant was changed on $when.\n{_NOT_YOU}",
    ),
    MailKind.USERNAME_CHANGED: (
        "Your username at $tenant was changed",
        f"On $when your account at $tenant was given another username: $username.\n{_NOT_YOU}",
    ),
    MailKind.FACTOR_CHANGED: (
        "How you sign in to $tenant was changed",
        f"A second factor of your account $username at $tenant was added, changed or removed on $when.\n{_NOT_YOU}",
    ),
    MailKind.ENROLMENT_CODE: (
        "Your code for $tenant",
        (
            "Someone who knows the password of your account $username at $tenant is adding a second factor to it. "
            "If this is you, type this code:\n\n$code\n\nIt works once, until $until. Tell it to nobody.\n"
            "If this is not you, choose a new password now: without the code nothing is added."
        ),
    ),
    MailKind.FACTORS_RESET: (
        "Bind a new second factor to your account at $tenant",
        (
            "On $when an administrator took away the second factors of your account $username at $tenant, and everyone "
            "who was signed in to it is signed out. When you sign in next, bind a new one with this ticket:\n\n"
            "$ticket\n\nIt works once, until $until, and only together with your password. Tell it to nobody.\n"
            "If you did not ask for this, ask for help at once."
        ),
    ),
    MailKind.RECOVERY_CODE_USED: (
        "A recovery code of your account at $tenant was used",
        (
            "On $when someone used a recovery code of your account $username at $tenant, after the right password. "
            "The code works no more.\nIf this was not you, choose a new password now, and ask for help."
        ),
    ),
    MailKind.KEY_CHANGED: (
        "A key of your account at $tenant was changed",
        f"A personal key of your account $username at $tenant was made or ended on $when.\n{_NOT_YOU}",
    ),
    MailKind.SIGN_IN_REFUSED: (
        "Someone knows your password for $tenant",
        (
            "On $when someone gave the right password of your account $username at $tenant, but no second factor.\n"
            "If this was not you, choose a new password now."
        ),
    ),
    MailKind.SECURITY_KEY_COPIED: (
        "A security key of yours may have been copied",
        (
            "On $when a security key of your account $username at $tenant was refused: it had counted no more uses "
            "than before, as a copy of it would.\nThe password was right. Remove the key from your account, choose a "
            "new password, and ask for help."
        ),
    ),
    MailKind.SIGN_IN_LOCKED: (
        "Your password for $tenant is locked on unknown devices",
        (
            "Until $when so many wrong passwords were given for your account $username at $tenant that no more are "
            "taken from devices that the account does not know. Those that it knows work as before.\n"
            "To sign in from others again, ask for a new password: the link in that mail opens them."
        ),
    ),
    MailKind.NEW_DEVICE: (
        "A new device signed in to $tenant",
        (
            "On $when somebody signed in to your account $username at $tenant from a device that it does not know,\n"
            "or that was not used since the password was reset.\n"
            f"{_NOT_YOU}"
        ),
    ),
    MailKind.ACCOUNT_DISABLED: (
        "Your account at $tenant was disabled",
        "Your account $username at $tenant was disabled on $when. You cannot sign in until it is enabled again.",
    ),
    MailKind.ACCOUNT_ENABLED: (
        "Your account at $tenant was enabled",
        "Your account $username at $tenant was enabled on $when. You can sign in again.",
    ),
}


def text_of(kind: MailKind, values: Mapping[str, str], brand: Brand) -> MailText:
    """Return the text of a mail.

    Args:
        kind: Which.
        values: What it names: `username`, and of our own making `when`, `until`, `link`; more is no error.
        brand: The tenant's name and where it helps.

    Raises:
        KeyError: a value that the text names is missing.
    """
    subject, body = _TEXTS[kind]
    shown = dict(values)
    if "username" in values:
        shown["username"] = plain_username(values["username"])
    shown["tenant"] = plain_name(brand.name, "your organization")
    lines = [Template(body).substitute(shown)]
    if brand.support_url is not None:
        lines.append(f"Help: {brand.support_url}")
    lines.append(f"--\nSent by {shown['tenant']}. Nobody reads answers to this mail.")
    return MailText(Template(subject).substitute(shown), "\n\n".join(lines) + "\n")


def names_of(kind: MailKind) -> frozenset[str]:
    """Return the values that a kind's text names, the tenant's own name left out."""
    subject, body = _TEXTS[kind]
    return frozenset(Template(f"{subject}\n{body}").get_identifiers()) - {"tenant"}


def moment_text(moment: datetime) -> str:
    """Return a moment as mails write it: to the minute, UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
