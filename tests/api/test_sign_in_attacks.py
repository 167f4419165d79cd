"""What an attacker tries at the front door, over two nodes: nobody is signed in who did not prove everything."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from authn.password_hashing import BoundedPool, PasswordHasher
from authn.sign_in_settings import SignInLimits
from service.keys import CHALLENGES, PASSWORDS, SESSION_STORE, VOLATILE
from tests.support.administration import Answer
from tests.support.factors import wrong_code
from tests.support.sign_in import PASSWORD, WRONG, FrontDoor, two_doors

WIDE = SignInLimits(network_failures=100_000, tenant_failures=1_000_000)
"""One test machine is one network."""


@pytest.fixture
async def doors(own_database_url: str) -> AsyncIterator[tuple[FrontDoor, FrontDoor]]:
    async with two_doors(own_database_url, sign_in=WIDE) as running:
        yield running


@contextmanager
def hashes_counted(*doors: FrontDoor) -> Iterator[Counter[str]]:
    """Count what was compared in the hashing pools, by whether there was something to compare with."""
    counted: Counter[str] = Counter()
    patched = pytest.MonkeyPatch()

    def watch(hasher: PasswordHasher) -> None:
        original = hasher.verify

        async def verify(password: str, stored: str | None, **more: object) -> object:
            found = await original(password, stored, **more)  # type: ignore[arg-type]
            counted["nobody" if stored is None else "stored"] += 1
            return found

        patched.setattr(hasher, "verify", verify)

    for door in doors:
        watch(door.app[PASSWORDS])
    try:
        yield counted
    finally:
        patched.undo()


async def many(doors: tuple[FrontDoor, FrontDoor], number: int, *, at_once: int = 4, **more: str) -> list[Answer]:
    """Send the same sign-in many times, half to each node."""
    turns = asyncio.Semaphore(at_once)

    async def one(position: int) -> Answer:
        async with turns:
            return await doors[position % 2].login("alice", more.get("password", WRONG))

    return await asyncio.gather(*(one(position) for position in range(number)))


async def test_two_hundred_guesses_at_once_over_two_nodes_are_judged_six_times(doors) -> None:
    """Whatever the timing: the count is taken before a password is judged."""
    await doors[0].user("alice")
    with hashes_counted(*doors) as counted:
        answers = await many(doors, 200, at_once=20)
    assert counted["stored"] <= 6
    assert counted["nobody"] == 0
    statuses = Counter(answer.status for answer in answers)
    assert 0 < statuses[401] <= counted["stored"]
    assert set(statuses) <= {401, 429, 503}
    assert (await doors[0].login("alice")).status == 429


async def test_the_last_failure_locks_and_no_guess_is_judged_any_more(doors) -> None:
    """In a tenant that locks after twenty, fourteen failed; of sixty more at once six are judged, and no right one."""
    alice = await doors[0].user("alice")
    doors[0].execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 14)",
        alice.tenant_id,
        alice.id,
    )
    doors[0].execute(
        "INSERT INTO tenant_settings (tenant_id, settings) VALUES (%s, %s)",
        alice.tenant_id,
        json.dumps({"sign_in": {"failures_before_wait": 20, "max_failures": 20}}),
    )
    with hashes_counted(*doors) as counted:
        answers = await many(doors, 60)
        judged = counted["stored"]
        right = await doors[1].login("alice")
    assert 0 < judged <= 6
    # A busy machine may not have compared all in time; who came as the last one was being counted is told to ask again.
    assert {answer.status for answer in answers} <= {401, 429, 503}
    assert (right.status, right.problem) == (401, "invalid-credentials")
    assert counted["stored"] == judged
    assert len({answer.body for answer in [*answers, right] if answer.status == 401}) == 1


async def test_equal_work_for_whoever_is_named(doors) -> None:
    """One hash and as many statements, whether there is such an account, tenant, password or state, or not."""
    door = doors[0]
    await door.user("alice")
    disabled, locked = await door.user("disabled"), await door.user("locked")
    await door.user("invited", password=None)
    await door.user("bob", tenant="beta")
    door.execute("UPDATE users SET status = 'disabled' WHERE user_id = %s", disabled.id)
    door.execute("UPDATE tenants SET status = 'suspended' WHERE slug = 'beta'")
    door.execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 100)",
        locked.tenant_id,
        locked.id,
    )
    work = {}
    for name, tenant in (
        ("alice", "acme"),
        ("nobody", "acme"),
        ("disabled", "acme"),
        ("invited", "acme"),
        ("locked", "acme"),
        ("alice", "nowhere"),
        ("bob", "beta"),
    ):
        with hashes_counted(door) as hashed, door.statements() as asked:
            assert (await door.login(name, WRONG, tenant=tenant)).status == 401
        work[name, tenant] = (sum(hashed.values()), asked)
        await door.settled()  # what differs comes after the answer
    assert len({json.dumps(done) for done in work.values()}) == 1, work
    assert next(iter(work.values()))[0] == 1


async def test_guessing_codes_over_many_challenges_meets_the_authenticators_counter(doors) -> None:
    """Each right password gives a new challenge, and none of them clears what the authenticator counts."""
    alice = await doors[0].user("alice")
    phone = await doors[0].phone(alice)
    wrong, judged = wrong_code(phone), 0
    for number in range(4):
        challenge = (await doors[number % 2].login("alice")).json["challenge"]
        for _ in range(3):
            answer = await doors[(number + 1) % 2].verify(challenge, "totp", wrong)
            assert answer.status in {401, 429}
            judged += answer.status == 401
    assert judged == 6
    fresh = (await doors[0].login("alice")).json["challenge"]
    waiting = await doors[0].verify(fresh, "totp", phone.code())
    assert (waiting.status, waiting.problem) == (429, "too-many-tries")
    assert int(waiting.headers["Retry-After"]) > 0


async def test_a_challenge_takes_five_proofs_however_many_come_at_once(doors) -> None:
    alice = await doors[0].user("alice")
    phone = await doors[0].phone(alice)
    challenge = (await doors[0].login("alice")).json["challenge"]
    wrong = wrong_code(phone)
    answers = await asyncio.gather(*(doors[n % 2].verify(challenge, "totp", wrong) for n in range(20)))
    statuses = Counter(answer.status for answer in answers)
    assert 0 < statuses[401] <= 5
    assert set(statuses) <= {401, 410, 503}
    dead = await doors[0].verify(challenge, "totp", phone.code())
    assert (dead.status, dead.problem) == (410, "challenge-expired")


async def test_one_code_signs_in_once_however_often_it_is_sent(doors) -> None:
    """Of the same challenge and of two: a code works once ever, and a challenge ends once."""
    alice = await doors[0].user("alice")
    phone = await doors[0].phone(alice)
    challenges = [(await door.login("alice")).json["challenge"] for door in doors]
    code = phone.code()
    answers = await asyncio.gather(*(doors[n % 2].verify(challenges[n % 2], "totp", code) for n in range(10)))
    assert Counter(answer.status for answer in answers)[200] == 1
    begun = [event for event in doors[0].events("tenant") if event["action"] == "session.begin"]
    assert len(begun) == 1


async def test_a_challenge_is_worth_nothing_to_anybody_else(doors) -> None:
    """Another program, another factor than it offers, another account's code, another tenant's people."""
    alice, mallory = await doors[0].user("alice"), await doors[0].user("mallory")
    phone, other = await doors[0].phone(alice), await doors[0].phone(mallory)
    challenge = (await doors[0].login("alice")).json["challenge"]
    stolen = await doors[0].verify(challenge, "totp", phone.code(), agent="another program")
    unknown = await doors[0].verify("kasbah_challenge_" + "A" * 43, "totp", phone.code())
    assert (stolen.status, stolen.body) == (unknown.status, unknown.body)
    assert stolen.status == 410
    for tenant in ("beta", "nowhere"):
        other_tenants = await doors[0].verify(challenge, "totp", phone.code(), headers={"X-Tenant-ID": tenant})
        assert (other_tenants.status, other_tenants.body) == (unknown.status, unknown.body)
    for method, given in (("recovery_code", "aaaa-aaaa"), ("webauthn", {"id": "x"})):
        assert (await doors[0].verify(challenge, method, given)).status == 400
    assert (await doors[0].verify(challenge, "totp", other.code())).status == 401
    here = {"X-Tenant-ID": "acme"}
    assert (await doors[1].verify(challenge, "totp", phone.code(), headers=here)).status == 200


async def test_a_challenge_that_a_restored_valkey_brings_back_is_spent(doors) -> None:
    """Whoever puts an older Valkey in place can repeat nothing: what was spent stands in PostgreSQL."""
    alice = await doors[0].user("alice")
    phone = await doors[0].phone(alice)
    challenge = (await doors[0].login("alice")).json["challenge"]
    client = doors[0].app[VOLATILE].client
    name = doors[0].app[CHALLENGES]._name(challenge)
    kept = await client.dump(name)
    assert (await doors[0].verify(challenge, "totp", phone.code())).status == 200
    await client.restore(name, 300_000, kept, replace=True)
    replayed = await doors[1].verify(challenge, "totp", phone.code(1))
    assert (replayed.status, replayed.problem) == (401, "invalid-credentials")
    begun = [event for event in doors[0].events("tenant") if event["action"] == "session.begin"]
    assert len(begun) == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET status = 'disabled', auth_epoch = auth_epoch + 1 WHERE user_id = %s",
        "UPDATE users SET auth_epoch = auth_epoch + 1 WHERE user_id = %s",
        "UPDATE tenants SET status = 'suspended' WHERE tenant_id = (SELECT tenant_id FROM users WHERE user_id = %s)",
    ],
    ids=["disabled", "signed out everywhere", "tenant suspended"],
)
async def test_a_sign_in_slower_than_what_ends_sign_ins_loses(doors, change: str) -> None:
    """Both steps: while the password is compared, and between the password and the code."""
    alice, carol = await doors[0].user("alice"), await doors[0].user("carol")
    phone = await doors[0].phone(carol)
    challenge = (await doors[0].login("carol")).json["challenge"]
    hasher = doors[0].app[PASSWORDS]
    original = hasher.verify

    async def slow(password: str, stored: str | None, **more: object) -> object:
        found = await original(password, stored, **more)  # type: ignore[arg-type]
        for user in (alice, carol):
            doors[1].execute(change, user.id)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hasher, "verify", slow)
        lost = await doors[0].login("alice")
    assert (lost.status, lost.problem) == (401, "invalid-credentials")
    late = await doors[0].verify(challenge, "totp", phone.code())
    assert (late.status, late.body) == (401, lost.body)
    assert [event for event in doors[0].events("tenant") if event["action"] == "session.begin"] == []
    await doors[0].settled()
    assert {event["detail"]["reason"] for event in doors[0].events()} == {"changed"}


async def test_an_attacker_cannot_keep_an_owner_out(doors) -> None:
    """Known devices go on; whoever has none asks for a link by mail, which opens the account for their device."""
    alice = await doors[0].user("alice")
    known = (await doors[0].login("alice", remember_device=True)).json["device"]["token"]
    doors[0].execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 100)",
        alice.tenant_id,
        alice.id,
    )
    assert (await doors[1].login("alice")).status == 401
    assert (await doors[1].login("alice", device=known)).status == 200
    headers = {"X-Tenant-ID": "acme"}
    await doors[0].post("/v1/account/password-reset-request", {"identifier": "alice"}, key="", headers=headers)
    token = await doors[0].token("alice@example.org")
    new = "seven quiet lanterns drift"
    body = {"token": token, "password": new, "remember_device": True}
    reset = await doors[0].post("/v1/account/password-reset", body, key="", headers=headers)
    assert reset.status == 200, reset.body
    device = reset.json["device"]["token"]
    # The attacker goes on at once, so unknown devices wait again before the owner has typed anything.
    assert 429 in {(await doors[1].login("alice", WRONG)).status for _ in range(8)}
    assert (await doors[0].login("alice", new)).status == 429
    assert (await doors[0].login("alice", new, device=device)).status == 200
    assert (await doors[1].login("alice", new, device=known)).status == 200


async def test_a_reset_opens_what_is_locked_and_bypasses_no_factor(doors) -> None:
    """The new password gives a challenge, as the old one did."""
    alice = await doors[0].user("alice")
    phone = await doors[0].phone(alice)
    doors[0].execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 100)",
        alice.tenant_id,
        alice.id,
    )
    headers = {"X-Tenant-ID": "acme"}
    await doors[0].post("/v1/account/password-reset-request", {"identifier": "alice"}, key="", headers=headers)
    token = await doors[0].token("alice@example.org")
    new = "seven quiet lanterns drift"
    done = await doors[0].post("/v1/account/password-reset", {"token": token, "password": new}, key="", headers=headers)
    assert done.status == 204
    assert (await doors[0].login("alice", PASSWORD)).status == 401
    half = await doors[0].login("alice", new)
    assert half.json["status"] == "mfa_required"
    assert (await doors[0].verify(half.json["challenge"], "totp", phone.code())).status == 200


async def test_a_mailbox_buys_no_fresh_guesses_at_a_factor(doors) -> None:
    """Each reset makes a device known; until somebody signs in from it, the next one goes on with its failures."""
    door = doors[0]
    alice = await door.user("alice")
    phone = await door.phone(alice)
    device = await reset_with_device(door, "seven quiet lanterns drift")
    half = await door.login("alice", "seven quiet lanterns drift", device=device)
    assert (await door.verify(half.json["challenge"], "totp", wrong_code(phone))).status == 401
    door.execute("UPDATE credential_failures SET failures = 100 WHERE authenticator ~ '^totp:.*@'")
    new = "eight quiet lanterns drift"
    again = await reset_with_device(door, new)
    half = await door.login("alice", new, device=again)
    locked = await door.verify(half.json["challenge"], "totp", phone.code())
    assert (locked.status, locked.problem) == (403, "credential-locked")
    assert door.query("SELECT count(*) FROM known_devices") == [(1,)]
    # What the owner's own devices failed is theirs, and what they did is no stranger's.
    door.execute("DELETE FROM credential_failures")
    half = await door.login("alice", new, device=again)
    assert (await door.verify(half.json["challenge"], "totp", phone.code(1))).status == 200
    half = await door.login("alice", new, device=again)
    assert (await door.verify(half.json["challenge"], "totp", wrong_code(phone))).status == 401
    await reset_with_device(door, "nine quiet lanterns drift")
    assert door.query("SELECT count(*) FROM known_devices") == [(2,)]
    assert door.query("SELECT count(*), sum(failures) FROM credential_failures") == [(1, 1)]


async def reset_with_device(door: FrontDoor, password: str) -> str:
    """Choose a password by a mailed link; return the token of the device that is known from then on."""
    headers = {"X-Tenant-ID": "acme"}
    await door.post("/v1/account/password-reset-request", {"identifier": "alice"}, key="", headers=headers)
    body = {"token": await door.token("alice@example.org"), "password": password, "remember_device": True}
    done = await door.post("/v1/account/password-reset", body, key="", headers=headers)
    assert done.status == 200, done.body
    device: str = done.json["device"]["token"]
    return device


async def test_a_flood_of_invented_names_fills_nothing(doors) -> None:
    """Rows are buckets, and nothing of a name is kept in memory or in the database."""
    door = doors[0]
    names = [f"invented-{number}" for number in range(60)]
    for start in range(0, len(names), 6):
        await asyncio.gather(*(door.login(name, WRONG) for name in names[start : start + 6]))
    await door.settled()
    kinds = dict(door.query("SELECT kind, count(*) FROM sign_in_throttles GROUP BY kind"))
    assert kinds["identifier"] <= 60
    assert (kinds["network"], kinds["tenant"]) == (1, 1)
    dumped = door.query("SELECT t::text FROM sign_in_throttles t")
    assert "invented" not in json.dumps(dumped)
    buckets = {door.app_bucket(f"invented-{number}") for number in range(5000)}
    assert max(buckets) < 65_536


async def test_losing_valkey_mid_challenge_starts_over_from_the_password(doors) -> None:
    """What was half done is gone; what was counted and spent is not."""
    door = doors[0]
    alice = await door.user("alice")
    phone = await door.phone(alice)
    assert [(await door.login("alice", WRONG)).status for _ in range(6)] == [401] * 6
    door.later(30)
    challenge = (await door.login("alice")).json["challenge"]
    used = phone.code()
    assert (await door.verify(challenge, "totp", used)).status == 200
    assert [(await door.login("alice", WRONG)).status for _ in range(6)] == [401] * 6
    door.later(30)
    half = (await door.login("alice")).json["challenge"]
    assert [(await door.login("alice", WRONG)).status for _ in range(6)] == [401] * 6
    client = door.app[VOLATILE].client
    prefix = door.app[VOLATILE].name("", "")[:-3]
    for name in [name async for name in client.scan_iter(match=f"{prefix}*")]:
        await client.unlink(name)
    lost = await doors[1].verify(half, "totp", phone.code(1))
    assert (lost.status, lost.problem) == (410, "challenge-expired")
    assert (await door.login("alice")).status == 429, "failures are counted elsewhere"
    door.later(30)
    again = (await door.login("alice")).json["challenge"]
    assert (await door.verify(again, "totp", used)).status == 401, "a code that was used stays used"
    assert (await door.verify(again, "totp", phone.code(1))).status == 200


async def test_what_follows_a_refusal_is_never_dropped_for_want_of_room(doors) -> None:
    """A place is taken before a password is judged; without one nothing is judged."""
    door = doors[0]
    await door.user("alice")
    aftermath = door.aftermath
    held, aftermath._room = aftermath._room, 0
    with hashes_counted(door) as counted:
        refused = await door.login("alice", WRONG)
    assert (refused.status, counted.total()) == (503, 0)
    assert "Retry-After" in refused.headers
    aftermath._room = held
    assert (await door.login("alice", WRONG)).status == 401
    await door.settled()
    assert len(door.events()) == 1
    assert aftermath._room == held


async def test_a_full_hashing_pool_refuses_before_anything_is_looked_up(doors) -> None:
    """503 with Retry-After, no statement, and no try is counted."""
    door = doors[0]
    await door.user("alice")
    pool = door.app[PASSWORDS]._pool
    taken = [pool.take() for _ in range(pool._room)]
    with door.statements() as asked:
        refused = await door.login("alice")
    assert (refused.status, refused.problem) == (503, "password-hashing-busy")
    assert int(refused.headers["Retry-After"]) > 0
    assert asked == []
    for place in taken:
        place.leave()
    assert (await door.login("alice")).status == 200


async def test_one_tenants_flood_leaves_places_to_the_others(doors) -> None:
    """Half of the places are one tenant's at most, also one that is not there."""
    door = doors[0]
    await door.user("alice")
    pool = door.app[PASSWORDS]._pool
    taken = [pool.take("nowhere") for _ in range(pool._share)]
    assert (await door.login("nobody", tenant="nowhere")).status == 503
    assert (await door.login("alice")).status == 200
    for place in taken:
        place.leave()


