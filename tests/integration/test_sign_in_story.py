"""What a new user would try: from the first password to a recovery code, on two nodes, and all of it in the audit."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyotp
import pytest

from service.bootstrap import create_platform_key
from tests.support.paths import ROOT
from tests.support.post import Post
from tests.support.running_service import Answer, RunningService, clean_environment
from tests.support.software_authenticator import SoftwareAuthenticator

pytestmark = [pytest.mark.integration, pytest.mark.process, pytest.mark.slow]

PASSWORD = "mild otters borrow seven umbrellas"
ORIGIN = "https://sign-in.example"
ADDRESS = "grace@globex.example"
SECONDS = 15.0
"""How long a disabled account may still be let in by another node, however busy the machine: half of how long a node
remembers a session that it never hears of again."""


class Browser:
    """Somebody who talks to one node."""

    def __init__(self, node: RunningService, session: str | None = None) -> None:
        self.node = node
        self.session = session

    def ask(self, method: str, path: str, body: object = None, *, status: int | None = 200) -> Answer:
        """Send a request with the session there is; a new one in the answer takes its place."""
        headers = {"X-Tenant-ID": "globex", "User-Agent": "Mosaic/3.0"}
        answer = self.node.request(method, path, body, key=self.session, headers=headers)
        assert status in {None, answer.status}, (method, path, answer.status, answer.body)
        said = answer.json() if answer.body and answer.status < 300 else {}
        if isinstance(said, dict) and isinstance(said.get("session"), dict) and "token" in said["session"]:
            self.session = said["session"]["token"]
        return answer

    def sign_in(self, method: str | None = None, code: str | None = None, key: SoftwareAuthenticator | None = None):
        """Sign in with the password and a second factor; returns what came of it."""
        half = self.ask("POST", "/v1/auth/login", {"identifier": "grace", "password": PASSWORD}).json()
        if method is None:
            return half
        assert half["status"] == "mfa_required"
        proof = {"challenge": half["challenge"], "method": method}
        if key is None:
            return self.ask("POST", "/v1/auth/mfa/verify", proof | {"code": code}).json()
        options = self.ask("POST", "/v1/auth/mfa/options", proof).json()["options"]
        return self.ask("POST", "/v1/auth/mfa/verify", proof | {"assertion": key.get(options)}).json()


@pytest.fixture
def post():
    with Post().open() as opened:
        yield opened


@pytest.fixture
def nodes(start_service, post):
    """Two services beside each other, on one PostgreSQL and one Valkey."""
    settings = {"KASBAH_PUBLIC_URL": ORIGIN, **post.settings()}
    return start_service(**settings), start_service(**settings)


@pytest.fixture
def operator(nodes, database_url, tmp_path):
    """Whoever runs the platform, with a key of it; tenant globex is there, and demands second factors."""
    platform_key = asyncio.run(create_platform_key(database_url, "operator"))
    apply_base(tmp_path / "policies", nodes[0].base_url, platform_key)
    slug = {"slug": "globex", "display_name": "Globex"}
    assert nodes[0].request("POST", "/v1/tenants", slug, key=platform_key).status == 201
    operator = Browser(nodes[0], platform_key)
    operator.ask("PATCH", "/v1/tenants/globex/settings", {"mfa": {"demand": "required"}})
    return operator


def apply_base(policies: Path, base_url: str, key: str) -> None:
    """Apply the base that comes with Kasbah, and a rule besides: settings are changed with a security key only."""
    (policies / "_base").mkdir(parents=True)
    shutil.copy(ROOT / "policies/model.conf", policies)
    rules = (ROOT / "policies/_base/policy.csv").read_text("utf-8")
    more = """p, role:tenant-admin, *, kasbah:settings, write, deny, "!('hwk' in auth.amr)"\n"""
    (policies / "_base/policy.csv").write_text(rules + more)
    subprocess.run(
        [sys.executable, "-m", "service", "policy", "apply", str(policies), "--yes"],
        cwd=ROOT,
        env=clean_environment(KASBAH_URL=base_url, KASBAH_API_KEY=key),
        check=True,
        timeout=300,
    )


def test_from_the_first_password_to_a_recovery_code(nodes, operator, post) -> None:
    """Enrolment is forced, factors sign in, get lost and are replaced; a disabled account is out everywhere at once."""
    one, other = Browser(nodes[0]), Browser(nodes[1])
    grace = invited(operator, post, "role:tenant-admin")

    # The password alone signs nobody in: an authenticator must be bound first, by whoever reads the mails.
    half = one.sign_in()
    assert (half["status"], "session" in half) == ("enrollment_required", False)
    challenge = {"challenge": half["challenge"]}
    one.ask("POST", "/v1/auth/enrolment/mail", challenge, status=202)
    mailed = re.search(r"^\s*(\d{8})\s*$", post.to(ADDRESS, about="code").text, re.MULTILINE)
    assert mailed is not None
    begun = one.ask(
        "POST", "/v1/auth/enrolment/begin",
        challenge | {"method": "totp", "name": "phone", "code": mailed.group(1)},
    ).json()  # fmt: skip
    phone, now = pyotp.parse_uri(begun["uri"]), int(time.time())
    done = one.ask("POST", "/v1/auth/enrolment/finish", challenge | {"code": phone.at(now)}).json()
    assert (done["status"], done["session"]["acr"]) == ("authenticated", "aal2")
    recovery = done["recovery_codes"]
    assert len(set(recovery)) == 10

    # The authenticator signs in, once for each code, on the other node as well.
    signed_in = other.sign_in("totp", phone.at(now + 30))
    assert (signed_in["session"]["acr"], signed_in["session"]["amr"]) == ("aal2", ["pwd", "otp", "mfa"])
    half = other.sign_in()
    spent = {"challenge": half["challenge"], "method": "totp", "code": phone.at(now + 30)}
    other.ask("POST", "/v1/auth/mfa/verify", spent, status=401)

    # A security key beside it; then both are lost, and a recovery code is good for binding a new one, and nothing else.
    key = SoftwareAuthenticator(ORIGIN)
    started = other.ask("POST", "/v1/users/me/security-keys", {"name": "yellow key"}, status=201).json()
    other.ask("POST", f"/v1/users/me/security-keys/{started['id']}", {"attestation": key.create(started["public_key"])})
    assert other.sign_in("webauthn", key=key)["session"]["amr"] == ["pwd", "hwk", "mfa"]
    recovered = one.sign_in("recovery_code", recovery[0])
    assert recovered["session"]["amr"] == ["pwd", "mfa"]
    one.ask("GET", "/v1/users", status=403)
    begun = one.ask("POST", "/v1/users/me/factors", {"kind": "totp", "name": "new phone"}, status=201).json()
    phone, now = pyotp.TOTP(begun["secret"]), int(time.time())
    one.ask("POST", f"/v1/users/me/factors/{begun['id']}/confirm", {"code": phone.at(now)})
    one.ask("GET", "/v1/users")

    # A route may take more than that sign-in, and says what (RFC 9470); signing in so satisfies it.
    branding = {"branding": {"name": "Globex"}}
    refused = one.ask("PATCH", "/v1/tenants/globex/settings", branding, status=401)
    assert 'error="insufficient_user_authentication"' in refused.headers["www-authenticate"]
    assert refused.json()["amr_values"] == ["hwk"]
    one.sign_in("webauthn", key=key)
    one.ask("PATCH", "/v1/tenants/globex/settings", branding)

    # Signed in twice, and soon out of both.
    one.sign_in("totp", phone.at(now + 30))
    other.sign_in("webauthn", key=key)
    assert len(one.ask("GET", "/v1/users/me/sessions").json()["sessions"]) >= 2
    operator.ask("POST", f"/v1/users/{grace}/disable", {"reason": "left"})
    began = time.monotonic()
    for browser in (one, other):
        while browser.ask("GET", "/v1/users/me", status=None).status != 401:
            assert time.monotonic() < began + SECONDS, "a disabled account is still let in"
            time.sleep(0.02)
    one.session = None
    one.ask("POST", "/v1/auth/login", {"identifier": "grace", "password": PASSWORD}, status=401)

    story = operator.ask("GET", "/v1/audit?order=oldest&limit=500").json()["events"]
    told = [event["action"] for event in story if event.get("target") == f"user:{grace}"]
    assert [told.count(action) for action in ("session.begin", "user.disable", "factor.enrol")] == [7, 1, 3]
    assert "mild otters" not in json.dumps(story)
    assert begun["secret"] not in json.dumps(story)
    refused = operator.ask("GET", "/v1/audit?chain=sign_in").json()["events"]
    assert [event["action"] for event in refused] == ["sign_in.refuse"]


def invited(operator: Browser, post: Post, role: str) -> str:
    """Invite somebody who accepts; returns the account's id."""
    operator.ask("POST", "/v1/invitations", {"email": ADDRESS, "roles": [role]}, status=201)
    accepting = {"token": post.to(ADDRESS).token, "username": "grace", "password": PASSWORD}
    return operator.node.request("POST", "/v1/account/invitation", accepting).json()["user"]["id"]
