"""Key-encryption keys from settings: every fault is named, no value is."""

import base64
import hashlib

import pytest

from tenancy.errors import EncryptionUnavailableError, UnknownKeyError
from tenancy.key_encryption import InvalidKeysError, KeyEncryptionKeys, LocalKeyEncryption, parse_keys


def b64(key: bytes) -> str:
    return base64.b64encode(key).decode()


# The same in every process, so that tests have the same names.
ONE, TWO = hashlib.sha256(b"one").digest(), hashlib.sha256(b"two").digest()


def test_keys_are_read_in_order():
    """From one line or several, with comments and blanks, in either base64 alphabet."""
    assert list(parse_keys(f"b:{b64(ONE)}, a:{b64(TWO)}").items()) == [("b", ONE), ("a", TWO)]
    urlsafe = base64.urlsafe_b64encode(TWO).decode()
    assert list(parse_keys(f"# ours\nb:{b64(ONE)} # since May\n\na:{urlsafe}\n").items()) == [("b", ONE), ("a", TWO)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        (" ,\n# nothing", "holds no key"),
        ("a", "key 1 does not begin with its id"),
        (b64(ONE), "key 1 does not begin with its id"),
        (f"A B:{b64(ONE)}", "key 1 does not begin with its id"),
        (f"vault:kasbah:{b64(ONE)}", "the key `vault` is no base64"),
        ("a:", "the key `a` has 0 bytes, not 32"),
        ("a:%%%%", "the key `a` is no base64"),
        (f"a:{b64(ONE[:31])}", "the key `a` has 31 bytes, not 32"),
        (f"a:{b64(ONE + ONE)}", "the key `a` has 64 bytes, not 32"),
        (f"a:{b64(ONE)},a:{b64(TWO)}", "the id `a` is there twice"),
        (f"a:{b64(ONE)},b:{b64(ONE)}", "the key `b` is the same as `a`"),
        (f"derived:{b64(ONE)}", "the id `derived` is that of the key made from KASBAH_SECRET_KEY"),
        (f"a:{b64(bytes(32))}", "the key `a` is not random"),
        (f"a:{b64(bytes(range(32)))}", "the key `a` is not random"),
        (f"a:{b64(bytes(range(32, 0, -1)))}", "the key `a` is not random"),
        (f"a:{b64(b'0123456789abcdef' * 2)}", "the key `a` is not random"),
        (f"a:{b64(b'this is an example of a good key')}", "the key `a` is not random"),
        (f"a:{b64(b'changeme' * 4)}", "the key `a` is not random"),
    ],
)
def test_an_unusable_key_is_refused_by_its_name(text, said):
    """Missing, short, double, malformed, and what is no random key."""
    with pytest.raises(InvalidKeysError, match=said.replace("(", r"\(")) as refused:
        parse_keys(text)
    assert b64(ONE) not in str(refused.value)


def test_every_fault_is_named_at_once():
    """One start tells all of them."""
    with pytest.raises(InvalidKeysError) as refused:
        parse_keys(f"a:{b64(ONE[:5])},b:{b64(bytes(32))},c:x y")
    assert [fault.split("`")[1] for fault in refused.value.faults] == ["a", "b", "c"]


async def test_a_wrapped_key_is_bound_and_named():
    """Another place, another id of the same bytes, a changed byte: refused, and said without a value."""
    key = LocalKeyEncryption("a", ONE)
    wrapped = await key.wrap(b"k" * 32, b"here")
    assert await key.unwrap(wrapped, b"here") == b"k" * 32
    for other, bytes_, bound in (
        (key, wrapped, b"there"),
        (LocalKeyEncryption("b", ONE), wrapped, b"here"),
        (LocalKeyEncryption("a", TWO), wrapped, b"here"),
        (key, wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b"here"),
        (key, wrapped[:11], b"here"),
        (key, b"", b"here"),
    ):
        with pytest.raises(EncryptionUnavailableError):
            await other.unwrap(bytes_, bound)


def test_an_unknown_key_is_refused_by_its_name():
    """Also one that should be preferred."""
    keys = KeyEncryptionKeys([LocalKeyEncryption("a", ONE)], "a")
    with pytest.raises(UnknownKeyError, match="`b`"):
        keys.get("b")
    with pytest.raises(UnknownKeyError, match="`b`"):
        KeyEncryptionKeys([LocalKeyEncryption("a", ONE)], "b")
