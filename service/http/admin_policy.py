"""`/v1/tenants/{tenant}/policy/…`: plan, apply, roll back, export."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import msgspec
from aiohttp import web

from authz.account_names import account_names, name_in
from authz.apply_policy import apply_policy
from authz.errors import ModelError, RevisionConflictError
from authz.flips import Flips
from authz.plan import Plan, TenantFlips, base_flips, plan, plan_digest, plan_rows
from authz.policy_files import read_columns
from authz.ports import StoredModel, TenantHead
from authz.rollback_policy import rollback_policy
from authz.row_checks import check_hierarchy, check_rows
from authz.rules import Owner, RoleLink, Row, Rule, StoredEntity
from authz.served_model import ServedModel
from authz.write_ports import ChangeResult, CurrentRows
from service.edge_errors import InvalidRequestError
from service.http.account_names import with_accounts
from service.http.admin import (
    ADMINISTRATION,
    Administration,
    expected_revision,
    heavy,
    is_base,
    meta_of,
    raw_answer,
    written,
)
from service.http.admin_errors import PlanMismatchError
from service.http.admin_model import decide_alike
from service.http.admin_rows import change_answer
from service.http.lists import MAX_PAGE
from service.http.plan_wire import shown_plan
from service.http.policy_wire import read_rows, read_struct
from service.keys import TENANT
from service.request_body import read_json_body
from service.rights import judge_of
from tenancy.ids import BASE_TENANT_ID

MAX_COMPARED_TENANTS = 200
"""Tenants whose flips a plan of the base counts; the plan says when there are more."""

_ROWS: tuple[type[Row], ...] = (Rule, RoleLink, StoredEntity)
_BASE_ROWS: tuple[type[Row], ...] = (Rule, RoleLink)
_encode = msgspec.json.Encoder().encode


class PlanBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every row that files should own.

    `base_rows` are the base rows that the same directory brings, so that flips are those of both together; for a plan
    of the base, `except_tenants` names the tenants that are planned by themselves. `model` is the model that will be
    applied first; rows are then checked against its columns.
    """

    rows: list[msgspec.Raw]
    base_rows: list[msgspec.Raw] | None = None
    except_tenants: list[str] = []
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=65536)] | None = None


class ApplyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rows of a plan, with the revision and digest that it showed."""

    rows: list[msgspec.Raw]
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    reason: str | None = None
    git_commit: str | None = None


class RollbackBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The revision whose file-owned rows come back."""

    to_revision: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    reason: str | None = None


