"""The platform's bounds on what tenants set: refused when written, tightened when read after the bounds moved."""

from collections.abc import Iterator
from dataclasses import replace

from tenancy.errors import SettingsOutOfBoundsError
from tenancy.tenant_settings import MfaDemand, MfaSettings, TenantLimits, TenantSettings


def require_within(settings: TenantSettings, limits: TenantLimits) -> None:
    """Refuse settings that are laxer than the platform allows.

    Raises:
        SettingsOutOfBoundsError: the first such setting, with its pointer and the bound.
    """
    for message, pointer in _beyond(settings, limits):
        raise SettingsOutOfBoundsError(message, pointer)


def relaxes(after: MfaSettings, before: MfaSettings) -> bool:
    """Whether somebody must prove a second factor before and need not after."""
    if after.demand is MfaDemand.REQUIRED or before.demand is MfaDemand.OPTIONAL:
        return False
    return before.demand is MfaDemand.REQUIRED or not set(before.roles) <= set(after.roles)


def tightened(settings: TenantSettings, limits: TenantLimits) -> TenantSettings:
    """Return the settings with everything laxer than the bounds moved to them: bounds that move act at once."""
    if next(_beyond(settings, limits), None) is None:
        return settings
    password, sessions, sign_in = settings.password, settings.sessions, settings.sign_in
    min_length = max(password.min_length, limits.min_password_length)
    absolute = min(sessions.absolute_seconds, limits.max_absolute_seconds)
    failures = min(sign_in.max_failures, limits.max_sign_in_failures)
    return replace(
        settings,
        password=replace(
            password,
            min_length=min_length,
            min_length_with_mfa=max(password.min_length_with_mfa, limits.min_password_length_with_mfa),
            check_breached=password.check_breached or limits.check_breached,
        ),
        mfa=MfaSettings(MfaDemand.REQUIRED) if limits.mfa_required else settings.mfa,
        sessions=replace(
            sessions,
            idle_seconds=min(sessions.idle_seconds, limits.max_idle_seconds, absolute),
            absolute_seconds=absolute,
        ),
        sign_in=replace(
            sign_in, max_failures=failures, failures_before_wait=min(sign_in.failures_before_wait, failures)
        ),
        allowed_claims=tuple(claim for claim in settings.allowed_claims if claim in limits.claims),
    )


def _beyond(settings: TenantSettings, limits: TenantLimits) -> Iterator[tuple[str, str]]:
    """Yield what is laxer than the bounds: what to say, and where."""
    password, sessions = settings.password, settings.sessions
    if password.min_length < limits.min_password_length:
        yield f"the platform asks for at least {limits.min_password_length}", "/password/min_length"
    if password.min_length_with_mfa < limits.min_password_length_with_mfa:
        yield f"the platform asks for at least {limits.min_password_length_with_mfa}", "/password/min_length_with_mfa"
    if limits.check_breached and not password.check_breached:
        yield "the platform has breached passwords refused", "/password/check_breached"
    if limits.mfa_required and settings.mfa.demand is not MfaDemand.REQUIRED:
        yield "the platform demands a second factor of everybody", "/mfa/demand"
    if sessions.idle_seconds > limits.max_idle_seconds:
        yield f"the platform allows at most {limits.max_idle_seconds}", "/sessions/idle_seconds"
    if sessions.absolute_seconds > limits.max_absolute_seconds:
        yield f"the platform allows at most {limits.max_absolute_seconds}", "/sessions/absolute_seconds"
    if settings.sign_in.max_failures > limits.max_sign_in_failures:
        yield f"the platform allows at most {limits.max_sign_in_failures}", "/sign_in/max_failures"
    for index, claim in enumerate(settings.allowed_claims):
        if claim not in limits.claims:
            yield f"the platform does not allow the claim `{claim}`", f"/allowed_claims/{index}"
