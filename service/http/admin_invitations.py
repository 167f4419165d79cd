"""`/v1/invitations`: invite people to accounts of a tenant, list, send anew and revoke."""

from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web

from authn.errors import InvitationNotFoundError
from authn.invitations import MAX_ROLES, Invitation, Inviter, NewInvitation
from authn.invite import Invited, end_invitation, get_invitation, invite, page_of_invitations, resend_invitation
from authn.users import normalize_display_name, normalize_email
from authz.change_policy import check_new_rows
from authz.request import Ref
from authz.rules import Owner, RoleLink
from service.edge_errors import InvalidRequestError, NoSuchResourceError
from service.http.account_links import ACCOUNT_FLOWS
from service.http.admin import ADMINISTRATION, json_answer, meta_of, no_content, written
from service.http.idempotency import OnceFor, idempotent
from service.http.ids import path_id
from service.http.lists import Cursor, page_limit
from service.http.policy_wire import read_struct
from service.keys import CALLER, TENANT
from service.mail_part import hurry_mails
from service.rights import require_grantable
from service.routes import Needs, Route
from tenancy.tenant import TenantHead


class NewInvite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to invite, and the roles and groups that the account starts with."""

    email: str
    roles: list[str] = []
    display_name: str | None = None
    reason: str | None = None


_decoder = msgspec.json.Decoder(NewInvite)


@idempotent
async def create(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST an invitation; the link is in the mail, and nowhere else."""
    wanted = read_struct(body, _decoder)
    roles = await _roles(request, wanted.roles)
    caller = request[CALLER]
    new = NewInvitation(
        normalize_email(wanted.email),
        None if wanted.display_name is None else normalize_display_name(wanted.display_name),
        tuple(roles),
        Inviter(caller.subject, caller.home, caller.scopes),
    )

    def answer(invited: Invited) -> web.Response:
        head, invitation = invited
        response = json_answer(_shown(request, invitation), status=201, head=head)
        response.headers["Location"] = f"/v1/invitations/{invitation.id}"
        return response

    meta = meta_of(request, wanted.reason)
    invited = await invite(request.app[ACCOUNT_FLOWS], request[TENANT], new, meta=meta, once=once_for(answer))
    await _told(request, invited[0])
    return answer(invited)


async def list_all(request: web.Request) -> web.Response:
    """GET invitations, oldest first, those that are over too."""
    cursor = Cursor("invitations", request[TENANT])
    page, after = await page_of_invitations(
        request.app[ACCOUNT_FLOWS], request[TENANT], cursor.read_id(request), page_limit(request)
    )
    return json_answer({"invitations": [_shown(request, each) for each in page], "next_cursor": cursor.show(after)})


async def read(request: web.Request) -> web.Response:
    """GET one invitation."""
    found = await _found(get_invitation(request.app[ACCOUNT_FLOWS], request[TENANT], _id(request)))
    return json_answer(_shown(request, found))


async def resend(request: web.Request) -> web.Response:
    """POST: the mail goes out anew with another link, and the time begins again. Judged as a new invitation."""
    flows, tenant_id, invitation_id = request.app[ACCOUNT_FLOWS], request[TENANT], _id(request)
    before = await _found(get_invitation(flows, tenant_id, invitation_id))
    await _roles(request, list(before.roles))
    head, invitation = await _found(resend_invitation(flows, tenant_id, invitation_id, meta=meta_of(request)))
    await _told(request, head)
    return json_answer(_shown(request, invitation), head=head)


async def revoke(request: web.Request) -> web.Response:
    """DELETE an invitation: its link does nothing from now on."""
    flows = request.app[ACCOUNT_FLOWS]
    head = await _found(end_invitation(flows, request[TENANT], _id(request), meta=meta_of(request)))
    await written(request, head)
    return no_content(head)


async def _roles(request: web.Request, names: list[str]) -> list[Ref]:
    """Return typed names that may be granted, by this caller, in this tenant."""
    if len(names) > MAX_ROLES or len(set(names)) < len(names):
        raise InvalidRequestError(f"`roles` are at most {MAX_ROLES}, each once", "/roles")
    roles = [Ref(name) for name in names]
    # The account's id is set aside later; any will do to ask whether its roles may stand in this tenant's policy.
    links = [RoleLink(Ref("user:invited"), role, owner=Owner.API) for role in roles]
    await check_new_rows(links, request[TENANT], request.app[ADMINISTRATION].writer)
    await require_grantable(request, roles)
    return roles


async def _told(request: web.Request, head: TenantHead) -> None:
    await written(request, head)
    hurry_mails(request.app)


async def _found(asked: Any) -> Any:
    try:
        return await asked
    except InvitationNotFoundError:
        raise NoSuchResourceError from None


def _id(request: web.Request) -> UUID:
    return path_id(request, "invitation_id")


def _shown(request: web.Request, invitation: Invitation) -> dict[str, Any]:
    return {
        "id": invitation.id,
        "user_id": invitation.user_id,
        "email": invitation.email,
        "display_name": invitation.display_name,
        "roles": list(invitation.roles),
        "status": invitation.status(request.app[ADMINISTRATION].node.now()).value,
        "created_at": invitation.created_at,
        "created_by": invitation.created_by,
        "expires_at": invitation.expires_at,
        "accepted_at": invitation.accepted_at,
        "revoked_at": invitation.revoked_at,
    }


_READ = Needs("user:read", "kasbah:invitation", "read", home=True)


def _write(action: str) -> Needs:
    return Needs("invitation:write", "kasbah:invitation", action, home=True)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/invitations", list_all, _READ),
    Route("POST", "/v1/invitations", create, _write("create"), seconds=None),
    Route("GET", "/v1/invitations/{invitation_id}", read, _READ),
    Route("POST", "/v1/invitations/{invitation_id}/resend", resend, _write("resend"), seconds=None),
    Route("DELETE", "/v1/invitations/{invitation_id}", revoke, _write("revoke"), seconds=None),
)
