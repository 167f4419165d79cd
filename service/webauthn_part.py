"""Security keys of the application: to whom they are bound, and what proves one."""

from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from authn.factors import FactorKind, FactorMethod
from authn.prove_webauthn import WebauthnProofs
from authn.register_webauthn import NewSecurityKey
from authn.relying_party import RelyingParty
from authn.webauthn_registrations import KeyRegistrations
from service.app import Part
from service.http.account_webauthn import KEY_REGISTRATIONS
from service.keys import FACTORS, KEY_RING, NEW_FACTORS, SECURITY_KEYS, SESSIONS, TENANT_LIMITS

_log = structlog.get_logger()


def security_keys(party: RelyingParty | None) -> Part:
    """Return the part of the application that takes security keys: opens after the other factors."""

    async def part(app: web.Application) -> AsyncIterator[None]:
        if party is None:
            _log.warning("webauthn.off", consequence="no security keys: set KASBAH_WEBAUTHN__ORIGINS")
        else:
            app[KEY_REGISTRATIONS] = KeyRegistrations(app[SESSIONS])
            app[SECURITY_KEYS] = app[NEW_FACTORS][FactorKind.WEBAUTHN] = NewSecurityKey(party)
            app[FACTORS][FactorMethod.WEBAUTHN] = WebauthnProofs(
                app[SESSIONS], app[KEY_RING], party, limits=app.get(TENANT_LIMITS)
            )
        yield

    return part
