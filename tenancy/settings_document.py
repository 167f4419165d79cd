"""Settings of a tenant as a JSON document: read strictly, shown whole, stored as what differs from the defaults."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from tenancy.errors import InvalidSettingsError
from tenancy.password_deviations import read_deviation
from tenancy.tenant_settings import (
    BrandingSettings,
    Deviation,
    MfaDemand,
    MfaSettings,
    PasswordSettings,
    SessionSettings,
    SignInSettings,
    TenantSettings,
)

Document = Mapping[str, Any]
Reader = Callable[[Any, str], Any]
"""Takes a JSON value and its RFC 6901 pointer; returns the value of the settings, or raises."""

RESERVED_CLAIMS = frozenset(
    {"acr", "amr", "at_hash", "aud", "auth_time", "azp", "c_hash", "client_id", "cnf", "exp", "iat", "iss", "jti"}
    | {"nbf", "nonce", "scope", "scp", "sid", "sub"}
)
"""What the token itself says (RFC 7519, RFC 9068, OpenID Connect Core): never a tenant's to give."""

_ROLE = re.compile(r"(?:role|group):[^\s\x00-\x1f\x7f]{1,250}\Z")
_CLAIM = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{0,99}\Z")
_COLOUR = re.compile(r"#[0-9a-f]{6}\Z")
_LONGEST_URL = 500
_URL = re.compile(
    r"https://[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?"  # host and port, nothing before an `@`
    r"(?:[/?#][A-Za-z0-9/?#:@!$&()*+,;=._~%-]*)?\Z"  # RFC 3986 but for quotes and brackets
)


def parse_settings(document: Any, defaults: TenantSettings) -> TenantSettings:
    """Return the settings of a document.

    Args:
        document: Parsed JSON.
        defaults: What members have that it leaves out.

    Raises:
        InvalidSettingsError: an unknown member, or a value that its member cannot have; with its pointer.
    """
    settings: TenantSettings = _section(TenantSettings, _SETTINGS)(_filled(document, show_settings(defaults)), "")
    _agree(settings)
    return settings


def read_stored(document: Document, defaults: TenantSettings) -> TenantSettings:
    """Return stored settings; members of a newer version are left alone, so that both can run side by side."""
    known = {name: value for name, value in document.items() if name in _SETTINGS}
    for name, inner in _SECTIONS.items():
        if name in known:
            known[name] = {member: value for member, value in known[name].items() if member in inner}
    return parse_settings(known, defaults)


def show_settings(settings: TenantSettings) -> dict[str, Any]:
    """Return the whole document, defaults included."""
    return asdict(settings, dict_factory=_plain)


def differences(settings: TenantSettings, base: TenantSettings) -> dict[str, Any]:
    """Return what of the settings is not as in `base`: from the defaults it is stored, from what was it is audited."""
    return _different(show_settings(settings), show_settings(base))


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` changed as a JSON Merge Patch says (RFC 7396 section 2): null removes a member."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _filled(document: Any, base: Any) -> Any:
    if not isinstance(document, Mapping) or not isinstance(base, Mapping):
        return document
    return {**base, **{name: _filled(value, base.get(name)) for name, value in document.items()}}


def _plain(members: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: value.value if isinstance(value, MfaDemand) else list(value) if isinstance(value, tuple) else value
        for name, value in members
    }


def _different(value: dict[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, member in value.items():
        if isinstance(member, dict):
            inner = _different(member, base[name])
            if inner:
                found[name] = inner
        elif member != base[name]:
            found[name] = member
    return found


def _agree(settings: TenantSettings) -> None:
    """Refuse values that are each good and contradict each other."""
    password, sessions, sign_in, mfa = settings.password, settings.sessions, settings.sign_in, settings.mfa
    if password.min_length_with_mfa > password.min_length:
        raise InvalidSettingsError("more than `min_length`", "/password/min_length_with_mfa")
    if sessions.idle_seconds > sessions.absolute_seconds:
        raise InvalidSettingsError("more than `absolute_seconds`", "/sessions/idle_seconds")
    if sign_in.first_wait_seconds > sign_in.longest_wait_seconds:
        raise InvalidSettingsError("more than `longest_wait_seconds`", "/sign_in/first_wait_seconds")
    if sign_in.failures_before_wait > sign_in.max_failures:
        raise InvalidSettingsError("more than `max_failures`", "/sign_in/failures_before_wait")
    if (mfa.demand is MfaDemand.ROLES) != bool(mfa.roles):
        raise InvalidSettingsError("roles are named if, and only if, `demand` is `roles`", "/mfa/roles")


def _whole(low: int, high: int) -> Reader:
    def read(value: Any, pointer: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidSettingsError(f"a whole number from {low} to {high}", pointer)
        return value

    return read


def _flag(value: Any, pointer: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidSettingsError("`true` or `false`", pointer)
    return value


def _text(what: str, pattern: re.Pattern[str]) -> Reader:
    def read(value: Any, pointer: str) -> str:
        if not isinstance(value, str) or pattern.match(value) is None:
            raise InvalidSettingsError(what, pointer)
        return value

    return read


def _line(longest: int) -> Reader:
    def read(value: Any, pointer: str) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= longest or not value.isprintable() or not value.strip():
            raise InvalidSettingsError(f"1 to {longest} printable characters", pointer)
        return value

    return read


def _list(read_item: Reader, most: int) -> Reader:
    def read(value: Any, pointer: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise InvalidSettingsError(f"a list of at most {most}", pointer)
        found = tuple(read_item(item, f"{pointer}/{index}") for index, item in enumerate(value))
        for index, item in enumerate(found):
            if item in found[:index]:
                raise InvalidSettingsError("is repeated", f"{pointer}/{index}")
        return found

    return read


def _or_none(read_value: Reader) -> Reader:
    return lambda value, pointer: None if value is None else read_value(value, pointer)


def _demand(value: Any, pointer: str) -> MfaDemand:
    if value not in [*MfaDemand]:
        raise InvalidSettingsError(f"one of {', '.join(MfaDemand)}", pointer)
    return MfaDemand(value)


def _rule(value: Any, pointer: str) -> str:
    try:
        read_deviation(value if isinstance(value, str) else "")
    except ValueError as error:
        raise InvalidSettingsError(str(error), pointer) from None
    return str(value)


def _claim(value: Any, pointer: str) -> str:
    if not isinstance(value, str) or _CLAIM.match(value) is None:
        raise InvalidSettingsError("a claim's name: letters, digits and `_ . : / -`", pointer)
    if value in RESERVED_CLAIMS:
        raise InvalidSettingsError(f"`{value}` is the token's own", pointer)
    return value


def _https(value: Any, pointer: str) -> str:
    """SECURITY: shown as a link or an image; `javascript:`, plain HTTP, user names and odd hosts never get there."""
    if not isinstance(value, str) or len(value) > _LONGEST_URL or _URL.match(value) is None:
        raise InvalidSettingsError("an `https://` address of at most 500 characters, without user name", pointer)
    return value


