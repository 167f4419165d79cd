"""The second factors of the application: which methods there are, and what proves each."""

from collections.abc import AsyncIterator

from aiohttp import web

from authn.enrol_on_sign_in import SignInEnrolments
from authn.factors import FactorKind, FactorMethod, SecondFactor
from authn.new_factors import NewFactor, NewTotp
from authn.own_factors import OwnFactors
from authn.prove_recovery_code import RecoveryCodeProofs
from authn.prove_totp import TotpProofs
from authn.reset_factors import FactorAdministration
from service.http.account_factors import OWN_FACTORS
from service.http.account_links import ACCOUNT_FLOWS
from service.http.admin_factors import FACTOR_ADMINISTRATION
from service.http.sign_in_enrolment import ENROLMENTS
from service.keys import CHALLENGES, FACTORS, KEY_RING, NEW_FACTORS, NODE, SESSIONS, TENANT_LIMITS
from service.mfa_demands import NodeDemands
from service.sign_in_part import SIGN_IN_END


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
    """Part of the application: what people and administrators do with second factors; opens after sign-in."""
    app[OWN_FACTORS] = OwnFactors(app[ACCOUNT_FLOWS], NodeDemands(app[NODE]))
    kinds = app[NEW_FACTORS]
    app[ENROLMENTS] = SignInEnrolments(app[ACCOUNT_FLOWS], app[CHALLENGES], kinds, app[SIGN_IN_END], app[NODE].now)
    app[FACTOR_ADMINISTRATION] = FactorAdministration(app[ACCOUNT_FLOWS])
    yield