async def test_one_tenant_has_one_share_of_the_places(doors, monkeypatch) -> None:
    """Whether a sign-in names it or somebody of it changes a password; what no tenant can be called shares one."""
    door = doors[0]
    await door.user("alice")
    token = (await door.login("alice")).json["session"]["token"]
    owners, take = [], BoundedPool.take

    def watched(self, owner=None):
        owners.append(owner)
        return take(self, owner)

    monkeypatch.setattr(BoundedPool, "take", watched)
    await door.login("alice")
    change = {"current_password": "not this one at all", "new_password": PASSWORD}
    assert (await door.post("/v1/users/me/password", change, key=token)).problem == "wrong-password"
    for impossible in ("No Tenant", "another!", "x" * 100):
        await door.login("nobody", tenant=impossible)
    assert owners == ["acme", "acme", "", "", ""]


async def test_secrets_are_nowhere(doors) -> None:
    """Passwords, codes and tokens: not in the audit, not in Valkey's names, not in the database."""
    door = doors[0]
    alice = await door.user("alice")
    phone = await door.phone(alice)
    half = await door.login("alice", remember_device=True)
    code = phone.code()
    done = await door.verify(half.json["challenge"], "totp", code)
    secrets = [PASSWORD, half.json["challenge"], done.json["session"]["token"], done.json["device"]["token"]]
    await door.login("alice", WRONG)
    await door.settled()
    found = json.dumps([door.events(), door.events("tenant")])
    for table in ("known_devices", "credential_failures", "sign_in_throttles", "spent_challenges", "mails"):
        found += json.dumps(door.query(f"SELECT t::text FROM {table} t"))
    assert not [secret for secret in [*secrets, WRONG] if secret in found]
    assert UUID(done.json["session"]["id"])
    assert await door.app[SESSION_STORE].find(done.json["session"]["token"]) is not None
