"""Forms of stored password hashes: vectors of their standards and makers, and costs that nobody may choose for us."""

import base64
import contextlib
import hashlib

import pytest
from _argon2_cffi_bindings import ffi, lib
from argon2.low_level import core
from hypothesis import given
from hypothesis import strategies as st

from authn.errors import UnknownPepperError, UnsupportedPasswordHashError
from authn.password_hash_forms import read_password_hash
from authn.password_hashes import (
    Argon2Cost,
    Argon2Hash,
    BcryptHash,
    Pbkdf2Hash,
    ScryptHash,
    compute_argon2,
)

CHEAP = Argon2Cost(64, 1, 1)
SALT = base64.b64encode(b"sixteen bytes ok").decode().rstrip("=")
TAG = base64.b64encode(b"t" * 32).decode().rstrip("=")


def matches(text: str, password: bytes) -> bool:
    return read_password_hash(text).matches(password, {})


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def test_argon2_is_that_of_rfc_9106():
    """Section 5.3, with the library's own context, since only that takes a secret and associated data."""
    tag = ffi.new("uint8_t[]", 32)
    password, salt = ffi.new("uint8_t[]", b"\1" * 32), ffi.new("uint8_t[]", b"\2" * 16)
    secret, more = ffi.new("uint8_t[]", b"\3" * 8), ffi.new("uint8_t[]", b"\4" * 12)
    context = ffi.new(
        "argon2_context *",
        {
            "version": 0x13,
            "out": tag,
            "outlen": 32,
            "pwd": password,
            "pwdlen": 32,
            "salt": salt,
            "saltlen": 16,
            "secret": secret,
            "secretlen": 8,
            "ad": more,
            "adlen": 12,
            "t_cost": 3,
            "m_cost": 32,
            "lanes": 4,
            "threads": 4,
            "allocate_cbk": ffi.NULL,
            "free_cbk": ffi.NULL,
            "flags": lib.ARGON2_DEFAULT_FLAGS,
        },
    )
    assert core(context, lib.Argon2_id) == lib.ARGON2_OK
    expected = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    assert bytes(ffi.buffer(tag)) == unhex(expected)


@pytest.mark.parametrize(
    "text",
    [
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2i$m=65536,t=2,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ",
        "argon2$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
    ],
)
def test_hashes_of_the_reference_implementation_of_argon2(text):
    """Its `test.c`, both versions of the algorithm; and as Django writes it."""
    assert matches(text, b"password")
    assert not matches(text, b"Password")


@pytest.mark.parametrize(
    ("password", "salt", "costs", "tag"),
    [
        (b"", b"", (16, 1, 1), "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906"),
        (b"password", b"NaCl", (1024, 8, 16), "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"),
        (b"pleaseletmein", b"SodiumChloride", (16384, 8, 1), "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"),
    ],
)  # fmt: skip
def test_scrypt_is_that_of_rfc_7914(password, salt, costs, tag):
    """Section 12."""
    assert ScryptHash(*costs, salt, unhex(tag)).matches(password, {})
    assert not ScryptHash(*costs, salt, unhex(tag)).matches(password + b"x", {})


@pytest.mark.parametrize(
    ("digest", "password", "salt", "rounds", "tag"),
    [
        ("sha1", b"password", b"salt", 1, "0c60c80f961f0e71f3a9b524af6012062fe037a6"),
        ("sha1", b"password", b"salt", 4096, "4b007901b765489abead49d926f721d065a429c1"),
        ("sha1", b"passwordPASSWORDpassword", b"saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096, "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"),
        ("sha1", b"pass\0word", b"sa\0lt", 4096, "56fa6aa75548099dcc37d7f03425e0c3"),
        ("sha256", b"passwd", b"salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbcca54d8bb34ab6c5f26ab7aa3c9e8f6b2"[:64]),
    ],
)  # fmt: skip
def test_pbkdf2_is_that_of_rfc_6070_and_7914(digest, password, salt, rounds, tag):
    """RFC 6070 section 2, RFC 7914 section 11."""
    assert Pbkdf2Hash(digest, rounds, salt, unhex(tag)).matches(password, {})
    assert not Pbkdf2Hash(digest, rounds, salt, unhex(tag)).matches(password[:-1], {})


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", b"U*U"),
        ("$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq", b"\xa3"),
        ("bcrypt$$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", b"U*U"),
        ("$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E", b"password"),
        ("scrypt$16384$seasalt$8$5$ECMIUp+LMxMSK8xB/IVyba+KYGTI7FTnet025q/1f/vBAVnnP3hdYqJuRi+mJn6ji6ze3Fbb7JEFPKGpuEf5vw==", "lètmein".encode()),
        ("$pbkdf2-sha256$29000$N2YMIWQsBWBMae09x1jrPQ$1t8iyB2A.WF/Z5JZv.lfCIhXXN33N23OSgQYThBYRfk", b"toomanysecrets"),
    ],
)  # fmt: skip
def test_hashes_of_other_programs(text, password):
    """Openwall's bcrypt, RustCrypto's and Django's scrypt, passlib's PBKDF2: as they publish them."""
    assert matches(text, password)
    assert not matches(text, password + b"!")