def _section(kind: type[Any], readers: Mapping[str, Reader], *, needs: frozenset[str] = frozenset()) -> Reader:
    def read(value: Any, pointer: str) -> Any:
        if not isinstance(value, Mapping):
            raise InvalidSettingsError("an object", pointer)
        for name in value:
            if name not in readers:
                raise InvalidSettingsError(f"`{name}` is no setting", f"{pointer}/{_token(name)}")
        for name in sorted(needs - value.keys()):
            raise InvalidSettingsError(f"`{name}` is missing", f"{pointer}/{name}")
        return kind(**{name: readers[name](member, f"{pointer}/{name}") for name, member in value.items()})

    return read


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


_DEVIATION = _section(
    Deviation,
    {"rule": _rule, "reason": _line(500)},
    needs=frozenset({"rule", "reason"}),
)
_PASSWORD: Mapping[str, Reader] = {
    "min_length": _whole(8, 64),
    "min_length_with_mfa": _whole(8, 64),
    "max_length": _whole(64, 256),
    "blocked_words": _list(_line(100), 1000),
    "check_breached": _flag,
    "deviations": _list(_DEVIATION, 20),
}
_MFA: Mapping[str, Reader] = {
    "demand": _demand,
    "roles": _list(_text("a role or group, as in `role:editor`", _ROLE), 100),
}
_SESSIONS: Mapping[str, Reader] = {
    "idle_seconds": _whole(60, 30 * 86_400),
    "absolute_seconds": _whole(300, 30 * 86_400),
}
_SIGN_IN: Mapping[str, Reader] = {
    "failures_before_wait": _whole(1, 20),
    "first_wait_seconds": _whole(30, 3600),
    "longest_wait_seconds": _whole(30, 86_400),
    "max_failures": _whole(5, 100),
}
_BRANDING: Mapping[str, Reader] = {
    "name": _or_none(_line(100)),
    "logo_url": _or_none(_https),
    "support_url": _or_none(_https),
    "accent_colour": _or_none(_text("a colour, as in `#1a7f37`", _COLOUR)),
}
_SECTIONS = {
    "password": _PASSWORD,
    "mfa": _MFA,
    "sessions": _SESSIONS,
    "sign_in": _SIGN_IN,
    "branding": _BRANDING,
}
_SETTINGS: Mapping[str, Reader] = {
    "password": _section(PasswordSettings, _PASSWORD),
    "mfa": _section(MfaSettings, _MFA),
    "sessions": _section(SessionSettings, _SESSIONS),
    "sign_in": _section(SignInSettings, _SIGN_IN),
    "allowed_claims": _list(_claim, 50),
    "branding": _section(BrandingSettings, _BRANDING),
}
