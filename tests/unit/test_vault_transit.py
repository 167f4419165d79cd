"""A key-encryption key in Vault: over real HTTP and TLS, and in every way in which Vault can be out."""

import base64
import contextlib
import logging
import secrets

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from service.encryption_settings import EncryptionSettings
from service.key_encryption import opened_keys
from service.preflight import Findings, check_keys
from service.vault_transit import VaultAddress, VaultCertificateError, VaultRefusedError, VaultTransit
from tenancy.errors import EncryptionUnavailableError
from tests.support.vault import FakeVault, self_signed

KEY = b"canary-data-key-canary-data-key!"


@contextlib.asynccontextmanager
async def transit(vault, **more):
    given = {"mount": "transit", "key": "kasbah", "token": vault.token, "timeout_seconds": 1.0} | more
    client = VaultTransit(VaultAddress(vault.url, **given))
    try:
        yield client
    finally:
        await client.close()


async def test_a_data_key_is_wrapped_by_vault_and_by_nothing_here():
    """The ciphertext is Vault's, of its newest version; older versions still open."""
    async with FakeVault().serving() as vault, transit(vault) as kek:
        assert kek.id == "vault:transit/kasbah"
        first = await kek.wrap(KEY, b"here")
        assert first.startswith(b"vault:v1:")
        vault.rotate()
        assert (await kek.wrap(KEY, b"here")).startswith(b"vault:v2:")
        assert await kek.unwrap(first, b"here") == KEY


async def test_a_wrapped_key_is_bound_to_its_place():
    """Vault decrypts it wherever it stands; the binding inside does not."""
    async with FakeVault().serving() as vault, transit(vault) as kek:
        wrapped = await kek.wrap(KEY, b"here")
        with pytest.raises(EncryptionUnavailableError):
            await kek.unwrap(wrapped, b"there")


@pytest.mark.parametrize(
    ("more", "status"),
    [({"token": "s.wrong"}, 403), ({"key": "missing"}, 403), ({"namespace": "other"}, 404), ({"mount": "kv"}, 404)],
)
async def test_what_vault_refuses_is_refused(more, status):
    """Never done in another way instead."""
    async with FakeVault().serving() as vault, transit(vault, **more) as kek:
        with pytest.raises(VaultRefusedError) as refused:
            await kek.wrap(KEY, b"here")
        assert refused.value.status == status


async def test_damaged_ciphertexts_are_refused():
    """Whatever stands in the database."""
    async with FakeVault().serving() as vault, transit(vault) as kek:
        wrapped = await kek.wrap(KEY, b"here")
        for other in (b"", b"\xff\xfe", b"vault:v9:AAAA", wrapped[:-8] + b"AAAAAAA="):
            with pytest.raises(EncryptionUnavailableError):
                await kek.unwrap(other, b"here")


async def test_a_sealed_vault_is_an_outage():
    """And when it is unsealed, the next call works again."""
    async with FakeVault().serving() as vault, transit(vault) as kek:
        vault.sealed = True
        with pytest.raises(EncryptionUnavailableError, match="503"):
            await kek.wrap(KEY, b"here")
        vault.sealed = False
        assert await kek.unwrap(await kek.wrap(KEY, b"here"), b"here") == KEY


async def test_a_vault_that_hangs_is_given_up_and_then_left_alone():
    """After some timeouts in a row nobody waits for it, until it is tried again."""
    async with FakeVault(hangs=True).serving() as vault, transit(vault, timeout_seconds=0.05) as kek:
        for _ in range(3):
            with pytest.raises(EncryptionUnavailableError):
                await kek.wrap(KEY, b"here")
        asked = len(vault.calls)
        with pytest.raises(EncryptionUnavailableError, match="lately"):
            await kek.wrap(KEY, b"here")
        assert len(vault.calls) == asked == 3


async def test_nobody_listening_is_an_outage():
    """A connection that is refused, and one to a name that is none."""
    vault = FakeVault(url="http://127.0.0.1:9")
    async with transit(vault) as kek:
        with pytest.raises(EncryptionUnavailableError, match="did not answer"):
            await kek.unwrap(b"vault:v1:AAAA", b"here")


async def test_only_the_certificate_that_was_meant_is_trusted(tmp_path):
    """An unknown authority, and a known one that signed for another address, are refused before the token is sent."""
    here, trusted = self_signed(tmp_path)
    elsewhere, other = self_signed(tmp_path, "127.0.0.2")
    async with FakeVault().serving(here) as vault:
        async with transit(vault, ca_file=trusted) as kek:
            assert await kek.unwrap(await kek.wrap(KEY, b"here"), b"here") == KEY
        asked = len(vault.calls)
        for ca_file in (None, other):
            async with transit(vault, ca_file=ca_file) as kek:
                with pytest.raises(VaultCertificateError):
                    await kek.wrap(KEY, b"here")
        assert len(vault.calls) == asked
    async with FakeVault().serving(elsewhere) as vault, transit(vault, ca_file=other) as kek:
        with pytest.raises(VaultCertificateError):
            await kek.wrap(KEY, b"here")
        assert vault.calls == []


