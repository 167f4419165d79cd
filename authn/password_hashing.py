"""Computes password hashes beside the event loop: few at once, few waiting, the rest refused at once.

SECURITY: what a flood of sign-ins can take is bounded: the memory of `threads` hashes, as many cores at a low
priority, and `queue` requests that wait. Decisions go on.

How a request gets its hash: its route says `hashes=True`, so that the edge refuses it by `require_room` before it does
anything else for it; the use case takes a `place` before it asks the database, and gives it to `verify`.
"""

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import argon2.low_level

from authn.errors import PasswordHashingBusyError
from authn.hashing_processes import HashingProcesses
from authn.password_hash_forms import read_password_hash
from authn.password_hashes import Argon2Cost, Argon2Hash, PasswordHash, peppered
from authn.password_settings import PasswordSettings
from authn.password_text import encode_password, normalize_password

SALT_BYTES = 16
TAG_BYTES = 32
"""RFC 9106 section 3.1: 128 bits of salt, 256 of hash."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verified:
    """The password is right. `needs_rehash`: its hash was made with another cost, form or pepper than new ones."""

    needs_rehash: bool


@dataclass(frozen=True, slots=True)
class Wrong:
    """The password is wrong, or there is no hash to compare with."""


Verification = Verified | Wrong


class PasswordHasher:
    """Hashes and verifies under `PasswordSettings`; one for each process, closed at its end."""

    def __init__(self, settings: PasswordSettings) -> None:
        """Start no thread yet: the first hash does."""
        self._cost = Argon2Cost(settings.memory_mib << 10, settings.iterations, settings.parallelism)
        self._peppers = settings.pepper_keys()
        self._pepper = next(iter(self._peppers), None)
        self._seconds = settings.wait_seconds
        self._nobody = Argon2Hash(
            "argon2id", 19, self._cost, secrets.token_bytes(SALT_BYTES), secrets.token_bytes(TAG_BYTES), self._pepper
        )
        self._pool = BoundedPool(settings.threads, settings.queue)
        self._processes = HashingProcesses(settings.niceness)

    async def hash(self, password: str) -> str:
        """Return the hash to store of a new password.

        Raises:
            UnusablePasswordError: nothing that can be a password; told before anything is computed.
            PasswordHashingBusyError: too many are under way.
        """
        secret = encode_password(normalize_password(password))
        salt = secrets.token_bytes(SALT_BYTES)
        mixed = peppered(secret, self._pepper, self._peppers)
        tag = await self.beside(lambda: self._processes.derive(mixed, self._cost, salt=salt, tag_bytes=TAG_BYTES))
        return str(Argon2Hash("argon2id", argon2.low_level.ARGON2_VERSION, self._cost, salt, tag, self._pepper))

    async def verify(self, password: str, stored: str | None, *, place: "Place | None" = None) -> Verification:
        """Compare a password with a stored hash. Without one, an account that is not there costs the same.

        Args:
            password: As it was typed.
            stored: What the database has, or None.
            place: One that was taken before; without it one is taken now.

        Raises:
            UnusablePasswordError, PasswordHashingBusyError: as in `hash`.
            UnsupportedPasswordHashError: the stored text is none.
            UnknownPepperError: its key is not configured.
        """
        secret = encode_password(normalize_password(password))
        known = self._nobody if stored is None else read_password_hash(stored)
        text = stored or ""
        if isinstance(known, Argon2Hash):  # alone has a pepper, or stands for nobody
            secret = peppered(secret, known.pepper, self._peppers)
            text = str(replace(known, pepper=None))
        right = await self.beside(lambda: self._processes.compare(text, secret), place=place)
        if stored is None or not right:
            return Wrong()
        return Verified(not self._is_current(known))

    def require_room(self, owner: Hashable | None = None) -> None:
        """Refuse at once what would be refused anyway, before anything is looked up for it; `owner` as in `place`.

        Raises:
            PasswordHashingBusyError: no place is free now; one that is may be taken by the time it is asked for.
        """
        self._pool.require_room(owner)

    @contextmanager
    def place(self, owner: Hashable | None = None) -> "Iterator[Place]":
        """Hold a place for one hash within the block, so that what is looked up for it is not in vain.

        SECURITY: not while a body is awaited: whoever sends slowly would keep others out.

        Args:
            owner: Who may hold half of the places and no more: a tenant, by its name, since who signs in gives that
                alone, and whether there is such a tenant must not show.

        Raises:
            PasswordHashingBusyError: none is free.
        """
        place = self._pool.take(owner)
        try:
            yield place
        finally:
            place.leave()

    async def beside(self, work: Callable[[], T], *, place: "Place | None" = None) -> T:
        """Run what takes long in the pool, under its bounds; raises `PasswordHashingBusyError`."""
        future = asyncio.wrap_future(self._pool.submit(work, place=place))
        try:
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError:
            raise PasswordHashingBusyError(f"no password hash within {self._seconds} s") from None

    def totals(self) -> Mapping[str, int]:
        """Return what was counted since the start."""
        return self._pool.totals()

    def close(self) -> None:
        """Let what is being computed end, forget what waits, and start nothing more."""
        self._pool.close()
        self._processes.close()

    def _is_current(self, known: PasswordHash) -> bool:
        match known:
            case Argon2Hash():
                form = (known.variant, known.version, known.cost, known.pepper, len(known.tag))
                return form == ("argon2id", 19, self._cost, self._pepper, TAG_BYTES)
            case _:
                return False


class Place:
    """One of the pool's places, until it is left by whoever took it and by the call that it was given to."""

    __slots__ = ("_holders", "_left", "_lock")

    def __init__(self, left: Callable[[], None]) -> None:
        """Be held by whoever took it; `left` is called when nobody holds it any more."""
        self._left = left
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Be held once more; each holder leaves once."""
        with self._lock:
            self._holders += 1

    def leave(self) -> None:
        """Be held once less."""
        with self._lock:
            self._holders -= 1
            empty = not self._holders
        if empty:
            self._left()


class BoundedPool:
    """Threads that run `threads` calls at once; `queue` more may wait.

    Who gives up before its turn frees its place at once. A call that has begun cannot be stopped, and keeps its place
    until it ends: so there is never more memory in use than for `threads` calls, whoever goes away.
    """

    def __init__(self, threads: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._room = threads + queue
        self._share = max(1, self._room // 2)
        self._held_by: Counter[Hashable | None] = Counter()
        self._lock = threading.Lock()
        self._held = 0
        self._done = 0
        self._refused = 0

    def require_room(self, owner: Hashable | None = None) -> None:
        """Raise `PasswordHashingBusyError` when a call would be refused now."""
        with self._lock:
            self._refuse_if_full(owner)

    def take(self, owner: Hashable | None = None) -> Place:
        """Return a place, which whoever took it leaves; raises `PasswordHashingBusyError`.

        Args:
            owner: Who may hold half of the places and no more, so that others find one; None is nobody in particular.
        """
        with self._lock:
            self._refuse_if_full(owner)
            self._held += 1
            self._held_by[owner] += 1
        return Place(partial(self._leave, owner))

    def submit(
        self, work: Callable[[], T], owner: Hashable | None = None, *, place: Place | None = None
    ) -> "Future[T]":
        """Begin a call, or queue it, at a place that was taken or at one taken now; raises `PasswordHashingBusyError`.

        Args:
            work: What to call in a thread.
            owner: As in `take`.
            place: Is held until the call ends, too.
        """
        if place is None:
            place = self.take(owner)
        else:
            place.hold()
        try:
            future = self._executor.submit(work)
        except RuntimeError:  # closed
            place.leave()
            raise PasswordHashingBusyError("the service is ending") from None
        future.add_done_callback(partial(self._ended, place))
        return future

    def _refuse_if_full(self, owner: Hashable | None) -> None:
        if self._held >= self._room or (owner is not None and self._held_by[owner] >= self._share):
            self._refused += 1
            raise PasswordHashingBusyError(f"{self._held} passwords are being hashed or wait for it")

    def totals(self) -> Mapping[str, int]:
        """Return how many calls ended, and how many were refused."""
        with self._lock:
            return {"password_hashes": self._done, "password_hashes_refused": self._refused}

    def close(self) -> None:
        """End the threads when their call is done."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ended(self, place: Place, future: "Future[T]") -> None:
        if not future.cancelled():
            with self._lock:
                self._done += 1
        place.leave()

    def _leave(self, owner: Hashable | None) -> None:
        with self._lock:
            self._held -= 1
            self._held_by[owner] -= 1
            if not self._held_by[owner]:
                del self._held_by[owner]
