"""`/v1/tenants/{tenant}/settings` and `kasbah tenant settings`."""

import pytest

from tests.support.administration import Service

pytestmark = pytest.mark.integration

URL = "/v1/tenants/acme/settings"


async def test_settings_are_read_replaced_and_patched(admin: Service) -> None:
    """The ETag is the tenant's revision; null gives a default back; lists are replaced whole."""
    own = await admin.tenant("acme")
    first = await admin.get(URL, key=own)
    assert first.status == 200
    assert first.json["password"]["min_length"] == 15
    tag = first.headers["ETag"]
    put = {"password": {"min_length": 20}, "allowed_claims": ["email", "roles"]}
    second = await admin.ask("PUT", URL, put, key=own, headers={"If-Match": tag})
    assert (second.status, second.json["password"]["min_length"]) == (200, 20)
    assert int(second.headers["Kasbah-Revision"]) == int(first.headers["Kasbah-Revision"]) + 1
    stale = await admin.ask("PUT", URL, {}, key=own, headers={"If-Match": tag})
    assert (stale.status, stale.problem) == (412, "revision-conflict")
    patch = {"password": {"min_length": None, "max_length": 128}, "branding": {"name": "Acme"}}
    merge = {"Content-Type": "application/merge-patch+json"}
    third = await admin.ask("PATCH", URL, patch, key=own, headers=merge)
    assert third.json["password"] == first.json["password"] | {"max_length": 128}
    assert third.json["allowed_claims"] == ["email", "roles"]
    assert (await admin.get(URL, key=own)).body == third.body
    fourth = await admin.ask("PUT", URL, {}, key=own)
    assert fourth.json == first.json


@pytest.mark.parametrize(
    ("patch", "status", "problem", "pointer"),
    [
        (b"", 400, "invalid-request", None),
        (b'{"mfa": {"demand": "optional", "demand": "required"}}', 400, "invalid-request", "/mfa/demand"),
        ([], 422, "invalid-settings", ""),
        ({"password": {"hash": "x"}}, 422, "invalid-settings", "/password/hash"),
        ({"sessions": {"idle_seconds": "60"}}, 422, "invalid-settings", "/sessions/idle_seconds"),
        ({"password": {"min_length": 8}}, 422, "settings-out-of-bounds", "/password/min_length"),
        ({"sessions": {"idle_seconds": 7200}}, 422, "settings-out-of-bounds", "/sessions/idle_seconds"),
    ],
)
async def test_what_is_refused_is_pointed_at(admin: Service, patch, status, problem, pointer) -> None:
    """And changes nothing."""
    own = await admin.tenant("acme")
    before = await admin.get(URL, key=own)
    refused = await admin.ask("PATCH", URL, patch, key=own)
    assert (refused.status, refused.problem, refused.json.get("pointer")) == (status, problem, pointer)
    after = await admin.get(URL, key=own)
    assert (after.body, after.headers["ETag"]) == (before.body, before.headers["ETag"])


async def test_only_json_and_merge_patches_are_taken(admin: Service) -> None:
    """A browser form cannot change anything; a PUT is no merge patch."""
    own = await admin.tenant("acme")
    for method, kind in (
        ("PATCH", "text/plain"),
        ("PATCH", "application/x-www-form-urlencoded"),
        ("PATCH", "application/json-patch+json"),
        ("PUT", "application/merge-patch+json"),
    ):
        refused = await admin.ask(method, URL, b"{}", key=own, headers={"Content-Type": kind})
        assert refused.status == 400, kind


async def test_the_history_says_who_changed_settings_and_why(admin: Service) -> None:
    """The reason comes as a parameter: the body is the document."""
    own = await admin.tenant("acme")
    await admin.ask("PATCH", f"{URL}?reason=audit", {"mfa": {"demand": "required"}}, key=own)
    newest = (await admin.get("/v1/tenants/acme/policy/history?limit=1", key=own)).json["changes"][0]
    assert (newest["kind"], newest["reason"]) == ("settings", "audit")
    assert (await admin.ask("PATCH", f"{URL}?reason=a%0ab", {}, key=own)).status == 400
