"""Usernames in policy files, looked up among the accounts of the request's tenant, and back again for an export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from authn.users import subject_ref, user_id_of
from authz.account_names import subjects_of, with_ids
from authz.ports import TenantHead
from authz.request import Ref
from authz.rules import Row
from service.http.admin import ADMINISTRATION
from service.http.admin_users import USERS
from service.keys import TENANT


@dataclass(frozen=True, slots=True)
class Resolved:
    """Rows with ids instead of usernames, the subject of each name, and where the tenant stands with these accounts."""

    head: TenantHead
    rows: list[Row]
    subjects: Mapping[str, Ref]


async def with_accounts(request: web.Request, rows: list[Row], names: Sequence[str]) -> Resolved:
    """Return rows with the ids of the accounts that they name.

    Raises:
        UnknownAccountNameError: a name is nobody's.
    """
    head, found = await request.app[USERS].find_ids(request[TENANT], names)
    subjects = {name: Ref(subject_ref(user_id)) for name, user_id in found.items()}
    return Resolved(head, await request.app[ADMINISTRATION].work.run(lambda: with_ids(rows, subjects)), subjects)


async def usernames_in(request: web.Request, rows: Sequence[Row]) -> dict[Ref, str]:
    """Return the username of every account among the subjects of rows."""
    work = request.app[ADMINISTRATION].work
    ids = await work.run(lambda: [found for ref in subjects_of(rows) if (found := user_id_of(ref)) is not None])
    found = await request.app[USERS].find_usernames(request[TENANT], ids)
    return {Ref(subject_ref(user_id)): name for user_id, name in found.items()}
