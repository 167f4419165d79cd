"""What an edit makes of an account, and what the audit says of it."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from authn.user_edits import UserEdit, change_of, personal_of
from authn.users import NewUser, StoredUser, User, UserId, UserStatus
from tenancy.ids import PLATFORM_TENANT_ID

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def account(**changed):
    """Return a stored account with a verified address."""
    named = {"username": "carol", "email": "carol@example.com", "display_name": None, "email_verified_at": NOW}
    named["mfa_required"] = False
    user = User(
        id=UserId(UUID(int=7)),
        tenant_id=PLATFORM_TENANT_ID,
        status=UserStatus.ACTIVE,
        status_reason=None,
        password_set=True,
        password_changed_at=NOW,
        created_at=NOW,
        updated_at=NOW,
        created_by="test",
        **(named | changed),
    )
    return StoredUser(user, "carol", "carol@example.com", "hash", "user", 1, None, None)


@pytest.mark.parametrize(
    "email", [("new@example.com", "new@example.com"), ("CAROL@example.com", "carol@example.com"), None]
)
def test_an_address_that_is_set_is_not_verified(email):
    """Another one, the same in another spelling, or none: nobody showed that mail to it is read."""
    change = change_of(account(), UserEdit(email=email))
    assert change.columns["email_verified_at"] is None
    assert change.ends_sign_ins
    assert (change.before, change.after) == ({"email_verified": True}, {"email_verified": False})
    unverified = change_of(account(email_verified_at=None), UserEdit(email=email))
    assert (unverified.before, unverified.after) == ({}, {})


def test_what_is_so_already_changes_nothing():
    """The very address that is there stays verified."""
    edit = UserEdit(("carol", "carol"), ("carol@example.com", "carol@example.com"), None, mfa_required=False)
    change = change_of(account(), edit)
    assert (change.columns, change.fields, change.ends_sign_ins) == ({}, (), False)
    assert change_of(account(), UserEdit()).fields == ()


def test_other_names_end_no_sign_in():
    """A rename is no change of what proves who somebody is."""
    change = change_of(account(), UserEdit(username=("Carol", "carol"), display_name=("C", "c")))
    assert not change.ends_sign_ins
    assert change.fields == ("username", "display_name")
    assert change.columns == {
        "username": "Carol",
        "username_key": "carol",
        "display_name": "C",
        "display_name_key": "c",
    }


def test_who_must_prove_a_second_factor_from_now_on_signs_in_anew():
    """A sign-in by the password alone would go on for a day; the demand's end takes nothing from anybody."""
    change = change_of(account(), UserEdit(mfa_required=True))
    assert change.ends_sign_ins
    assert (change.fields, change.columns) == (("mfa_required",), {"mfa_required": True})
    relieved = change_of(account(mfa_required=True), UserEdit(mfa_required=False))
    assert not relieved.ends_sign_ins


def test_nothing_personal_is_outside_of_what_is_sealed():
    """Fields by name, states and demands in clear; names and addresses only in `personal`."""
    edit = UserEdit(("dave", "dave"), ("dave@example.com", "dave@example.com"), ("Dave", "dave"), mfa_required=True)
    change = change_of(account(), edit)
    assert change.personal == {
        "before.username": "carol",
        "after.username": "dave",
        "before.email": "carol@example.com",
        "after.email": "dave@example.com",
        "after.display_name": "Dave",
    }
    clear = repr((change.fields, change.before, change.after))
    assert not [name for name in ("carol", "dave", "Dave", "example") if name in clear]
    new = NewUser(("Dave", "dave"), ("dave@example.com", "dave@example.com"))
    assert personal_of(new) == {"after.username": "Dave", "after.email": "dave@example.com"}
