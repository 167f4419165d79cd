"""Puts a node's key-encryption keys together from its settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from authz.rule_set_codec import derive_key
from service.encryption_settings import EncryptionSettings
from service.vault_transit import VaultAddress, VaultTransit
from tenancy.key_encryption import DERIVED, KeyEncryption, KeyEncryptionKeys, LocalKeyEncryption


@asynccontextmanager
async def opened_keys(settings: EncryptionSettings, secret: bytes) -> AsyncIterator[KeyEncryptionKeys]:
    """Give them, and close the connections to Vault.

    The key that is derived from `secret` is always among them, so that an installation can leave it.
    """
    keys: list[KeyEncryption] = [LocalKeyEncryption(key_id, key) for key_id, key in settings.local_keys().items()]
    keys.append(LocalKeyEncryption(DERIVED, derive_key(secret, "key-encryption")))
    address = vault_address(settings)
    if address is None:
        yield KeyEncryptionKeys(keys, settings.preferred)
        return
    vault = VaultTransit(address)
    try:
        yield KeyEncryptionKeys([vault, *keys], settings.preferred)
    finally:
        await vault.close()


def vault_address(settings: EncryptionSettings) -> VaultAddress | None:
    """Return where Vault is, or None where it is not used."""
    if settings.vault_url is None:
        return None
    return VaultAddress(
        settings.vault_url,
        settings.vault_mount,
        settings.vault_key,
        token=None if settings.vault_token is None else settings.vault_token.get_secret_value(),
        token_file=settings.vault_token_file,
        namespace=settings.vault_namespace,
        ca_file=settings.vault_ca_file,
        timeout_seconds=settings.vault_timeout_seconds,
    )
