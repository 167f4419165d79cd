"""Where the links of mails lead: to pages of the address that is configured, never of one that a request named."""

from collections.abc import Mapping

from authn.mails import MailKind

PAGES: Mapping[MailKind, str] = {
    MailKind.VERIFY: "verify",
    MailKind.INVITATION: "invitation",
    MailKind.RESET: "password-reset",
    MailKind.ADDRESS_CONFIRM: "confirm-address",
    MailKind.ADDRESS_NOTICE: "undo-address",
    MailKind.ADDRESS_SET: "undo-address",
}
"""The last part of the page's path, for kinds whose link carries a token."""


def link_of(kind: MailKind, values: Mapping[str, str], *, public_url: str, slug: str) -> str | None:
    """Return the address that a mail names, or None for a kind that names none.

    Args:
        kind: Which mail.
        values: Its values; `token` is base64url, so it needs no quoting.
        public_url: As configured, without a slash at its end.
        slug: The tenant's.

    Raises:
        KeyError: a kind whose link needs a token has none.
    """
    page = PAGES.get(kind)
    if page is not None:
        return f"{public_url}/account/{page}?token={values['token']}"
    if kind is MailKind.INVITATION_TAKEN:
        return f"{public_url}/account/password-reset-request?tenant={slug}"
    return None
