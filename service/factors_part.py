"""The second factors of the application: which methods there are, and what proves each."""

from collections.abc import AsyncIterator

from aiohttp import web

from authn.factors import FactorMethod, SecondFactor
from authn.prove_recovery_code import RecoveryCodeProofs
from authn.prove_totp import TotpProofs
from service.keys import FACTORS, KEY_RING, SESSIONS, TENANT_LIMITS


async def second_factors(app: web.Application) -> AsyncIterator[None]:
    """Part of the application: opens after the key ring."""
    factors: dict[FactorMethod, SecondFactor] = {
        FactorMethod.TOTP: TotpProofs(app[SESSIONS], app[KEY_RING], limits=app.get(TENANT_LIMITS)),
        FactorMethod.RECOVERY_CODE: RecoveryCodeProofs(app[SESSIONS], app[KEY_RING], limits=app.get(TENANT_LIMITS)),
    }
    app[FACTORS] = factors
    yield
