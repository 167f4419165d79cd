"""Seals what is stored: under a data key of the tenant's own, or under a subject's own, which can be destroyed.

A tenant's data keys are wrapped by a key-encryption key and stand in PostgreSQL; a node unwraps one when it meets it
and keeps it in memory for a while. A subject's key is wrapped by a data key and read again each time, so that whoever
destroys it ends it on every node at once.

What is sealed under a data key belongs into a column of `tenancy/encrypted_columns.py`, or it would be left behind when
keys rotate.
"""

import base64
import binascii
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import msgspec

from tenancy.audit import SealedPersonal
from tenancy.data_keys import (
    SubjectKey,
    WrappedKey,
    count_uses,
    destroy_subject_key,
    find_data_key,
    find_primary,
    find_subject_keys,
    insert_subject_key,
)
from tenancy.encrypted_columns import ENCRYPTED_COLUMNS, SUBJECT_KEYS, EncryptedColumn
from tenancy.envelope import KEY_BYTES, EnvelopeKey, Place, key_id_of
from tenancy.errors import EncryptionUnavailableError, UnsealError
from tenancy.ids import TenantId
from tenancy.key_encryption import KeyEncryptionKeys, bound_key
from tenancy.key_maker import KeyMaker
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, within
from tenancy.unwrapped_keys import UnwrappedKeys

CACHE_KEYS = 4096
CACHE_SECONDS = 600.0
MAX_USES = 1 << 31
"""Values that one data key seals at most, before it is superseded: half of what SP 800-38D allows for random nonces."""

COUNTED_USES = 1000
"""Uses that a process counts by itself before it says so; those of one that dies are not counted."""

OWN_SECONDS = 2.5
"""Longest wait for a transaction of the ring's own."""


class UnregisteredColumnError(ValueError):
    """A column that no rotation would know of."""


