"""The gate at work: who writes, what they hold, and the policy that they write, all of one revision.

A write is judged inside its own transaction, when the tenant is locked and what changes is known: nothing can come
between the judgement and the write.
"""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from authz.errors import GrantRefusedError, StaleError, TargetTooPowerfulError
from authz.evaluate import EvaluationNode, StateView
from authz.grants import Gate, Holder, held_by, require_power
from authz.key_scopes import key_scopes
from authz.own_rights import Own
from authz.ports import TenantHead
from authz.request import Ref
from authz.rights import EVERYTHING, Catalogue, Right, Rights, held_rights, index_rows
from authz.row_changes import RowChanges
from authz.served_names import SCOPE_SUBJECTS
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId

_LARGE = 1000
"""From so many changed rows on, judging them goes to a thread: decisions on the same node must not wait for it."""


class GrantNode(EvaluationNode, Protocol):
    """The part of `authz.node.Node` that the gate needs."""

    async def watch(self, tenant_id: TenantId) -> TenantHead:
        """Return a tenant's head as PostgreSQL says it now."""


@dataclass(frozen=True, slots=True)
class Grantor:
    """Who gives: the scopes of a key, and its owner if it is a personal one.

    `home` is where the owner's rights are: its tenant, or the platform. `weak`: the owner is not known to have proven
    two factors, so roles that demand them give nothing.
    """

    scopes: frozenset[str]
    home: TenantId
    person: Ref | None = None
    weak: bool = False


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """Return everything that routes ask about."""
    return Catalogue.of(Right(rule.resource, rule.action) for rule in key_scopes().rules)


@lru_cache(maxsize=1024)
def rights_of_scopes(scopes: frozenset[str]) -> Rights:
    """Return the rights that a key's scopes stand for."""
    rows = index_rows(key_scopes().rules, opaque=False)
    return held_rights(rows, {f"{SCOPE_SUBJECTS}{scope}" for scope in scopes})


class PolicyJudge:
    """Judges one write of a policy; `authz.write_ports.Judge`."""

    def __init__(self, grantor: Grantor, tenant_id: TenantId, node: GrantNode) -> None:
        self._grantor = grantor
        self._tenant_id = tenant_id
        self._node = node
        holder = Holder((rights_of_scopes(grantor.scopes),), is_person=False)
        everything = holder.lacks(Rights(frozenset((EVERYTHING,))), catalogue()) is None
        self._needless = grantor.person is None and everything
        """A service's key that may do everything can give everything, and has no rights of its own to widen."""

    async def prepare(self) -> None:
        """Bring up what the judgement needs, before the tenant is locked."""
        if not self._needless:
            await _state_of(self._node, self._grantor, _policy_of(self._tenant_id), None)

    async def judge(self, head: TenantHead, changes: RowChanges) -> None:
        """Raise for what may not be written; the tenant is locked at `head`.

        Raises:
            GrantRefusedError: somebody would get what is not the writer's to give.
            OwnRightsError: the writer's own rights would grow.
            StaleError, StorageUnavailableError: what they hold is not known.
        """
        if self._needless:
            return
        written = _policy_of(self._tenant_id)
        least = head.revision if written == self._tenant_id else (await self._node.watch(written)).revision
        state = await _state_of(self._node, self._grantor, written, least)
        if written == self._tenant_id and state.head.version != head.version:
            raise StaleError("the policy that a write is judged by is not the one that it changes")
        gate = Gate(
            state.snapshot,
            await _holder(self._node, self._grantor, state),
            _own(self._grantor, state),
            catalogue(),
            self._node.now(),
        )
        if len(changes.added) + len(changes.removed) + len(changes.updated) < _LARGE:
            gate.judge(changes)
        else:
            await asyncio.to_thread(gate.judge, changes)


async def require_grantable(grantor: Grantor, tenant_id: TenantId, roles: Sequence[Ref], *, node: GrantNode) -> None:
    """Raise `GrantRefusedError` unless the grantor may, now, give every one of these roles of a tenant to somebody."""
    state = await _state_of(node, grantor, tenant_id, None)
    holder = await _holder(node, grantor, state)
    Gate(state.snapshot, holder, None, catalogue(), node.now()).judge_roles(roles)


async def require_power_over(grantor: Grantor, tenant_id: TenantId, target: Ref, *, node: GrantNode) -> None:
    """Raise `TargetTooPowerfulError` unless the grantor could, now, give an account all that it has.

    One's own account is nobody else's to administer, and not one's own either: it has routes that ask for proof.
    """
    if grantor.person == target:
        raise TargetTooPowerfulError("this is your own account: use the routes of your own account")
    state = await _state_of(node, grantor, tenant_id, None, target)
    holder = await _holder(node, grantor, state)
    require_power(state.snapshot, target, state.subjects[target].record, holder, catalogue(), now=node.now())


async def require_scopes(grantor: Grantor, scopes: AbstractSet[str], *, node: GrantNode) -> None:
    """Raise `GrantRefusedError` unless the grantor holds, now, every right that a service's key with `scopes` has."""
    state = await _state_of(node, grantor, grantor.home, None)
    holder = await _holder(node, grantor, state)
    for scope in sorted(scopes):
        excess = holder.lacks(rights_of_scopes(frozenset((scope,))), catalogue())
        if excess is not None:
            raise GrantRefusedError(f"a key with the scope `{scope}` may {excess}, which you do not hold yourself")


async def require_everything(grantor: Grantor, *, node: GrantNode) -> None:
    """Raise `GrantRefusedError` unless the grantor holds, now, every administrative right.

    For what decides about all others: another model can let everybody have everything.
    """
    if grantor.person is None:
        holder = Holder((rights_of_scopes(grantor.scopes),), is_person=False)
    else:
        holder = await _holder(node, grantor, await _state_of(node, grantor, grantor.home, None))
    excess = holder.lacks(Rights(frozenset((EVERYTHING,))), catalogue())
    if excess is not None:
        raise GrantRefusedError(f"this decides about all rights, and you do not hold {excess}")


def _policy_of(tenant_id: TenantId) -> TenantId:
    """Return whose policy shows what a write changes: of the base, the platform's, which holds its rows too."""
    return PLATFORM_TENANT_ID if tenant_id == BASE_TENANT_ID else tenant_id


async def _state_of(node: GrantNode, grantor: Grantor, tenant_id: TenantId, least: int | None, *more: Ref) -> StateView:
    subjects = [*more] if grantor.person is None else [grantor.person, *more]
    return await node.load(tenant_id, subjects, (), least)


async def _holder(node: GrantNode, grantor: Grantor, state: StateView) -> Holder:
    carried = rights_of_scopes(grantor.scopes)
    if grantor.person is None:
        return Holder((carried,), is_person=False)
    if state.head.tenant_id != grantor.home:
        state = await node.load(grantor.home, [grantor.person], (), None)
    record = state.subjects[grantor.person].record
    return Holder(
        (held_by(state.snapshot, grantor.person, record, node.now(), weak=grantor.weak), carried), is_person=True
    )


def _own(grantor: Grantor, state: StateView) -> Own | None:
    return None if grantor.person is None else Own(grantor.person, state.subjects[grantor.person].record)
