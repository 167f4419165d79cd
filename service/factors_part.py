"""The second factors of the application: which methods there are, and what proves each."""

from collections.abc import AsyncIterator

from aiohttp import web

from authn.factors import FactorKind, FactorMethod, SecondFactor
from authn.new_factors import NewFactor, NewTotp
from authn.own_factors import OwnFactors
from authn.prove_recovery_code import RecoveryCodeProofs
from authn.prove_totp import TotpProofs
from authn.reset_factors import FactorAdministration
from service.http.account_factors import OWN_FACTORS
from service.http.account_links import ACCOUNT_FLOWS
from service.http.admin_factors import FACTOR_ADMINISTRATION
from service.keys import FACTORS, KEY_RING, NEW_FACTORS, NODE, SESSIONS, TENANT_LIMITS
from service.mfa_demands import NodeDemands


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


async def factor_flows(app: web.Application) -> AsyncIterator[None]:
    """Part of the application: what people and administrators do with second factors; opens after account flows."""
    app[OWN_FACTORS] = OwnFactors(app[ACCOUNT_FLOWS], NodeDemands(app[NODE]))
    app[FACTOR_ADMINISTRATION] = FactorAdministration(app[ACCOUNT_FLOWS])
    yield
