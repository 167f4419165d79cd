"""Signing in while PostgreSQL is killed or frozen: 503 at each step, nothing half done, and on it goes afterwards."""

import asyncio

import psutil
import pytest

from migrations import runner
from tests.support.administration import Answer
from tests.support.servers import OwnServer
from tests.support.sign_in import FrontDoor, front_door

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PATIENCE = 120


async def until_it_answers(door: FrontDoor) -> Answer:
    """Ask until the database is used again; nothing is restarted."""
    for _ in range(PATIENCE):
        answer = await door.login("alice")
        if answer.status != 503:
            return answer
        await asyncio.sleep(0.5)
    return answer


def freeze_all(server: OwnServer) -> list[psutil.Process]:
    """Stop the server with every one of its processes: connections stay open, nobody answers."""
    postmaster = psutil.Process(server.pid)
    stopped = [postmaster, *postmaster.children(recursive=True)]
    for process in stopped:
        process.suspend()
    return stopped


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_postgresql_nobody_is_signed_in(own_postgres: OwnServer, redis_url: str, how: str) -> None:
    """Both steps; a code that was sent meanwhile and not judged still works."""
    runner.upgrade(own_postgres.url)
    frozen: list[psutil.Process] = []
    async with front_door(own_postgres.url, redis_url=redis_url, hasty=True) as door:
        alice = await door.user("alice")
        phone = await door.phone(alice)
        half = (await door.login("alice")).json["challenge"]
        code = phone.code(1)
        if how == "killed":
            own_postgres.kill()
        else:
            frozen = freeze_all(own_postgres)
        answers = (await door.login("alice"), await door.login("nobody"), await door.verify(half, "totp", code))
        if how == "killed":
            own_postgres.start_again()
        else:
            for process in frozen:
                process.resume()
        for answer in answers:
            assert answer.status == 503, answer.body
            assert int(answer.headers["Retry-After"]) > 0
        again = await until_it_answers(door)
        assert again.json["status"] == "mfa_required", again.body
        done = await door.verify(again.json["challenge"], "totp", code)
        assert done.status == 200, done.body
        begun = [event for event in door.events("tenant") if event["action"] == "session.begin"]
        assert len(begun) == 1
