"""Opens what signing in needs: Valkey for challenges and sessions; the steps of a sign-in and what limits them."""

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

from aiohttp import web

from authn.challenge_storage import ChallengeStore
from authn.finish_sign_in import SignInEnd
from authn.forget_devices import KnownDevices
from authn.second_step import SecondSteps
from authn.sign_in import SignIns
from authn.sign_in_counters import SignInCounters
from authn.sign_in_notices import SignInNotices
from authn.sign_in_settings import SignInLimits
from authn.sign_in_throttles import SignInThrottles
from authn.volatile_values import VolatileValues
from authz.settings import CacheSettings
from service.app import Part
from service.keys import (
    CHALLENGES,
    FACTORS,
    KEY_RING,
    METRICS,
    NEW_FACTORS,
    NODE,
    PASSWORDS,
    SESSION_STORE,
    SESSIONS,
    SIGN_IN_AUDIT,
    TENANT_LIMITS,
    VOLATILE,
)
from service.mail_part import hurry_mails
from service.mfa_demands import NodeDemands
from service.sign_in_aftermath import Aftermath

SIGN_INS: web.AppKey[SignIns] = web.AppKey("SIGN_INS")
SECOND_STEPS: web.AppKey[SecondSteps] = web.AppKey("SECOND_STEPS")
SIGN_IN_END: web.AppKey[SignInEnd] = web.AppKey("SIGN_IN_END")
"""What lets a session begin, however it was proven."""
SIGN_IN_THROTTLES: web.AppKey[SignInThrottles] = web.AppKey("SIGN_IN_THROTTLES")
SIGN_IN_COUNTERS: web.AppKey[SignInCounters] = web.AppKey("SIGN_IN_COUNTERS")
KNOWN_DEVICES: web.AppKey[KnownDevices] = web.AppKey("KNOWN_DEVICES")
AFTERMATH: web.AppKey[Aftermath] = web.AppKey("AFTERMATH")


def volatile(settings: CacheSettings) -> Part:
    """Return the part; it opens after the node, whose time it uses."""

    async def part(app: web.Application) -> AsyncIterator[None]:
        values = app[VOLATILE] = VolatileValues(
            settings.url.get_secret_value(),
            settings.secret.get_secret_value().encode(),
            timeout_seconds=settings.timeout.total_seconds(),
        )
        app[CHALLENGES] = ChallengeStore(values, app[NODE].now)
        yield
        await values.close()

    return part


def signing_in(limits: SignInLimits) -> Part:
    """Return the part; it opens after sessions, second factors, the audit and mails."""

    async def part(app: web.Application) -> AsyncIterator[None]:
        sessions, ring, tenants, factors = app[SESSIONS], app[KEY_RING], app.get(TENANT_LIMITS), app[FACTORS]
        kinds = app[NEW_FACTORS]
        end = app[SIGN_IN_END] = SignInEnd(
            sessions, app[SESSION_STORE], ring, device_life=timedelta(days=limits.device_days), limits=tenants
        )
        throttles = app[SIGN_IN_THROTTLES] = SignInThrottles(sessions, app[VOLATILE].derived("sign-in-buckets"), limits)
        app[SIGN_INS] = SignIns(
            sessions,
            app[PASSWORDS],
            throttles,
            app[CHALLENGES],
            end=end,
            demands=NodeDemands(app[NODE]),
            provable=factors,
            bindable=kinds,
            limits=tenants,
        )
        app[SECOND_STEPS] = SecondSteps(sessions, app[CHALLENGES], factors, end, app[NODE].now)
        app[SIGN_IN_COUNTERS] = SignInCounters(sessions, tenants)
        app[KNOWN_DEVICES] = KnownDevices(sessions)
        notices = SignInNotices(sessions, app[SIGN_IN_AUDIT], ring)
        aftermath = app[AFTERMATH] = Aftermath(notices, partial(hurry_mails, app), app[METRICS].count_event)
        yield
        await aftermath.settled()

    return part
