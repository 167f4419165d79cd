"""What a reader copies out of `docs/openapi.yaml` is what the service takes."""

import pytest
import yaml

from tests.support.paths import ROOT

DOCUMENT = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text("utf-8"))
EXPECTED = {
    "/v1/tenants": 201,
    "/v1/keys": 201,
    "/v1/tenants/{tenant}/keys": 201,
    "/v1/tenants/{tenant}/policy/apply": 409,  # its digest is of no plan
    "/v1/account/verification": 410,  # its token, as those below, is nobody's
    "/v1/account/address-confirmation": 410,
    "/v1/account/address-undo": 410,
    "/v1/account/password-reset": 410,
    "/v1/account/invitation": 410,
    "/v1/account/password-reset-request": 202,
    "/v1/auth/login": 401,  # nobody has that name
    "/v1/auth/mfa/options": 410,  # its challenge is nobody's, as below
    "/v1/auth/mfa/verify": 410,
    "/v1/auth/enrolment/mail": 410,
    "/v1/auth/enrolment/begin": 410,
    "/v1/auth/enrolment/finish": 410,
    "/v1/invitations": 201,
    "/v1/users": 201,
    "/v1/users/me/keys": 403,  # as above
    "/v1/bootstrap": 403,  # its token is nobody's
    "/v1/encryption/rotation": 201,
    "/v1/encryption/rotation retire": 409,  # the one before is under way
    "/v1/users/{user_id}/disable": 404,  # a path that names nobody, as those below
    "/v1/users/{user_id}/enable": 404,
    "/v1/users/{user_id}/password-reset": 404,
    "/v1/users/{user_id}/factors/reset": 404,
    "/v1/users/me/factors": 403,  # no key signs in, here and below
    "/v1/users/me/factors/{factor_id}/confirm": 404,
    "/v1/users/me/security-keys/{registration_id}": 404,
    "/v1/users/me/keys/{key_id}/rotate": 404,
    "/v1/keys/{key_id}/rotate": 404,
    "/v1/tenants/{tenant}/keys/{key_id}/rotate": 404,
    "/v1/service-accounts": 201,
    "/v1/service-accounts/{service_account_id}/disable": 404,
    "/v1/service-accounts/{service_account_id}/enable": 404,
    "/v1/service-accounts/{service_account_id}/keys": 404,
    "/v1/service-accounts/{service_account_id}/keys/{key_id}/rotate": 404,
    "/v1/users/me/email": 403,  # the platform's key is no person's
    "/v1/users/me/password": 403,  # the platform's key is no person's
    "/v1/users/me/security-keys": 403,  # as above
}
"""Where the answer is not 200; a path, or a path and one of its examples."""

pytestmark = pytest.mark.integration


async def test_every_example_is_taken(admin):
    """Each body as it stands there, sent to its route."""
    await admin.tenant("acme")
    sent = 0
    for path, item in DOCUMENT["paths"].items():
        for method in {"post", "put"} & item.keys():
            operation = item[method]
            media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for name, example in media.get("examples", {}).items():
                route = path.replace("{tenant}", "acme")
                answer = await admin.ask(method.upper(), route, example["value"], headers={"X-Tenant-ID": "acme"})
                expected = EXPECTED.get(f"{path} {name}", EXPECTED.get(path, 200))
                assert answer.status == expected, (method, path, name, answer.body)
                sent += 1
    assert sent >= 15
