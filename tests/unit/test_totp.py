"""Time-based codes: the vectors of both RFCs, exactly three steps, and what cannot be a code."""

import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest

from authn.totp import SECRET_BYTES, matching_step, provisioning_uri, read_code, secret_text, step_at

SECRET = b"12345678901234567890"
HOTP = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]
TOTP = [
    (59, "94287082"),
    (1111111109, "07081804"),
    (1111111111, "14050471"),
    (1234567890, "89005924"),
    (2000000000, "69279037"),
    (20000000000, "65353130"),
]


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(("step", "code"), list(enumerate(HOTP)))
def test_the_vectors_of_rfc_4226(step, code):
    """Appendix D: a counter is a time step."""
    assert matching_step(SECRET, code, now=at(step * 30), window=0) == step


@pytest.mark.parametrize(("seconds", "code"), TOTP)
def test_the_vectors_of_rfc_6238(seconds, code):
    """Appendix B, SHA-1, of which six digits are the last six of eight."""
    assert matching_step(SECRET, code[-6:], now=at(seconds), window=0) == seconds // 30
    assert pyotp.TOTP(secret_text(SECRET), digits=8, digest=hashlib.sha1).at(seconds) == code


def test_exactly_three_steps_are_accepted():
    """The present one and one on either side, counted with a fixed clock."""
    now = at(1_700_000_010)
    codes = pyotp.TOTP(secret_text(SECRET))
    present = step_at(now)
    for moment in (now, at(present * 30), at(present * 30 + 29.999)):
        accepted = [
            step - present
            for step in range(present - 100, present + 101)
            if matching_step(SECRET, codes.generate_otp(step), now=moment) == step
        ]
        assert accepted == [-1, 0, 1]


def test_a_spent_step_and_all_before_it_stay_spent():
    """However the clock moves: back by a day, the codes of that day are refused."""
    now = at(1_700_000_010)
    present = step_at(now)
    codes = pyotp.TOTP(secret_text(SECRET))
    for after, accepted in ((-1, [-1, 0, 1]), (present - 1, [0, 1]), (present, [1]), (present + 1, [])):
        found = [
            offset
            for offset in (-1, 0, 1)
            if matching_step(SECRET, codes.generate_otp(present + offset), now=now, after=after) is not None
        ]
        assert found == accepted
    earlier = now - timedelta(days=1)
    assert matching_step(SECRET, codes.at(earlier), now=earlier, after=present) is None


def test_what_people_type_becomes_a_code_or_nothing():
    """Spaces go; only ASCII digits count, and exactly six."""
    assert [read_code(text) for text in ("123456", "123 456", "1 2 3 4 5 6 ", " 1 2 3 4 5 6 ")] == [
        *(["123456"] * 3),
        None,
    ]
    for text in (
        "",
        "12345",
        "1234567",
        "12345a",
        "１２３４５６",
        "١٢٣٤٥٦",
        "123456\n",
        "-12345",
        "1" * 10_000,
        "123\0456",
    ):
        assert read_code(text) is None, text


def test_secrets_are_as_long_as_the_hash_and_typed_without_padding():
    """160 bits (RFC 4226 section 4, R6); what people copy by hand ends with no `=`."""
    assert SECRET_BYTES * 8 == 160
    assert [secret_text(b"k" * size) for size in (1, 5, 6)] == ["NM", "NNVWW23L", "NNVWW23LNM"]


def test_an_authenticator_reads_the_address_back():
    """A real library takes the URI and makes the same codes, whatever names are in it."""
    secret = bytes(range(SECRET_BYTES))
    for account, issuer in (("alice", "acme"), ("a b&c=d?/#%", "Ácme: Ltd & Söhne")):
        uri = provisioning_uri(secret, account=account, issuer=issuer)
        read = pyotp.parse_uri(uri)
        assert isinstance(read, pyotp.TOTP)
        assert (read.secret, read.digits, read.interval, read.issuer) == (secret_text(secret), 6, 30, issuer)
        assert matching_step(secret, read.at(1_700_000_000), now=at(1_700_000_000)) is not None
        assert parse_qs(urlsplit(uri).query).keys() == {"secret", "issuer"}
        assert unquote(urlsplit(uri).path).endswith(f":{account}")