class KeyRing:
    """The keys of all tenants, as one process uses them."""

    def __init__(
        self,
        sessions: Sessions,
        keks: KeyEncryptionKeys,
        *,
        columns: Sequence[EncryptedColumn] = ENCRYPTED_COLUMNS,
        cache_keys: int = CACHE_KEYS,
        cache_seconds: float = CACHE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep where keys come from.

        Args:
            sessions: For the making of keys, which must outlive the transaction that asks for one.
            keks: The key-encryption keys of this node.
            columns: Where values may be sealed.
            cache_keys: Unwrapped data keys held at most.
            cache_seconds: How long each is held.
            now: A clock that never steps back, in seconds.
        """
        self._maker = KeyMaker(sessions, keks)
        self._columns = frozenset((column.table, column.column) for column in columns)
        self._held = UnwrappedKeys(cache_keys, cache_seconds, now)
        self._totals = Counter({"data_keys_unwrapped": 0, "data_keys_refused": 0})

    def totals(self) -> Mapping[str, int]:
        """Return what happened so far: data keys that were unwrapped, and that could not be."""
        return self._totals

    async def seal(self, work: TenantUnitOfWork, place: Place, plaintext: bytes) -> bytes:
        """Return `plaintext` sealed for one place of the tenant; as for `seal_all`."""
        (sealed,) = await self.seal_all(work, [(place, plaintext)])
        return sealed

    async def seal_all(self, work: TenantUnitOfWork, values: Sequence[tuple[Place, bytes]]) -> list[bytes]:
        """Return values sealed under the tenant's primary data key, which is made on first use.

        Raises:
            EncryptionUnavailableError: the key cannot be had; nothing may be stored instead.
            DatabaseUnavailableError: no answer.
        """
        for place, _ in values:
            if (place.table, place.column) not in self._columns:
                raise UnregisteredColumnError(f"`{place.table}.{place.column}` is not in `ENCRYPTED_COLUMNS`")
        return await self._sealed(work, values)

    async def open(self, work: TenantUnitOfWork, place: Place, sealed: bytes) -> bytes:
        """Return what was sealed for this place.

        Raises:
            UnsealError: it was sealed elsewhere, changed, or its key is gone; never says which.
            EncryptionUnavailableError: its key cannot be had now.
            DatabaseUnavailableError: no answer.
        """
        key = await self._data_key(work, key_id_of(sealed))
        return key.open(work.tenant_id, place, sealed)

    async def seal_personal(
        self, work: TenantUnitOfWork, subject_id: UUID, fields: Mapping[str, str]
    ) -> SealedPersonal:
        """Return fields sealed under the subject's own key, which is made on first use, in this transaction.

        Of a subject whose key was destroyed nothing is kept. Raises as `seal` does.
        """
        key = await self._subject_key(work, subject_id)
        if key is None:
            return SealedPersonal(subject_id, "")
        sealed = key.seal(work.tenant_id, _personal(subject_id), msgspec.json.encode(dict(fields)))
        return SealedPersonal(subject_id, base64.urlsafe_b64encode(sealed).decode())

    async def open_personal(self, work: TenantUnitOfWork, sealed: SealedPersonal) -> Mapping[str, str] | None:
        """Return the fields, or None when the subject's key was destroyed; raises as `open` does."""
        (fields,) = await self.open_all_personal(work, [sealed])
        return fields

    async def open_all_personal(
        self, work: TenantUnitOfWork, sealed: Sequence[SealedPersonal]
    ) -> list[Mapping[str, str] | None]:
        """As `open_personal`, with one look at the keys of all subjects."""
        stored = await find_subject_keys(work, list({personal.subject_id for personal in sealed}))
        keys = {subject_id: await self._opened(work, key) for subject_id, key in stored.items()}
        return [_fields(work.tenant_id, keys.get(personal.subject_id), personal) for personal in sealed]

    async def destroy_subject_key(self, work: TenantUnitOfWork, subject_id: UUID) -> None:
        """End what was sealed for a subject, on every node, when this transaction commits."""
        await destroy_subject_key(work, subject_id)

    async def _subject_key(self, work: TenantUnitOfWork, subject_id: UUID) -> EnvelopeKey | None:
        """Return a subject's key, made if there never was one; None when it was destroyed."""
        stored = (await find_subject_keys(work, [subject_id])).get(subject_id)
        if stored is None:
            place = SUBJECT_KEYS.place([subject_id])
            (wrapped,) = await self._sealed(work, [(place, os.urandom(KEY_BYTES))])
            await insert_subject_key(work, SubjectKey(subject_id, wrapped))
            # Read back: another transaction may have been quicker, with another key or with its destruction.
            stored = (await find_subject_keys(work, [subject_id]))[subject_id]
        return await self._opened(work, stored)

    async def _opened(self, work: TenantUnitOfWork, stored: SubjectKey) -> EnvelopeKey | None:
        if stored.wrapped is None:
            return None
        key = await self.open(work, SUBJECT_KEYS.place([stored.subject_id]), stored.wrapped)
        return EnvelopeKey(stored.subject_id, key)

    async def _primary(self, work: TenantUnitOfWork) -> EnvelopeKey:
        stored = await find_primary(work)
        if stored is None:
            await within(OWN_SECONDS, lambda: self._maker.make_first(work.tenant_id))
            stored = await find_primary(work)
        elif stored.uses >= MAX_USES:
            worn = stored.key_id
            await within(OWN_SECONDS, lambda: self._maker.replace(work.tenant_id, worn))
            stored = await find_primary(work)
        if stored is None:
            raise EncryptionUnavailableError("this transaction cannot see the data key that was made for it")
        return await self._unwrapped(work.tenant_id, stored)

    async def _sealed(self, work: TenantUnitOfWork, values: Sequence[tuple[Place, bytes]]) -> list[bytes]:
        key = await self._primary(work)
        sealed = [key.seal(work.tenant_id, place, plaintext) for place, plaintext in values]
        if key.uncounted >= COUNTED_USES:
            more, key.uncounted = key.uncounted, 0
            await count_uses(work, key.id, more)
        return sealed

    async def _data_key(self, work: TenantUnitOfWork, key_id: UUID) -> EnvelopeKey:
        """Return a key by its id; one that is not held is looked for in the database, once."""
        held = self._held.find(work.tenant_id, key_id)
        if held is not None:
            return held
        stored = await find_data_key(work, key_id)
        if stored is None:
            raise UnsealError
        return await self._unwrapped(work.tenant_id, stored)

    async def _unwrapped(self, tenant_id: TenantId, stored: WrappedKey) -> EnvelopeKey:
        async def unwrap() -> bytes:
            try:
                kek = self._maker.keks.get(stored.kek_id)
                key = await kek.unwrap(stored.wrapped, bound_key(tenant_id, stored.key_id))
            except EncryptionUnavailableError:
                self._totals["data_keys_refused"] += 1
                raise
            self._totals["data_keys_unwrapped"] += 1
            return key

        return await self._held.get(tenant_id, stored.key_id, unwrap)


def _personal(subject_id: UUID) -> Place:
    return Place("subject_keys", "personal", str(subject_id))


def _fields(tenant_id: TenantId, key: EnvelopeKey | None, personal: SealedPersonal) -> Mapping[str, str] | None:
    if key is None or not personal.text:
        return None
    try:
        sealed = base64.b64decode(personal.text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise UnsealError from None
    plaintext = key.open(tenant_id, _personal(personal.subject_id), sealed)
    return msgspec.json.decode(plaintext, type=dict[str, str])
