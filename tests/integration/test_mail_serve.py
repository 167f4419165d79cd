"""Mails of a real `kasbah serve`: queued by a worker, sent by the process that runs jobs, their links good on any worker."""

import asyncio
import email
import time
import urllib.request
from email import policy
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.seeding import seed

pytestmark = [pytest.mark.integration, pytest.mark.process]

GOOD = "quiet rivers carry small stones"


def mail_to(outbox: Path, address: str) -> str:
    """Return the text of the mail for an address, once it was written."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for file in outbox.glob("*.eml"):
            message = email.message_from_bytes(file.read_bytes(), policy=policy.default)
            if message["To"] == address:
                return str(message.get_content())
        time.sleep(0.05)
    raise AssertionError(f"no mail for {address} in {outbox}")


def test_from_an_invitation_to_an_account_by_real_processes(start_service, database_url, tmp_path):
    """Two workers, a bulk worker that sends, and pages: the person's key works in the end, and nothing secret is logged."""
    outbox = tmp_path / "outbox"
    service = start_service(KASBAH_WORKERS="2", KASBAH_MAIL__OUTBOX_DIR=str(outbox), KASBAH_LOG_LEVEL="DEBUG")
    key = asyncio.run(seed(database_url, {"acme": []})).keys["acme"]
    made = service.request("POST", "/v1/invitations", {"email": "carol@example.org"}, key=key)
    assert made.status == 201, made.body
    text = mail_to(outbox, "carol@example.org")
    token = text.partition("token=")[2].split()[0]
    page = service.request("GET", f"/account/invitation?token={token}")
    assert page.status == 200
    assert b"carol@example.org" in page.body
    form = {"token": token, "username": "carol", "display_name": "", "password": GOOD, "again": GOOD}
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    sent = urllib.request.Request(f"{service.base_url}/account/invitation", urlencode(form).encode(), headers)
    with urllib.request.urlopen(sent, timeout=60) as done:  # goes on to the page that it is sent to
        assert done.url.endswith("/account/done/invitation")
        assert b"ready" in done.read()
    found = service.request("GET", "/v1/users?identifier=carol", key=key).json()["users"]
    assert [(user["username"], user["email"], bool(user["email_verified_at"])) for user in found] == [
        ("carol", "carol@example.org", True)
    ]
    service.stop()
    log = service.log.read_text("utf-8")
    assert "mail.sent" in log
    for secret in (token, GOOD, "carol@example.org"):
        assert secret not in log
