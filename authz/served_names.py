"""Which names and texts the rows of a served model may hold; the same rules for files and for the API.

Every check raises `InvalidNameError` with a message that names the fault, and returns nothing.
"""

import re

from authz.request import MAX_REF_LENGTH, InvalidNameError, check_action, check_id, check_type, parse_ref

PLATFORM_TYPE = "kasbah"
"""Resources of this type are Kasbah's own administration; only base rows may speak of them."""

PLATFORM_RESOURCES = f"{PLATFORM_TYPE}:"

PLATFORM_ROLE_PREFIX = "role:platform-"
"""Roles of the platform's own people; tenants can neither hold nor give them."""

SCOPE_SUBJECTS = "scope:"
"""Scopes of API keys, as the built-in policy names them (`authz/key_scopes.csv`); no stored row speaks of them."""

NAMED = "user:name="
"""How policy files begin a subject that is a person's account, said by its username (`authz/account_names.py`)."""

NAMED_SERVICE = "service:name="
"""How policy files begin a subject that is a service account, said by its name."""

NAMED_ACCOUNTS = (NAMED, NAMED_SERVICE)

# SECURITY: no wildcard reaches these names unless it begins as they do, whoever wrote the row: a tenant's `*` must not
# decide who administers the tenant. `Snapshot` holds this for decisions; plans and lint reckon with it.

ROLE_TYPES = ("role", "group")

_NOT_IN_CONDITIONS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# SECURITY: text that shows in another order than it is read ("trojan source").
BIDIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class StarError(InvalidNameError):
    """A `*` where none may stand; `offset` is its place in the name, from 0."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def check_pattern(text: str) -> None:
    """Check a rule's subject or resource: `type:id`, `type:prefix*`, or `*`."""
    if text == "*":
        return
    check_direction(text)
    star = text.find("*")
    if star < 0:
        parse_ref(text)
        return
    if star != len(text) - 1:
        raise StarError(f"`*` stands last only, not inside `{text}`", star)
    kind, colon, prefix = text[:-1].partition(":")
    if not colon:
        raise StarError(f"`{text}` has no type: write `type:*`, or `*` for everything", star)
    check_type(kind)
    if prefix:
        check_id(prefix)
    if len(text) > MAX_REF_LENGTH:
        raise InvalidNameError(f"a pattern is longer than {MAX_REF_LENGTH} characters")


def check_rule_action(text: str) -> None:
    """Check a rule's action: a name without `*`, or `*`."""
    check_action(text)
    check_direction(text)
    star = text.find("*")
    if star >= 0 and text != "*":
        raise StarError(f"an action is a name or `*`; `{text}` is neither", star)


def check_name(text: str) -> None:
    """Check an exact name, as links and attributes have them: `type:id` without `*`."""
    check_direction(text)
    star = text.find("*")
    if star >= 0:
        raise StarError(f"names here are exact; `{text}` holds `*`", star)
    parse_ref(text)


def check_role(text: str) -> None:
    """Check what a `g` row gives: a role or a group."""
    check_name(text)
    if text.partition(":")[0] not in ROLE_TYPES:
        raise InvalidNameError(f"`{text}` is no role: `g` gives `role:…` or `group:…`")


def check_condition_text(text: str) -> None:
    """Check that a condition shows as it is read, whatever it says; what it means is `compile_condition`'s business."""
    if _NOT_IN_CONDITIONS.search(text) is not None:
        raise InvalidNameError("a condition holds a control character")
    check_direction(text)


def check_direction(text: str) -> None:
    """Raise `InvalidNameError` for a character that makes text show in another order than it is read."""
    if not text.isascii() and BIDIRECTIONAL.search(text) is not None:
        raise InvalidNameError("a character in it turns the direction of text")


def is_platform_resource(text: str) -> bool:
    """Whether a resource or resource pattern belongs to Kasbah's own administration."""
    return text.startswith(PLATFORM_RESOURCES)


def is_platform_role(text: str) -> bool:
    """Whether a role is the platform's own."""
    return text.startswith(PLATFORM_ROLE_PREFIX)


def is_scope(text: str) -> bool:
    """Whether a subject or subject pattern is a scope of API keys."""
    return text.startswith(SCOPE_SUBJECTS)
