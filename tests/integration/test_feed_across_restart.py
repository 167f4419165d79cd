"""The change feed over a killed server: a reader that says what it saw last misses nothing."""

import http.client
import json
from collections.abc import Iterator

import pytest

from service.bootstrap import create_platform_key
from tests.support.running_service import RunningService

pytestmark = [pytest.mark.integration, pytest.mark.process]


def events(service: RunningService, key: str, last: int | None) -> Iterator[tuple[int, dict]]:
    """Yield (id, change) of a stream on a connection of its own, until it breaks."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    connection.request(
        "GET", "/v1/tenants/acme/changes", headers=headers | ({"Last-Event-ID": str(last)} if last else {})
    )
    response = connection.getresponse()
    assert response.status == 200
    identifier = 0
    try:
        while line := response.readline().decode():
            if line.startswith("id: "):
                identifier = int(line[4:])
            elif line.startswith("data: "):
                yield identifier, json.loads(line[6:])
    finally:
        connection.close()


def add_rule(service: RunningService, key: str, number: int) -> int:
    """Add one rule; returns the revision."""
    row = {"type": "rule", "subject": "role:a", "resource": f"doc:{number}", "action": "read"}
    answer = service.request("POST", "/v1/tenants/acme/rules", {"add": [row]}, key=key)
    assert answer.status == 200, answer.body
    return int(answer.json()["revision"])


async def test_a_killed_server_loses_no_event(start_service, database_url: str) -> None:
    """SIGKILL in the middle; writes while the reader is away, through another process; then every revision, once."""
    key = await create_platform_key(database_url, "feed")
    first = start_service()
    assert first.request("POST", "/v1/tenants", {"slug": "acme"}, key=key).status == 201
    written = [add_rule(first, key, number) for number in range(3)]
    seen = []
    for identifier, change in events(first, key, None):
        seen.append(identifier)
        assert change["revision"] == identifier
        if identifier == written[-1]:
            break
    first.kill()
    second = start_service()
    written += [add_rule(second, key, number) for number in range(3, 6)]
    for identifier, _ in events(second, key, seen[-1]):
        seen.append(identifier)
        if identifier == written[-1]:
            break
    assert seen == list(range(1, written[-1] + 1))


async def test_a_stream_on_one_node_hears_of_writes_on_another(start_service, database_url: str) -> None:
    """Both nodes serve one database; the notice or the poll brings the change across."""
    key = await create_platform_key(database_url, "feed")
    one, other = start_service(), start_service()
    one.request("POST", "/v1/tenants", {"slug": "acme"}, key=key)
    start = add_rule(one, key, 100)
    stream = events(one, key, start)
    revision = add_rule(other, key, 101)
    assert next(stream)[0] == revision
    stream.close()
