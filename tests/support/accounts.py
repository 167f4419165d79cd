"""Accounts with passwords in a tenant, for tests of what people do with them."""

import secrets
from dataclasses import dataclass, field

from sqlalchemy import text

from authn.new_passwords import NewPasswords
from authn.password_hashing import PasswordHasher
from authn.user_names import normalize_email, normalize_username
from authn.user_rows import insert_user, lock_user
from authn.users import NewUser, StoredUser, User
from service.passwords import LazyWords
from tenancy.ids import TenantId
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_ring import KeyRing
from tenancy.unit_of_work import Sessions, tenant_unit_of_work
from tests.support.administration import CHEAP_PASSWORDS

PRESENT = "present words of the owner"
WANTED = "nine purple ladders sing"


class NoBreaches:
    """Nothing is breached."""

    async def is_breached(self, _: str) -> bool:
        return False


@dataclass
class Accounts:
    """One tenant's accounts, and what hashes their passwords."""

    sessions: Sessions
    tenant_id: TenantId
    hasher: PasswordHasher = field(default_factory=lambda: PasswordHasher(CHEAP_PASSWORDS))
    ring: KeyRing = field(init=False)

    def __post_init__(self) -> None:
        self.ring = KeyRing(
            self.sessions, KeyEncryptionKeys([LocalKeyEncryption("test", secrets.token_bytes(32))], "test")
        )

    @property
    def passwords(self) -> NewPasswords:
        """As the service has them, without lists."""
        return NewPasswords(self.hasher, NoBreaches(), blocklist=LazyWords())

    async def add(self, username: str, *, stored: str | None = None, email: str | None = None) -> User:
        """Make an account with a stored hash."""
        new = NewUser(
            username=normalize_username(username),
            email=None if email is None else normalize_email(email),
            password_hash=stored,
        )
        async with tenant_unit_of_work(self.sessions, self.tenant_id) as work:
            return await insert_user(work, new, created_by="test")

    async def read(self, user: User) -> StoredUser:
        """Return an account as it is stored."""
        async with tenant_unit_of_work(self.sessions, self.tenant_id) as work:
            found = await lock_user(work, user.id)
        assert found is not None
        return found

    async def count(self, table: str) -> int:
        """Count the tenant's rows of a table."""
        async with tenant_unit_of_work(self.sessions, self.tenant_id) as work:
            return int((await work.session.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())