@pytest.mark.parametrize(
    ("form", "digest"),
    [
        ("$pbkdf2-sha256$i=1000,l=32${salt}${tag}", "sha256"),
        ("$pbkdf2-sha512$i=1000${salt}${tag}", "sha512"),
        ("$pbkdf2-sha1$i=1000${salt}${tag}", "sha1"),
        ("$pbkdf2$1000${salt}${tag}", "sha1"),
        ("$pbkdf2-sha512$1000${salt}${tag}", "sha512"),
        ("pbkdf2_sha256$1000$sixteen-bytes-ok${tag}", "sha256"),
        ("pbkdf2_sha1$1000$sixteen-bytes-ok${tag}", "sha1"),
    ],
)
def test_every_form_of_pbkdf2(form, digest):
    """PHC, passlib (its base64 has a dot for the plus) and Django."""
    salt = b"sixteen-bytes-ok"
    length = hashlib.new(digest).digest_size
    tag = base64.b64encode(hashlib.pbkdf2_hmac(digest, b"pw", salt, 1000, length)).decode().rstrip("=")
    shown = base64.b64encode(salt).decode().rstrip("=")
    if "$1000$" in form and form.startswith("$"):
        shown, tag = shown.replace("+", "."), tag.replace("+", ".")
    text = form.format(salt=shown, tag=tag)
    assert matches(text, b"pw")
    assert not matches(text, b"PW")


def test_bcrypt_reads_72_bytes_as_its_makers_do():
    """Imported hashes were made of no more; a longer password is cut off, not an error."""
    import bcrypt

    text = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert matches(text, b"x" * 72)
    assert matches(text, b"x" * 100)
    assert not matches(text, b"x" * 71)


@pytest.mark.parametrize(
    "text",
    [
        f"$argon2id$v=19$m={(128 << 10) + 1},t=1,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=65536,t=9,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=8,t=999999999,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=65536,t=3,p=17${SALT}${TAG}",
        f"$argon2id$v=19$m=7,t=3,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=64,t=0,p=1${SALT}${TAG}",
        f"$argon2id$v=18$m=64,t=1,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=64,t=1,p=1$c2FsdA${TAG}",
        f"$argon2id$v=19$m=64,t=1,p=1${SALT}$c2hvcnQ",
        f"$argon2id$v=19$m=64,t=1,p=1,keyid=abc${SALT}${TAG}",
        f"$argon2x$v=19$m=64,t=1,p=1${SALT}${TAG}",
        "$2b$15$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2b$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2b$99$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe",
        f"$scrypt$ln=18,r=8,p=1${SALT}${TAG}",
        f"$scrypt$ln=999999999,r=1,p=1${SALT}${TAG}",
        f"$scrypt$ln=10,r=999999999,p=1${SALT}${TAG}",
        f"$scrypt$ln=10,r=8,p=999999999${SALT}${TAG}",
        f"$scrypt$ln=0,r=8,p=1${SALT}${TAG}",
        f"scrypt$16383$salty$8$1${TAG}",
        f"$pbkdf2-sha256$i=2000001${SALT}${TAG}",
        f"$pbkdf2-sha256$999999999${SALT}${TAG}",
        f"$pbkdf2-sha256$i=0${SALT}${TAG}",
        f"$pbkdf2-sha256$i=1000,l=31${SALT}${TAG}",
        f"pbkdf2_md5$1000$salty${TAG}",
        f"pbkdf2_sha256$1000$salty${base64.b64encode(b't' * 64).decode()}",
        f"pbkdf2_sha256$1000$$salty${TAG}",
        "md5$salt$5f4dcc3b5aa765d61d8327deb882cf99",
        "5f4dcc3b5aa765d61d8327deb882cf99",
        "{SSHA}abcdef",
        "password",
        "",
        f"$argon2id$v=19$m=64,t=1,p=1${SALT}${TAG}\n",
        f" $argon2id$v=19$m=64,t=1,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=٦٤,t=1,p=1${SALT}${TAG}",
        "$argon2id$v=19$m=64,t=1,p=1$" + "A" * 2000 + f"${TAG}",
    ],
)  # fmt: skip
def test_what_is_unknown_malformed_or_too_dear_is_refused(text):
    """Before anything is computed: an imported hash cannot take a worker down."""
    with pytest.raises(UnsupportedPasswordHashError) as refused:
        read_password_hash(text)
    assert not text or text not in str(refused.value)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    """No other error, whatever stands in a file."""
    with contextlib.suppress(UnsupportedPasswordHashError):
        read_password_hash(text)


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True),
)
def test_what_is_written_is_read_back(salt, tag, pepper):
    """The text form says everything."""
    made = Argon2Hash("argon2id", 19, Argon2Cost(65536, 3, 1), salt, tag, pepper)
    assert read_password_hash(str(made)) == made


def test_a_pepper_is_part_of_the_password():
    """Without the key the hash is nobody's, and without its id known it is an operator's fault, no wrong password."""
    keys = {"k1": b"1" * 32, "k2": b"2" * 32}
    made = compute_argon2(b"pw", CHEAP, salt=b"s" * 16, tag_bytes=32, pepper="k1", peppers=keys)
    assert made.matches(b"pw", keys)
    assert not made.matches(b"pw", keys | {"k1": b"3" * 32})
    bare = Argon2Hash("argon2id", 19, CHEAP, made.salt, made.tag)
    assert not bare.matches(b"pw", keys)
    with pytest.raises(UnknownPepperError):
        made.matches(b"pw", {"k2": b"2" * 32})


def test_the_kinds_that_are_read():
    """Each form becomes its own kind."""
    assert isinstance(read_password_hash("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"), BcryptHash)
    assert isinstance(read_password_hash(f"$scrypt$ln=4,r=8,p=1${SALT}${TAG}"), ScryptHash)


@pytest.mark.parametrize("salt", ["A", "A" * 21, "A" * 23 + "==="])
def test_a_salt_of_no_whole_bytes_is_refused(salt):
    """Base64 has no remainder of one letter."""
    with pytest.raises(UnsupportedPasswordHashError):
        read_password_hash(f"$argon2id$v=19$m=64,t=1,p=1${salt}${TAG}")
