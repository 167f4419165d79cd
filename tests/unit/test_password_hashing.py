"""The pool that hashes passwords: bounded in work, waiting and memory, whoever comes and goes."""

import asyncio
import base64
import threading
import unicodedata
from dataclasses import replace

import pytest
from pydantic import ValidationError

from authn.errors import PasswordHashingBusyError, UnknownPepperError, UnusablePasswordError
from authn.hashing_processes import HashingProcesses
from authn.password_hash_forms import read_password_hash
from authn.password_hashing import BoundedPool, PasswordHasher, Verified, Wrong
from authn.password_settings import PasswordSettings

CHEAP = {"memory_mib": 19, "iterations": 2, "niceness": 0, "wait_seconds": 30}
PASSWORD = "correct horse battery staple"
K1, K2 = (f"{name}:{base64.b64encode(name.encode() * 16).decode()}" for name in ("k1", "k2"))


@pytest.fixture
def hasher_with():
    """Make hashers; close them at the end."""
    made = []

    def make(**settings):
        made.append(PasswordHasher(PasswordSettings(**CHEAP | settings)))
        return made[-1]

    yield make
    for hasher in made:
        hasher.close()


class Gate:
    """Calls that last until they are let go."""

    def __init__(self):
        self.open = threading.Event()
        self.begun = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self):
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.begun.set()
        self.open.wait(10)
        with self._lock:
            self.running -= 1


async def test_a_password_is_verified_whole(hasher_with):
    """The first and the last character matter, and case; each hash has a salt of its own."""
    hasher = hasher_with()
    stored = await hasher.hash(PASSWORD)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert stored != await hasher.hash(PASSWORD)
    assert await hasher.verify(PASSWORD, stored) == Verified(needs_rehash=False)
    for other in (PASSWORD[:-1], PASSWORD[1:], PASSWORD.upper(), PASSWORD + " ", " " + PASSWORD):
        assert await hasher.verify(other, stored) == Wrong()


async def test_composed_and_decomposed_are_one_password(hasher_with):
    """NFC on set and on verify is the only change."""
    hasher = hasher_with()
    typed = "pässwörd über 東京 한국어"
    stored = await hasher.hash(unicodedata.normalize("NFD", typed))
    assert await hasher.verify(unicodedata.normalize("NFC", typed), stored) == Verified(needs_rehash=False)
    assert await hasher.verify(typed.replace("ä", "a"), stored) == Wrong()


async def test_nobody_costs_as_much_as_somebody(hasher_with, monkeypatch):
    """Without a stored hash the same function runs with the same costs, and nothing is ever right."""
    hasher = hasher_with(peppers=K1)
    stored = await hasher.hash(PASSWORD)
    seen = []
    real = HashingProcesses.compare

    def watched(self, text, secret):
        known = read_password_hash(text)
        seen.append((len(secret), len(known.salt), len(known.tag), replace(known, salt=b"", tag=b"")))
        return real(self, text, secret)

    monkeypatch.setattr(HashingProcesses, "compare", watched)
    assert await hasher.verify("something else entirely", stored) == Wrong()
    assert await hasher.verify(PASSWORD, None) == Wrong()
    assert len(seen) == 2
    assert seen[0] == seen[1]


@pytest.mark.parametrize("password", ["", "x" * 257, "x" * (1 << 20), "\ud800 half a pair", "e\u0301" * 600])
async def test_what_cannot_be_a_password_is_never_hashed(password, hasher_with, monkeypatch):
    """Told before any work, the same for accounts that are there and that are not."""
    hasher = hasher_with()
    monkeypatch.setattr(BoundedPool, "submit", lambda *_: pytest.fail("hashed"))
    for call in (hasher.hash(password), hasher.verify(password, None), hasher.verify(password, "$2b$")):
        with pytest.raises(UnusablePasswordError) as refused:
            await call
        assert len(str(refused.value)) < 100


@pytest.mark.parametrize("password", ["x" * 256, "🎉" * 256, "e\u0301" * 256, "\N{HANGUL SYLLABLE GAG}" * 256])
async def test_256_code_points_are_a_password(password, hasher_with):
    """As long as they are 1,024 bytes; counted after composing."""
    hasher = hasher_with()
    assert await hasher.verify(password, await hasher.hash(password)) == Verified(needs_rehash=False)


async def test_another_cost_form_or_pepper_needs_a_rehash(hasher_with):
    """So hashes follow the settings, one sign-in after the other."""
    old = await hasher_with().hash(PASSWORD)
    for settings in ({"iterations": 3}, {"memory_mib": 20}, {"parallelism": 2}, {"peppers": K1}):
        newer = hasher_with(**settings)
        assert await newer.verify(PASSWORD, old) == Verified(needs_rehash=True)
        assert await newer.verify(PASSWORD, await newer.hash(PASSWORD)) == Verified(needs_rehash=False)
    bcrypt = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
    assert await hasher_with().verify("U*U", bcrypt) == Verified(needs_rehash=True)