_plan_decoder = msgspec.json.Decoder(PlanBody)
_apply_decoder = msgspec.json.Decoder(ApplyBody)
_rollback_decoder = msgspec.json.Decoder(RollbackBody)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a plan is asked about, read and checked on its own."""

    desired: list[Row]
    desired_base: list[Row] | None
    except_tenants: frozenset[str]
    model: StoredModel | None
    names: list[str]
    """Accounts that the rows mention by name."""


async def plan_policy(request: web.Request) -> web.Response:
    """POST the desired rows; answers what applying them would do. Changes nothing.

    What apply would refuse, a plan refuses: the same checks run on the same rows.
    """
    admin = request.app[ADMINISTRATION]
    async with admin.work.place(request[TENANT]):
        body = await read_json_body(request)
        with admin.work.many_rows():
            head, answer = await _planned(request, body)
    return raw_answer(answer, head=head)


async def _planned(request: web.Request, body: bytes) -> tuple[TenantHead, bytes]:
    """Return the encoded plan; no row outlives this call, so that none is left for the collector."""
    admin, tenant_id = request.app[ADMINISTRATION], request[TENANT]
    base = tenant_id == BASE_TENANT_ID
    asked = await admin.work.run(lambda: _read_plan(body, base=base))
    # What was planned is what is sent again: an apply looks names up anew, at the revision of the plan.
    digest = await admin.work.run(lambda: plan_digest(tenant_id, asked.desired)) if asked.names else None
    named = await with_accounts(request, asked.desired, asked.names) if asked.names else None
    if named is not None:
        asked = replace(asked, desired=named.rows)
    current = await admin.writer.current_rows(tenant_id)
    if named is not None and named.head.version != current.head.version:
        raise RevisionConflictError(named.head.revision, current.head.revision)
    models = await admin.work.run(lambda: _models(admin, current, asked))
    await admin.work.run(lambda: _check(current, asked))
    if base:
        found = await _plan_base(admin, current, asked, models)
    else:
        found = await admin.work.run(lambda: _plan_tenant(admin, current, asked, models))
    if digest is not None:
        found = replace(found, digest=digest)
    accounts = {} if named is None else {"accounts": {ref: name_in(name) for name, ref in named.subjects.items()}}
    return found.head, await admin.work.run(lambda: _encode(shown_plan(found) | accounts))


def _read_plan(body: bytes, *, base: bool) -> _Asked:
    asked = read_struct(body, _plan_decoder)
    desired = _file_rows(asked.rows, "/rows", base=base)
    return _Asked(
        desired=desired,
        names=[] if base else list(account_names(desired)),
        desired_base=None if asked.base_rows is None else _file_rows(asked.base_rows, "/base_rows", base=True),
        except_tenants=frozenset(asked.except_tenants),
        model=None if asked.model is None else StoredModel.of(asked.model),
    )


def _models(admin: Administration, current: CurrentRows, asked: _Asked) -> tuple[ServedModel, ServedModel]:
    """Return the models of before and after."""
    before = admin.models.get(current.model)
    return before, before if asked.model is None else admin.models.get(asked.model)


def _check(current: CurrentRows, asked: _Asked) -> None:
    """Refuse what apply would refuse; raises `InvalidRowError` or `ModelError`."""
    columns = read_columns((asked.model or current.model).text)
    if columns is None:
        raise ModelError("the model has no policy definition that can be served")
    check_rows(asked.desired, current.head.tenant_id, columns)
    kept = [link for link in current.links if link.owner is Owner.API and not link.is_membership]
    base = current.base_links if asked.desired_base is None else asked.desired_base
    links = [row for row in (*base, *kept, *asked.desired) if isinstance(row, RoleLink) and not row.is_membership]
    check_hierarchy(links)


def _plan_tenant(
    admin: Administration, current: CurrentRows, asked: _Asked, models: tuple[ServedModel, ServedModel]
) -> Plan:
    if not decide_alike(*models):
        found = plan_rows(current, asked.desired, models[1])
        return replace(found, flips=(TenantFlips(current.head.slug, _UNCOUNTED),))
    now = admin.node.now()
    return plan(current, asked.desired, models[1], now=now, desired_base=asked.desired_base)


async def _plan_base(
    admin: Administration, current: CurrentRows, asked: _Asked, models: tuple[ServedModel, ServedModel]
) -> Plan:
    """Plan the base, and count flips tenant by tenant, holding the rows of one tenant at a time."""
    found = await admin.work.run(lambda: plan_rows(current, asked.desired, models[1]))
    if not decide_alike(*models):
        return replace(found, flips=(TenantFlips(current.head.slug, _UNCOUNTED),))
    flips: list[TenantFlips] = []
    after: str | None = None
    while found.pending:
        page = await admin.tenants.list(after, MAX_PAGE)
        for tenant in page.tenants:
            if tenant.head.slug in asked.except_tenants:
                continue
            if len(flips) >= MAX_COMPARED_TENANTS:
                return replace(found, flips=_cut_short(flips))
            rows = await admin.writer.current_rows(tenant.head.tenant_id)
            now = admin.node.now()
            flips.append(await admin.work.run(partial(base_flips, rows, asked.desired, models[1], now=now)))
        after = page.cursor
        if after is None:
            break
    return replace(found, flips=_telling(flips))


_UNCOUNTED = Flips(complete=False, note="flips are not counted: the model decides in another way than today's")


def _telling(flips: Sequence[TenantFlips]) -> tuple[TenantFlips, ...]:
    return tuple(part for part in flips if part.flips.total or not part.flips.complete)


def _cut_short(flips: Sequence[TenantFlips]) -> tuple[TenantFlips, ...]:
    last = flips[-1]
    note = f"flips of tenants after `{last.slug}` are not counted"
    return (*_telling(flips[:-1]), TenantFlips(last.slug, replace(last.flips, complete=False, note=note)))


async def apply(request: web.Request) -> web.Response:
    """POST the rows of a plan; makes the file-owned rows exactly those, or changes nothing."""
    work = request.app[ADMINISTRATION].work
    async with work.place(request[TENANT]):
        body = await read_json_body(request)
        with work.many_rows():
            result = await _applied(request, body)
    await written(request, result.head)
    return change_answer(result)


async def _applied(request: web.Request, body: bytes) -> ChangeResult:
    admin = request.app[ADMINISTRATION]
    tenant_id = request[TENANT]

    def read() -> tuple[ApplyBody, list[Row]]:
        asked = read_struct(body, _apply_decoder)
        desired = _file_rows(asked.rows, "/rows", base=is_base(request))
        if plan_digest(tenant_id, desired) != asked.digest:
            raise PlanMismatchError("the rows are not those of the plan")
        return msgspec.structs.replace(asked, rows=[]), desired

    asked, desired = await heavy(request, read)
    names = [] if is_base(request) else await admin.work.run(lambda: list(account_names(desired)))
    if names:
        # INVARIANT: names are looked up at the revision that the write demands, and every change of an account raises
        # it: so they stand for the same accounts when the rows are written.
        named = await with_accounts(request, desired, names)
        desired = named.rows
        if named.head.revision != asked.revision:
            raise RevisionConflictError(asked.revision, named.head.revision)
    return await apply_policy(
        tenant_id,
        desired,
        planned_revision=asked.revision,
        meta=meta_of(request, asked.reason, asked.git_commit),
        writer=admin.writer,
        judge=judge_of(request),
    )


async def rollback(request: web.Request) -> web.Response:
    """POST an earlier revision; its file-owned rows become a new revision, what the API owns stays."""
    admin = request.app[ADMINISTRATION]
    asked = read_struct(await read_json_body(request), _rollback_decoder)
    async with admin.work.place(request[TENANT]):
        with admin.work.many_rows():
            result = await rollback_policy(
                request[TENANT],
                asked.to_revision,
                expected_revision=expected_revision(request),
                meta=meta_of(request, asked.reason),
                writer=admin.writer,
                judge=judge_of(request),
            )
    await written(request, result.head)
    return change_answer(result)


def _file_rows(raws: Sequence[msgspec.Raw], pointer: str, *, base: bool) -> list[Row]:
    rows = read_rows(raws, pointer, owner=Owner.FILES, base=base, allowed=_BASE_ROWS if base else _ROWS)
    for place, row in enumerate(rows):
        if row.source is None:
            raise InvalidRequestError("a row of files says its file and line", f"{pointer}/{place}/source")
    return rows
