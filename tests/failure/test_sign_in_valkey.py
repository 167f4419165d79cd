"""Signing in while Valkey is killed, frozen or comes back empty: nothing is skipped, and nothing needs a restart."""

import pytest

from tests.support.servers import OwnServer
from tests.support.sign_in import WRONG, front_door

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_valkey_nobody_is_signed_in_and_everything_counts(
    own_database_url: str, own_valkey: OwnServer, how: str
) -> None:
    """503 at each step, within its bounds; failures are counted; afterwards it goes on from the password."""
    async with front_door(own_database_url, redis_url=own_valkey.url, hasty=True) as door:
        alice = await door.user("alice")
        await door.user("bob")
        phone = await door.phone(alice)
        half = (await door.login("alice")).json["challenge"]
        if how == "killed":
            own_valkey.kill()
        else:
            own_valkey.freeze()
        for answer in (
            await door.login("alice"),
            await door.login("bob"),
            await door.verify(half, "totp", phone.code()),
        ):
            assert (answer.status, answer.problem) == (503, "storage-unavailable")
            assert int(answer.headers["Retry-After"]) > 0
        assert [(await door.login("bob", WRONG)).status for _ in range(6)] == [401] * 6
        if how == "killed":
            own_valkey.start_again()
            lost = await door.verify(half, "totp", phone.code())
            assert (lost.status, lost.problem) == (410, "challenge-expired")
        else:
            own_valkey.thaw()
        assert (await door.login("bob")).status == 429, "what failed meanwhile is counted"
        again = (await door.login("alice")).json["challenge"]
        assert (await door.verify(again, "totp", phone.code(1))).status == 200
