"""Puts a node's key-encryption keys together from its settings."""

from authz.rule_set_codec import derive_key
from service.encryption_settings import EncryptionSettings
from tenancy.key_encryption import DERIVED, KeyEncryption, KeyEncryptionKeys, LocalKeyEncryption


def key_encryption_keys(settings: EncryptionSettings, secret: bytes) -> KeyEncryptionKeys:
    """Return them. The one derived from `secret` is always among them, so that an installation can leave it."""
    given: list[KeyEncryption] = [LocalKeyEncryption(key_id, key) for key_id, key in settings.local_keys().items()]
    derived = LocalKeyEncryption(DERIVED, derive_key(secret, "key-encryption"))
    return KeyEncryptionKeys([*given, derived], preferred=given[0].id if given else DERIVED)
