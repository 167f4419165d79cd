"""What each tenant sets for itself, with defaults: passwords, second factors, sessions, sign-in, claims, branding."""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Deviation:
    """A password rule that NIST SP 800-63B-4 advises against, and why an auditor wants it all the same."""

    rule: str
    reason: str


SHORTEST_ALONE = 15
"""Code points that a password has at least where it alone signs in (NIST SP 800-63B-4 section 3.1.1.2)."""


@dataclass(frozen=True, slots=True)
class PasswordSettings:
    """What passwords a tenant takes. Lengths are in code points after NFC (NIST SP 800-63B-4 section 3.1.1.2)."""

    min_length: int = SHORTEST_ALONE
    """Where the password alone signs in."""
    min_length_with_mfa: int = 8
    """Where the account must prove a second factor, too."""
    max_length: int = 256
    blocked_words: tuple[str, ...] = ()
    """Words of the tenant's own that no password may be."""
    check_breached: bool = True
    """Whether passwords from known breaches are refused."""
    deviations: tuple[Deviation, ...] = ()


class MfaDemand(StrEnum):
    """Who must prove a second factor."""

    OPTIONAL = "optional"
    REQUIRED = "required"
    ROLES = "roles"


@dataclass(frozen=True, slots=True)
class MfaSettings:
    """Second factors: nobody must, everybody must, or who has one of `roles` must."""

    demand: MfaDemand = MfaDemand.OPTIONAL
    roles: tuple[str, ...] = ()
    """Typed names, as in `role:editor`; only with `MfaDemand.ROLES`."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How long a sign-in lasts: without a request, and in all (NIST SP 800-63B-4 section 2.2.3)."""

    idle_seconds: int = 3600
    absolute_seconds: int = 86_400


@dataclass(frozen=True, slots=True)
class SignInSettings:
    """Failed sign-ins of one account (NIST SP 800-63B-4 section 3.2.2)."""

    failures_before_wait: int = 5
    """So many go without a wait."""
    first_wait_seconds: int = 30
    """The wait after the next one; it doubles with each that follows."""
    longest_wait_seconds: int = 3600
    max_failures: int = 100
    """After so many the authenticator is locked."""


@dataclass(frozen=True, slots=True)
class BrandingSettings:
    """How a tenant's pages and mails look. Addresses are `https://` only; None leaves the platform's own."""

    name: str | None = None
    logo_url: str | None = None
    support_url: str | None = None
    accent_colour: str | None = None
    """`#rrggbb`, lower case."""


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """All settings of one tenant."""

    password: PasswordSettings = field(default_factory=PasswordSettings)
    mfa: MfaSettings = field(default_factory=MfaSettings)
    sessions: SessionSettings = field(default_factory=SessionSettings)
    sign_in: SignInSettings = field(default_factory=SignInSettings)
    allowed_claims: tuple[str, ...] = ("roles",)
    """Claims that tokens for this tenant's users may carry."""
    branding: BrandingSettings = field(default_factory=BrandingSettings)


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What the platform sets for all tenants: the bounds of their settings, and the grace before one is gone."""

    deletion_grace_seconds: float = 30 * 86_400
    """How long a deleted tenant can be restored before everything of it is removed."""
    min_password_length: int = SHORTEST_ALONE
    """Least `password.min_length` of a tenant; 15 or more (NIST SP 800-63B-4 section 3.1.1.2)."""
    min_password_length_with_mfa: int = 8
    """Least `password.min_length_with_mfa` of a tenant."""
    mfa_required: bool = False
    """Whether every tenant must demand a second factor of everybody."""
    check_breached: bool = False
    """Whether every tenant must refuse breached passwords."""
    max_idle_seconds: int = 3600
    """Longest `sessions.idle_seconds` of a tenant."""
    max_absolute_seconds: int = 86_400
    """Longest `sessions.absolute_seconds` of a tenant."""
    max_sign_in_failures: int = 100
    """Most `sign_in.max_failures` of a tenant."""
    claims: tuple[str, ...] = (
        "email",
        "email_verified",
        "groups",
        "locale",
        "name",
        "permissions",
        "preferred_username",
        "roles",
        "tenant",
    )
    """Claims that a tenant may allow."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"`{name}` must be from {low} to {high}")


_RANGES = (
    ("deletion_grace_seconds", 0, 10 * 365 * 86_400),
    ("min_password_length", SHORTEST_ALONE, 64),
    ("min_password_length_with_mfa", 8, 64),
    ("max_idle_seconds", 60, 30 * 86_400),
    ("max_absolute_seconds", 300, 30 * 86_400),
    ("max_sign_in_failures", 5, 100),
)
