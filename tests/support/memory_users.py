"""Accounts in memory: what a store of accounts must do, in the plainest way."""

from dataclasses import dataclass, field, replace
from uuid import UUID

from authn.errors import (
    EmailTakenError,
    UserDeletedError,
    UserLimitExceededError,
    UsernameTakenError,
    UserNotFoundError,
)
from authn.user_edits import UNCHANGED, UserEdit
from authn.users import NewUser, UserStatus


@dataclass(frozen=True)
class Account:
    """As much of an account as its writes change; names are (shown, key)."""

    username: tuple[str, str] | None
    email: tuple[str, str] | None = None
    display_name: tuple[str, str] | None = None
    mfa_required: bool = False
    status: UserStatus = UserStatus.ACTIVE
    reason: str | None = None


@dataclass
class MemoryUsers:
    """One tenant. `revision` counts what changed something."""

    max_users: int
    accounts: dict[UUID, Account] = field(default_factory=dict)
    revision: int = 0

    def create(self, user_id: UUID | None, new: NewUser) -> None:
        """Enter an account under an id that the other store gave it; None when that refused."""
        alive = [each for each in self.accounts.values() if each.status is not UserStatus.DELETED]
        if len(alive) >= self.max_users:
            raise UserLimitExceededError
        account = Account(new.username, new.email, new.display_name, new.mfa_required)
        self._require_free(None, account)
        assert user_id is not None
        self._put(user_id, account)

    def update(self, user_id: UUID, edit: UserEdit) -> None:
        before = self._alive(user_id)
        wanted = {
            name: value
            for name in ("username", "email", "display_name", "mfa_required")
            if (value := getattr(edit, name)) is not UNCHANGED
        }
        after = replace(before, **wanted)
        self._require_free(user_id, after)
        self._put(user_id, after)

    def set_status(self, user_id: UUID, status: UserStatus, reason: str) -> None:
        before = self._alive(user_id)
        if before.status is not status:
            self._put(user_id, replace(before, status=status, reason=None if status is UserStatus.ACTIVE else reason))

    def delete(self, user_id: UUID) -> None:
        before = self._alive(user_id)
        self._put(user_id, Account(None, status=UserStatus.DELETED, mfa_required=before.mfa_required))

    def _alive(self, user_id: UUID) -> Account:
        found = self.accounts.get(user_id)
        if found is None:
            raise UserNotFoundError
        if found.status is UserStatus.DELETED:
            raise UserDeletedError
        return found

    def _require_free(self, user_id: UUID | None, account: Account) -> None:
        others = [each for other_id, each in self.accounts.items() if other_id != user_id]
        if account.username and any(each.username and each.username[1] == account.username[1] for each in others):
            raise UsernameTakenError
        if account.email and any(each.email and each.email[1] == account.email[1] for each in others):
            raise EmailTakenError

    def _put(self, user_id: UUID, account: Account) -> None:
        if self.accounts.get(user_id) != account:
            self.accounts[user_id] = account
            self.revision += 1
