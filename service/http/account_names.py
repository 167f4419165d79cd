"""Names of accounts in policy files, looked up among those of the request's tenant, and back again for an export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from authn.service_accounts import service_account_id_of, service_ref
from authn.users import subject_ref, user_id_of
from authz.account_names import name_in, subjects_of, with_ids
from authz.ports import TenantHead
from authz.request import Ref
from authz.rules import Row
from authz.served_names import NAMED, NAMED_SERVICE
from service.http.admin import ADMINISTRATION
from service.http.admin_service_accounts import SERVICE_ACCOUNTS
from service.http.admin_users import USERS
from service.keys import TENANT

_SERVICE = "service:"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Rows with ids instead of names, the subject of each name, and where the tenant stands with these accounts."""

    head: TenantHead
    rows: list[Row]
    subjects: Mapping[str, Ref]


async def with_accounts(request: web.Request, rows: list[Row], names: Sequence[str]) -> Resolved:
    """Return rows with the ids of the accounts that they name, as `authz.account_names.account_names` gives them.

    Raises:
        UnknownAccountNameError: a name is nobody's.
    """
    services = {name: name_in(name) for name in names if name.startswith(NAMED_SERVICE)}
    people = {name: name_in(name) for name in names if name.startswith(NAMED)}
    # INVARIANT: where the tenant stood before the one look-up counts for the other, too: whoever demands this revision
    # when it writes finds out what changed in between.
    head, found = await request.app[SERVICE_ACCOUNTS].find_ids(request[TENANT], list(services.values()))
    subjects = {name: Ref(service_ref(found[said])) for name, said in services.items() if said in found}
    if people:
        later, users = await request.app[USERS].find_ids(request[TENANT], list(people.values()))
        head = head if services else later
        subjects |= {name: Ref(subject_ref(users[said])) for name, said in people.items() if said in users}
    return Resolved(head, await request.app[ADMINISTRATION].work.run(lambda: with_ids(rows, subjects)), subjects)


async def names_in(request: web.Request, rows: Sequence[Row], *, services: bool) -> dict[Ref, str]:
    """Return the name of every account among the subjects of rows; of service accounts when they are asked for."""
    subjects = await request.app[ADMINISTRATION].work.run(lambda: subjects_of(rows))
    users = [found for ref in subjects if (found := user_id_of(ref)) is not None]
    accounts = [
        account
        for ref in subjects
        if services and ref.startswith(_SERVICE)
        if (account := service_account_id_of(ref.removeprefix(_SERVICE))) is not None
    ]
    usernames = await request.app[USERS].find_usernames(request[TENANT], users)
    names = await request.app[SERVICE_ACCOUNTS].find_names(request[TENANT], accounts)
    return {Ref(subject_ref(user_id)): name for user_id, name in usernames.items()} | {
        Ref(service_ref(account_id)): name for account_id, name in names.items()
    }
