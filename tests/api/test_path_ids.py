"""Ids in paths have one spelling. Another one names nothing, however well PostgreSQL would read it."""

import pytest

from service.http.ids import id_of
from tests.support.administration import Service

USER_ROUTES = (
    ("GET", "/v1/users/{}", None),
    ("GET", "/v1/users/{}/sessions", None),
    ("GET", "/v1/users/{}/factors", None),
    ("GET", "/v1/users/{}/sign-in", None),
    ("DELETE", "/v1/users/{}/sign-in/failures?reason=x", None),
    ("DELETE", "/v1/users/{}/sign-in/devices?reason=x", None),
    ("POST", "/v1/users/{}/verification", None),
    ("POST", "/v1/users/{}/password-reset", {"reason": "x"}),
    ("POST", "/v1/users/{}/factors/reset", {"reason": "x"}),
    ("POST", "/v1/users/{}/disable", {"reason": "x"}),
    ("DELETE", "/v1/users/{}?reason=x", None),
)


@pytest.mark.parametrize(("method", "path", "body"), USER_ROUTES, ids=lambda value: str(value).replace("/", "_"))
async def test_an_account_has_one_spelling(admin: Service, method: str, path: str, body: object) -> None:
    """In capitals, without its hyphens or in braces it is nobody's, and nothing is done."""
    key = await admin.tenant("acme")
    user = (await admin.post("/v1/users", {"username": "ada"}, key=key)).json["id"]
    for other in (user.upper(), user.replace("-", ""), f"%7B{user}%7D"):
        answer = await admin.ask(method, path.format(other), body, key=key)
        assert answer.status == 404, answer.body
    found = await admin.get(f"/v1/users/{user}", key=key)
    assert (found.status, found.json["status"]) == (200, "active")


async def test_a_key_and_an_invitation_have_one_spelling(admin: Service) -> None:
    """As an account has."""
    key = await admin.tenant("acme")
    made = (await admin.post("/v1/tenants/acme/keys", {"name": "k"}, key=key)).json["id"]
    invited = (await admin.post("/v1/invitations", {"email": "carol@example.org"}, key=key)).json["id"]
    for path in (f"/v1/tenants/acme/keys/{made.upper()}", f"/v1/invitations/{invited.upper()}"):
        assert (await admin.ask("DELETE", path, key=key)).status == 404
    assert (await admin.get(f"/v1/invitations/{invited}", key=key)).json["status"] == "pending"


@pytest.mark.parametrize("text", ["", "1", "me", "00000000-0000-0000-0000-00000000000G", "urn:uuid:" + "0" * 32])
def test_what_spells_no_id(text: str) -> None:
    """None, and no error."""
    assert id_of(text) is None
