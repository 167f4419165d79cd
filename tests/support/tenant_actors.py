"""What its tenant does with an account: invites it, demands a second factor of everybody, is suspended."""

from uuid import UUID

from authn.user_rows import read_user
from service.keys import SESSIONS
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.sign_in import PASSWORD, FrontDoor
from tests.support.sign_in_actors import Account, links_of

SETTINGS = "/v1/tenants/acme/settings"


async def open_invited(door: FrontDoor, name: str) -> Account:
    """Invite somebody, who accepts; the answer's ticket stands for a mailed code."""
    made = await door.post("/v1/invitations", {"email": f"{name}@example.org"}, key=door.keys["acme"])
    assert made.status == 201, made.body
    (token,) = links_of(await door.mails(f"{name}@example.org"), "/account/invitation?")
    body = {"token": token, "username": name, "password": PASSWORD}
    answer = await door.post("/v1/account/invitation", body, key="")
    assert answer.status == 201, answer.body
    async with tenant_unit_of_work(door.app[SESSIONS], door.tenants["acme"]) as work:
        held = await read_user(work, UUID(answer.json["user"]["id"]))
    assert held is not None
    account = Account(door, held.user, name, PASSWORD, ticket=answer.json["enrolment_ticket"]["token"])
    account.leaks.passwords.append(PASSWORD)
    return account


async def demand_of_everybody(account: Account, *, demanded: bool) -> None:
    """Let the tenant demand a second factor of all its people, or of nobody."""
    wanted = {"mfa": {"demand": "required" if demanded else "optional"}}
    merge = {"Content-Type": "application/merge-patch+json"}
    answer = await account.door.ask("PATCH", SETTINGS, wanted, key=account.door.keys["acme"], headers=merge)
    assert answer.status == 200, answer.body
    account.everybody = demanded


async def let_tenant(door: FrontDoor, act: str) -> None:
    """Suspend or reactivate the tenant, as the platform does."""
    answer = await door.post(f"/v1/tenants/acme/{act}", {"reason": "asked for"})
    assert answer.status == 200, answer.body
