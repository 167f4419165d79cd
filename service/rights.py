"""Whether a caller may use a route: decided by Kasbah's own engine, on what its key carries and what its owner may.

A service's key has no owner: its scopes decide, by the built-in policy (`authz/key_scopes.csv`). The key of a person or
of a service account may do what both its scopes and its owner may, now: the owner's rights are those of the subject
`user:<id>` or `service:<id>` on `kasbah:…` resources in the owner's own domain, the tenant or `_platform`. What cannot
be known is 503, never an allow.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from uuid import UUID

from aiohttp import web

from authz.decision import Decision
from authz.errors import TenantNotFoundError
from authz.evaluate import evaluate_many
from authz.granting import Grantor, PolicyJudge
from authz.granting import require_everything as grantor_holds_everything
from authz.granting import require_grantable as grantor_may_give
from authz.granting import require_power_over as grantor_stands_above
from authz.granting import require_scopes as grantor_holds
from authz.key_scopes import key_scopes
from authz.request import Action, EvaluationRequest, Ref, parse_ref
from authz.write_ports import Judge
from service.caller import Caller
from service.edge_errors import (
    InsufficientAuthenticationError,
    MissingRightError,
    MissingScopeError,
    NotAuthenticatedError,
)
from service.fast_callers import DECISION_SCOPES
from service.fast_callers import DECISIONS as DECISIONS  # noqa: PLC0414 - what routes ask about
from service.http.revisions import likely_min_revision
from service.keys import CALLER, NODE, TENANT
from service.routes import Needs
from service.subject_sign_ins import sign_in_of
from tenancy.ids import TenantId


async def judged(request: web.Request, caller: Caller, access: Needs) -> Caller:
    """Return the caller as the route may take it, or refuse it.

    Raises:
        MissingScopeError: the key lacks the scope.
        MissingRightError: its owner lacks the right.
        InsufficientAuthenticationError: its owner would have it after a stronger or fresher sign-in.
        NotAuthenticatedError: its owner's tenant is gone.
        StaleError, StorageUnavailableError: what the owner may do is not known.
    """
    if access.by_scope:
        require_scope(caller, access.scope)
        return caller
    if not key_scopes().allow(caller.scopes, access.resource, access.action):
        raise MissingScopeError(f"this needs the scope `{access.scope}`")
    if caller.owner is None:
        return caller
    if access.resource == DECISIONS:
        return await judged_for_decisions(request, caller, access.scope)
    (decision,) = await _owner_decisions(request, caller, [(access.resource, access.action)])
    _require(decision, access.resource, access.action)
    return caller


async def may(request: web.Request, resource: str, action: str) -> bool:
    """Return whether the caller may do one more thing, besides what the route asked about."""
    caller = request[CALLER]
    if not key_scopes().allow(caller.scopes, resource, action):
        return False
    if caller.owner is None:
        return True
    (decision,) = await _owner_decisions(request, caller, [(resource, action)])
    return decision.allowed


def require_scope(caller: Caller, scope: str) -> None:
    """Refuse a caller whose key lacks a scope."""
    if scope not in caller.scopes:
        raise MissingScopeError(f"this needs the scope `{scope}`")


def require_service_key(caller: Caller, scope: str) -> None:
    """Refuse a personal key, and one that lacks a scope."""
    require_scope(caller, scope)
    if caller.user_id is not None:
        raise MissingScopeError("this needs the key of a service, and yours is a person's")


async def judged_for_decisions(request: web.Request, caller: Caller, scope: str) -> Caller:
    """Return the caller with those decision scopes that its owner, if it has one, may use; refuse it without `scope`.

    Raises:
        MissingRightError: the owner lacks the right.
        InsufficientAuthenticationError: it would have it after a stronger or fresher sign-in.
        NotAuthenticatedError: its owner's tenant is gone.
        StaleError, StorageUnavailableError: what the owner may do is not known.
    """
    action = scope.partition(":")[2]
    if scope not in caller.scopes:
        raise MissingRightError(f"you may not `{action}` on `{DECISIONS}`")
    if caller.owner is None:
        return caller
    carried = [each for each in DECISION_SCOPES if each in caller.scopes]
    pairs = [(DECISIONS, each.partition(":")[2]) for each in carried]
    answers = dict(zip(carried, await _owner_decisions(request, caller, pairs), strict=True))
    _require(answers[scope], DECISIONS, action)
    refused = {each for each, decision in answers.items() if not decision.allowed}
    return replace(caller, scopes=caller.scopes - refused, judged=True)


def _require(decision: Decision, resource: str, action: str) -> None:
    """Refuse an account that the engine denied; say so where another sign-in would be enough."""
    if decision.allowed:
        return
    told = decision.step_up
    if told is not None:
        raise InsufficientAuthenticationError(" ".join(told.acr_values), told.max_age, told.amr_values)
    raise MissingRightError(f"you may not `{action}` on `{resource}`")


async def _owner_decisions(request: web.Request, caller: Caller, pairs: list[tuple[str, str]]) -> list[Decision]:
    """Return what the owner of a key or session may do, pair by pair, at one revision of its own domain."""
    subject, known = parse_ref(caller.subject), sign_in_of(caller)
    auth = None if known is None else known.auth
    questions = [
        EvaluationRequest(subject, Action(action), parse_ref(resource), auth=auth) for resource, action in pairs
    ]
    # A revision that the caller demands is one of its tenant; the platform counts by itself.
    least = likely_min_revision(request.headers) if caller.tenant_id is not None else 0
    try:
        return await evaluate_many(
            request.app[NODE], caller.home, questions, min_revision=least or None, step_up=known is not None
        )
    except TenantNotFoundError:
        raise NotAuthenticatedError from None


def grantor_of(caller: Caller) -> Grantor:
    """Return who gives, as the gate knows them."""
    known = sign_in_of(caller)
    weak = known is not None and known.auth is not None and known.auth.is_weak
    return Grantor(caller.scopes, caller.home, caller.owner, weak=weak)


def judge_of(request: web.Request) -> Judge:
    """Return what judges the write of a policy that the request is about (docs/adr/0018)."""
    return PolicyJudge(grantor_of(request[CALLER]), request[TENANT], request.app[NODE])


async def require_grantable(request: web.Request, roles: Sequence[Ref]) -> None:
    """Refuse a caller that may not give one of these roles of the request's tenant to somebody.

    Raises:
        GrantRefusedError: a right is missing, or a role holds more than the caller does.
        StaleError, StorageUnavailableError: what the caller holds is not known.
    """
    await grantor_may_give(grantor_of(request[CALLER]), request[TENANT], roles, node=request.app[NODE])


async def require_power_over(request: web.Request, user_id: UUID, *, tenant_id: TenantId | None = None) -> None:
    """Refuse a caller that could not give a person all that their account has; as `require_power_over_subject`."""
    await require_power_over_subject(request, Ref(f"user:{user_id}"), tenant_id=tenant_id)


async def require_power_over_subject(request: web.Request, target: Ref, *, tenant_id: TenantId | None = None) -> None:
    """Refuse a caller that could not give an account all that it has; the account is of the request's tenant.

    Before another one's password, address, state, factors or keys are changed: who changes them can become the other.

    Raises:
        TargetTooPowerfulError: the account has more, or is the caller's own.
        StaleError, StorageUnavailableError: what either of them holds is not known.
    """
    of = request[TENANT] if tenant_id is None else tenant_id
    await grantor_stands_above(grantor_of(request[CALLER]), of, target, node=request.app[NODE])


async def require_scopes(request: web.Request, scopes: AbstractSet[str]) -> None:
    """Refuse an account that does not hold every right that a service's key with these scopes has.

    A service's key gives only scopes that it carries, which is looked at where keys are made.
    """
    caller = request[CALLER]
    if caller.owner is not None:
        await grantor_holds(grantor_of(caller), scopes, node=request.app[NODE])


async def require_everything(request: web.Request) -> None:
    """Refuse a caller that does not hold every right: what is asked for decides about all of them.

    Raises:
        GrantRefusedError: a right is missing.
        StaleError, StorageUnavailableError: what the caller holds is not known.
    """
    await grantor_holds_everything(grantor_of(request[CALLER]), node=request.app[NODE])


def require_person(caller: Caller) -> UUID:
    """Return who owns the caller's key; refuse the key of a service."""
    if caller.user_id is None:
        raise MissingScopeError("this needs a person's key, and yours is a service's")
    return caller.user_id
