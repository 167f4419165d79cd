"""Every event that the audit may hold, and what it says. `docs/audit.md` describes them."""

from collections.abc import Mapping
from types import MappingProxyType

AUDIT_ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "audit.export": "events were exported with the personal data in them",
        "audit.retain": "the oldest months of the audit were let go; a chain says where it begins from now on",
        "base.change": "rules of the base, which every tenant inherits, changed",
        "encryption.rotate": "a rotation or retirement of encryption keys was begun",
        "encryption.rotated": "a rotation or retirement of encryption keys was finished",
        "bootstrap.token": "a one-time token for an administrator of the platform was made, in the database",
        "invitation.accept": "an invited person made their account, or could not since the inviter lost the right",
        "invitation.create": "a person was invited",
        "invitation.resend": "an invitation was sent anew",
        "invitation.revoke": "an invitation was revoked",
        "key.create": "an API key was made",
        "key.revoke": "an API key was ended",
        "model.replace": "the platform's Casbin model was replaced",
        "password.change": "a person changed their password, or gave a wrong present one",
        "policy.apply": "a tenant's policy files were applied",
        "policy.change": "rows of a tenant's policy were added or removed through the API",
        "policy.rollback": "a tenant's policy files were put back to an earlier revision",
        "rights.refuse": "somebody was refused more rights than are theirs, to give or to have",
        "settings.change": "settings of a tenant changed",
        "tenant.cross_use": "a key of the tenant was used with another tenant's name, or with names that disagree",
        "tenant.create": "a tenant was entered",
        "user.address_change": "an account's new address was confirmed, and is its address now",
        "user.address_change_request": "a change of an account's address was asked for",
        "user.address_undo": "a change of an account's address was taken back",
        "user.address_verify": "an account's address was verified",
        "tenant.delete": "a tenant was suspended, to be removed after its grace",
        "tenant.end": "the grace of a deleted tenant was over; it cannot be restored any more",
        "tenant.purge": "everything of a deleted tenant was removed but its slug and its audit",
        "tenant.reactivate": "a suspended tenant was opened again",
        "tenant.restore": "a deleted tenant was taken back before its grace was over",
        "tenant.suspend": "a tenant was suspended",
        "tenant.update": "the entry of a tenant changed",
        "user.create": "an account was made",
        "user.delete": "an account was deleted, and what was personal in it with it",
        "user.disable": "an account was disabled",
        "user.enable": "a disabled account was enabled",
        "user.verification_request": "a link that verifies an account's address was sent",
        "user.export": "all accounts of the tenant were read out, without secrets",
        "user.import": "accounts came from another directory; each is also a `user.create`",
        "user.password_reset": "a password was set by a mailed link, or could not be",
        "user.password_reset_request": "a link to set a password was sent, or could not be",
        "user.update": "an account's names, address or demands changed",
    }
)
"""Action to what happened. Actions are API: they are only added."""