async def test_a_redirect_is_not_followed():
    """It would carry the token to whoever is named."""
    async with FakeVault().serving() as other, FakeVault(mount="elsewhere").serving() as vault:

        async def redirect(_request):
            raise web.HTTPTemporaryRedirect(f"{other.url}/v1/transit/encrypt/kasbah")

        vault.answer = redirect
        async with FakeVault.serving(vault) as moved, transit(moved, mount="elsewhere") as kek:
            with pytest.raises(VaultRefusedError):
                await kek.wrap(KEY, b"here")
        assert other.calls == []


async def test_the_agents_token_file_is_read_anew(tmp_path):
    """Vault's agent renews it there; one that is gone or empty is an outage."""
    path = tmp_path / "token"
    path.write_text("s.test-token\n")
    async with FakeVault().serving() as vault, transit(vault, token=None, token_file=path) as kek:
        await kek.wrap(KEY, b"here")
        vault.token = "s.renewed"
        with pytest.raises(VaultRefusedError):
            await kek.wrap(KEY, b"here")
        path.write_text("s.renewed")
        await kek.wrap(KEY, b"here")
        for text in ("", "a\nb", "s.\x7f"):
            path.write_text(text)
            with pytest.raises(EncryptionUnavailableError):
                await kek.wrap(KEY, b"here")


async def test_neither_token_nor_keys_are_logged_or_told(caplog):
    """Also when Vault says in its errors what it was sent."""
    caplog.set_level(logging.DEBUG)
    told = []
    with capture_logs() as logged:
        async with FakeVault(token="s.canary-token").serving() as vault:
            async with transit(vault) as kek:
                told.append(repr(kek._address))
                wrapped = await kek.wrap(KEY, b"here")
                for attempt in (kek.unwrap(wrapped, b"there"), kek.unwrap(wrapped[:-4] + b"AAA=", b"here")):
                    with pytest.raises(EncryptionUnavailableError) as refused:
                        await attempt
                    told.append(repr(refused.value) + repr(refused.value.__cause__))
            async with transit(vault, token="s.canary-other") as kek:
                with pytest.raises(EncryptionUnavailableError) as refused:
                    await kek.wrap(KEY, b"here")
                told.append(repr(refused.value))
    everything = "\n".join([*told, str(logged), caplog.text])
    assert logged
    for secret in ("canary-token", "canary-other", "canary-data-key", "Y2FuYXJ5"):
        assert secret not in everything


async def test_vault_goes_before_keys_of_ones_own_unless_another_is_named():
    """All of them are known, so that an installation can go over to Vault, and come back."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    async with FakeVault().serving() as vault:
        given = {"keys": f"a:{key}", "vault_url": vault.url, "vault_token": vault.token}
        async with opened_keys(EncryptionSettings(**given), b"secret") as keks:
            assert (keks.preferred, keks.ids) == ("vault:transit/kasbah", ("vault:transit/kasbah", "a", "derived"))
            assert await keks.get(keks.preferred).unwrap(await keks.get(keks.preferred).wrap(KEY, b""), b"") == KEY
        async with opened_keys(EncryptionSettings(**given, primary="a"), b"secret") as keks:
            assert keks.preferred == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        {"vault_url": "http://vault.example:8200", "vault_token": "t"},
        {"vault_url": "ftp://127.0.0.1", "vault_token": "t"},
        {"vault_url": "https://user@vault.example", "vault_token": "t"},
        {"vault_url": "https://vault.example"},
        {"vault_url": "https://vault.example", "vault_token": "t", "vault_token_file": __file__},
        {"vault_url": "https://vault.example", "vault_token_file": "/does/not/exist"},
        {"vault_url": "https://vault.example", "vault_token": "t", "vault_ca_file": "/does/not/exist"},
        {"vault_url": "https://vault.example", "vault_token": "t", "vault_mount": "../sys"},
        {"vault_url": "https://vault.example", "vault_token": "t", "vault_key": "a/b"},
        {"vault_url": "https://vault.example", "vault_token": "t", "vault_timeout_seconds": 60},
        {"primary": "vault:transit/kasbah"},
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong):
    """No token over an open network, no token at all, no key that is not there."""
    with pytest.raises(ValueError):
        EncryptionSettings(**wrong)


async def test_a_start_tells_what_is_wrong_with_vault(tmp_path):
    """A wrong certificate, token or key stops it; a Vault that is down does not, since decisions need no key."""
    context, trusted = self_signed(tmp_path)

    async def found(vault, **more):
        given = {"vault_url": vault.url, "vault_token": vault.token, "vault_ca_file": trusted} | more
        return await check_keys(EncryptionSettings(**given))

    async with FakeVault().serving(context) as vault:
        assert await found(vault) == Findings()
        for wrong in ({"vault_ca_file": None}, {"vault_token": "s.wrong"}, {"vault_key": "missing"}):
            findings = await found(vault, **wrong)
            (fault,) = findings.faults
            assert fault.startswith("KASBAH_ENCRYPTION__VAULT_URL: Vault")
            assert not findings.warnings
        vault.sealed = True
        assert "503" in (await found(vault)).warnings[0]
    assert "going on without it" in (await found(vault)).warnings[0]


async def test_a_start_without_a_key_of_its_own_is_told_so():
    """A key made from another secret is for trying things out."""
    (warning,) = (await check_keys(EncryptionSettings())).warnings
    assert warning.startswith("KASBAH_ENCRYPTION__KEYS is not set")
    given = {"keys": f"a:{base64.b64encode(secrets.token_bytes(32)).decode()}"}
    assert await check_keys(EncryptionSettings(**given)) == Findings()