async def test_peppers_rotate_and_everyone_still_signs_in(hasher_with):
    """No pepper, then one, then another: each hash is verified with its own, and asks to be renewed."""
    bare = await hasher_with().hash(PASSWORD)
    first = await hasher_with(peppers=K1).hash(PASSWORD)
    rotated = hasher_with(peppers=f"{K2},{K1}")
    second = await rotated.hash(PASSWORD)
    assert [(await rotated.verify(PASSWORD, stored)) for stored in (bare, first, second)] == [
        Verified(needs_rehash=True),
        Verified(needs_rehash=True),
        Verified(needs_rehash=False),
    ]
    assert await rotated.verify(PASSWORD + "x", first) == Wrong()
    with pytest.raises(UnknownPepperError):
        await hasher_with(peppers=K2).verify(PASSWORD, first)


async def test_what_overflows_is_refused_at_once(hasher_with):
    """Two are computed, three wait, and the sixth is told so; when they are done there is room again."""
    pool, gate = BoundedPool(2, 3), Gate()
    held = [pool.submit(gate) for _ in range(5)]
    for _ in range(20):
        with pytest.raises(PasswordHashingBusyError):
            pool.submit(gate)
    gate.open.set()
    for future in held:
        await asyncio.wrap_future(future)
    await asyncio.wrap_future(pool.submit(gate))
    assert gate.most == 2
    assert pool.totals() == {"password_hashes": 6, "password_hashes_refused": 20}
    pool.close()


async def test_one_tenant_leaves_room_for_others():
    """Half of the places at most, whatever it sends; and they are free again when its calls end."""
    pool, gate = BoundedPool(1, 5), Gate()
    held = [pool.submit(gate, "acme") for _ in range(3)]
    for _ in range(5):
        with pytest.raises(PasswordHashingBusyError):
            pool.submit(gate, "acme")
        with pytest.raises(PasswordHashingBusyError):
            pool.require_room("acme")
    pool.require_room("globex")
    held += [pool.submit(gate, "globex"), pool.submit(gate), pool.submit(gate)]
    with pytest.raises(PasswordHashingBusyError):
        pool.require_room("initech")
    gate.open.set()
    for future in held:
        await asyncio.wrap_future(future)
    await asyncio.wrap_future(pool.submit(gate, "acme"))
    assert not pool._held_by
    pool.close()


async def test_a_place_that_was_taken_before_is_not_taken_again():
    """It is refused when nothing was done yet; once held, the call finds it, and it is free when both have ended."""
    pool, gate = BoundedPool(1, 1), Gate()
    place, other = pool.take("acme"), pool.take("globex")
    with pytest.raises(PasswordHashingBusyError):
        pool.take()
    running = asyncio.wrap_future(pool.submit(gate, place=place))
    place.leave()  # whoever took it went away
    with pytest.raises(PasswordHashingBusyError):
        pool.require_room()
    gate.open.set()
    await running
    pool.take("acme").leave()
    other.leave()
    assert not pool._held_by
    pool.close()


async def test_who_gives_up_frees_its_place_and_no_memory_is_counted_twice():
    """What waits is dropped; what runs keeps its place until it ends."""
    pool, gate = BoundedPool(1, 2), Gate()
    running, waiting, other = (asyncio.wrap_future(pool.submit(gate)) for _ in range(3))
    assert await asyncio.to_thread(gate.begun.wait, 10)
    waiting.cancel()
    running.cancel()
    await asyncio.sleep(0)
    held = asyncio.wrap_future(pool.submit(gate))
    with pytest.raises(PasswordHashingBusyError):
        pool.submit(gate)
    gate.open.set()
    await asyncio.gather(other, held)
    assert gate.most == 1
    assert pool.totals()["password_hashes"] == 3
    pool.close()


async def test_waiting_has_an_end(hasher_with):
    """A request is told within its time, not when its turn comes."""
    hasher, gate = hasher_with(threads=1, queue=8, wait_seconds=0.05), Gate()
    hasher._pool.submit(gate)
    with pytest.raises(PasswordHashingBusyError):
        await hasher.hash(PASSWORD)
    gate.open.set()


async def test_a_closed_pool_takes_nothing(hasher_with):
    """The service is ending."""
    hasher = hasher_with()
    hasher.close()
    with pytest.raises(PasswordHashingBusyError):
        await hasher.hash(PASSWORD)


@pytest.mark.parametrize(
    "settings",
    [
        {"memory_mib": 18},
        {"iterations": 1},
        {"memory_mib": 4096},
        {"memory_mib": 128, "iterations": 5},
        {"threads": 0},
        {"peppers": ""},
        {"peppers": "k1"},
        {"peppers": "k1:c2hvcnQ="},
        {"peppers": "k1:hunter2secret*"},
        {"peppers": "k 1:" + "A" * 44},
        {"peppers": f"{K1},{K1}"},
    ],
)
def test_unsafe_settings_are_refused(settings):
    """Below OWASP's least, above what a worker can bear, peppers that are none; a key never stands in the message."""
    with pytest.raises(ValidationError) as refused:
        PasswordSettings(**settings)
    assert "hunter2" not in str(refused.value)


def test_the_dearest_hash_of_the_settings_is_read_back():
    """No settings make a hash that is then refused as too dear."""
    from authn.password_hash_forms import read_password_hash
    from authn.password_hashes import Argon2Cost, Argon2Hash

    dearest = PasswordSettings(memory_mib=128, iterations=4, parallelism=8)
    cost = Argon2Cost(dearest.memory_mib << 10, dearest.iterations, dearest.parallelism)
    made = Argon2Hash("argon2id", 19, cost, b"s" * 16, b"t" * 32)
    assert read_password_hash(str(made)) == made
