"""Which columns hold sealed values: what a rotation of keys re-encrypts, and nothing else may be sealed.

INVARIANT: such a column stands beside a generated one, `<column>_key`, with the id of the data key that its value
names, and that refers to `data_keys` (`migrations/sealed.py` writes both). So PostgreSQL itself keeps a key that a row
uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tenancy.envelope import Place


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """A `bytea` column of sealed values. `row_id`: the columns that name a row within its tenant."""

    table: str
    column: str
    row_id: tuple[str, ...]

    def place(self, ids: Sequence[Any]) -> Place:
        """Return the place of one row's value: its id as text, or the JSON array of several."""
        return Place(self.table, self.column, str(ids[0]) if len(ids) == 1 else self.names(ids))

    @staticmethod
    def names(ids: Sequence[Any]) -> str:
        """Return the id of a row as a JSON array of texts."""
        return msgspec.json.encode([str(part) for part in ids]).decode()


SUBJECT_KEYS = EncryptedColumn("subject_keys", "wrapped", ("subject_id",))

MAILS = EncryptedColumn("mails", "sealed", ("mail_id",))

AUDIT_KEYS = EncryptedColumn("audit_keys", "sealed", ("key_id",))

TOTP_SECRETS = EncryptedColumn("authenticators", "secret", ("user_id", "authenticator_id"))

ENROLMENT_CODES = EncryptedColumn("enrolment_codes", "sealed", ("user_id",))

ENCRYPTED_COLUMNS: tuple[EncryptedColumn, ...] = (SUBJECT_KEYS, AUDIT_KEYS, MAILS, TOTP_SECRETS, ENROLMENT_CODES)
"""Whoever seals values in a column of its own adds it here."""
