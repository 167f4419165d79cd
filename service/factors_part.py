"""The second factors of the application: which methods there are, and what proves each."""

from collections.abc import AsyncIterator

from aiohttp import web

from authn.factors import FactorKind, FactorMethod, SecondFactor
from authn.new_factors import NewFactor, NewTotp
from authn.prove_recovery_code import RecoveryCodeProofs
from authn.prove_totp import TotpProofs
from service.keys import FACTORS, KEY_RING, NEW_FACTORS, SESSIONS, TENANT_LIMITS


async def second_factors(app: web.Application) -> AsyncIterator[None]:
    """Part of the application: opens after the key ring."""
    factors: dict[FactorMethod, SecondFactor] = {
        FactorMethod.TOTP: TotpProofs(app[SESSIONS], app[KEY_RING], limits=app.get(TENANT_LIMITS)),
        FactorMethod.RECOVERY_CODE: RecoveryCodeProofs(app[SESSIONS], app[KEY_RING], limits=app.get(TENANT_LIMITS)),
    }
    app[FACTORS] = factors
    kinds: dict[FactorKind, NewFactor] = {FactorKind.TOTP: NewTotp(app[KEY_RING], limits=app.get(TENANT_LIMITS))}
    app[NEW_FACTORS] = kinds
    yield
