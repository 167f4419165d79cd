"""What pages say."""

from collections.abc import Mapping
from dataclasses import dataclass

from authn.links import LinkPurpose

_UNASKED = "If you did not ask for this, close the page: nothing changes without the button."


@dataclass(frozen=True, slots=True)
class Words:
    """A page's heading, its text, and if it has a button what stands on it and below."""

    title: str
    text: str
    button: str = ""
    note: str = _UNASKED


ACTS: Mapping[LinkPurpose, Words] = {
    LinkPurpose.VERIFY: Words(
        "Confirm your address",
        "You received this link by mail. Confirm that the address belongs to your account.",
        "Confirm the address",
    ),
    LinkPurpose.CONFIRM_ADDRESS: Words(
        "Confirm your new address",
        "The address at which you received this link becomes that of the account. Whoever is signed in is signed out.",
        "Use this address",
    ),
    LinkPurpose.UNDO_ADDRESS: Words(
        "Take the change back",
        "The address at which you received this link becomes that of the account again. Whoever is signed in is signed "
        "out, and all other links that were sent do nothing any more.",
        "Take the change back",
        "If the change is right, close the page: it stays as it is.",
    ),
}

DONE: Mapping[str, Words] = {
    "invitation": Words("Your account is ready", "You can use it now. A mail confirms it."),
    "verify": Words("Thank you", "The address is confirmed."),
    "password-reset": Words(
        "The password is set", "Everyone who was signed in is signed out. You can sign in with it now."
    ),
    "password-reset-request": Words(
        "Look into your mail",
        "If there is such an account and its address is verified, a link is on its way. It works for an hour.",
    ),
    "confirm-address": Words("The address was changed", "Everyone who was signed in is signed out."),
    "undo-address": Words(
        "The change was taken back",
        "Everyone who was signed in is signed out. If somebody else knows your password, choose a new one now.",
    ),
}

PROBLEMS: Mapping[str, Words] = {
    "link-not-valid": Words(
        "This link does nothing any more",
        "It was used before, its time is over, or something changed since it was sent. If you still need it, ask for a "
        "new one.",
    ),
    "grant-lapsed": Words(
        "This invitation cannot be accepted",
        "Whoever invited you may not grant what it brings any more. Ask for a new invitation; this one may work again.",
    ),
    "cross-site": Words(
        "This form cannot be sent from here", "Open the link in your mail again, and use the page it opens."
    ),
    "too-many-requests": Words("Please wait", "There are too many requests right now. Try again in some minutes."),
    "4": Words("That did not work", "The request could not be understood. Open the link in your mail again."),
    "5": Words(
        "Please try again", "The service cannot answer right now. Nothing was changed or lost; try again in a moment."
    ),
}
"""By the problem's slug, or by the first digit of the status."""
