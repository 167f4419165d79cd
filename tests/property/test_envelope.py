"""Envelopes open where they were sealed and nowhere else."""

import dataclasses
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy.envelope import KEY_ID_BYTES, NONCE_BYTES, EnvelopeKey, Place, key_id_of
from tenancy.errors import UnsealError
from tenancy.ids import TenantId

TENANT = TenantId(UUID(int=1))
OTHER_TENANT = TenantId(UUID(int=2))
KEY = EnvelopeKey(UUID(int=7), bytes(range(32)))
PLACE = Place("mails", "body", "1")
NONCE_START = 1 + KEY_ID_BYTES

names = st.text(max_size=8)
places = st.builds(Place, names, names, names)


@given(places, st.binary(max_size=300))
def test_what_is_sealed_opens(place, plaintext):
    """Any bytes, in any place."""
    assert KEY.open(TENANT, place, KEY.seal(TENANT, place, plaintext)) == plaintext


@given(places, places, st.binary(max_size=30))
def test_a_value_opens_in_its_place_alone(place, other, plaintext):
    """Whatever the names are: no two places are bound alike, not even where their names join to the same text."""
    sealed = KEY.seal(TENANT, place, plaintext)
    if place == other:
        assert KEY.open(TENANT, other, sealed) == plaintext
    else:
        with pytest.raises(UnsealError):
            KEY.open(TENANT, other, sealed)


@pytest.mark.parametrize("part", ["table", "column", "row"])
def test_each_part_of_the_place_is_bound(part):
    """A value that was moved within the tenant does not open."""
    sealed = KEY.seal(TENANT, PLACE, b"secret")
    with pytest.raises(UnsealError):
        KEY.open(TENANT, dataclasses.replace(PLACE, **{part: "2"}), sealed)


def test_the_tenant_is_bound():
    """Nor does one of another tenant, even under the same key."""
    with pytest.raises(UnsealError):
        KEY.open(OTHER_TENANT, PLACE, KEY.seal(TENANT, PLACE, b"secret"))


def test_the_key_id_is_bound():
    """The same key under another id does not open a value that was changed to name that id."""
    sealed = KEY.seal(TENANT, PLACE, b"secret")
    renamed = EnvelopeKey(UUID(int=8), bytes(range(32)))
    forged = sealed[:1] + renamed.id.bytes + sealed[NONCE_START:]
    assert key_id_of(forged) == renamed.id
    with pytest.raises(UnsealError):
        renamed.open(TENANT, PLACE, forged)


@given(st.binary(max_size=40), st.data())
def test_a_flipped_bit_is_refused(plaintext, data):
    """Of version, key id, nonce, ciphertext and tag alike."""
    sealed = bytearray(KEY.seal(TENANT, PLACE, plaintext))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UnsealError):
        KEY.open(TENANT, PLACE, bytes(sealed))


@given(st.binary(max_size=100))
def test_what_is_no_sealed_value_is_refused(noise):
    """With the same error as everything else."""
    with pytest.raises(UnsealError):
        KEY.open(TENANT, PLACE, noise)


@given(st.binary(max_size=20), st.integers(0, 200))
def test_a_cut_value_is_refused(plaintext, length):
    """At any length."""
    sealed = KEY.seal(TENANT, PLACE, plaintext)
    if length < len(sealed):
        with pytest.raises(UnsealError):
            KEY.open(TENANT, PLACE, sealed[:length])


def test_the_error_never_says_why():
    """A wrong place, a wrong key, a changed and a cut value look alike."""
    sealed = KEY.seal(TENANT, PLACE, b"secret")
    other = EnvelopeKey(KEY.id, bytes(32))
    attempts = [
        lambda: KEY.open(OTHER_TENANT, PLACE, sealed),
        lambda: other.open(TENANT, PLACE, sealed),
        lambda: KEY.open(TENANT, PLACE, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        lambda: KEY.open(TENANT, PLACE, sealed[:10]),
        lambda: KEY.open(TENANT, PLACE, b"\x02" + sealed[1:]),
    ]
    told = set()
    for attempt in attempts:
        with pytest.raises(UnsealError) as refused:
            attempt()
        told.add(
            (
                str(refused.value),
                refused.value.__cause__,
                refused.value.__suppress_context__ or refused.value.__context__ is None,
            )
        )
    assert told == {("a sealed value does not open", None, True)}


def test_no_nonce_comes_twice_in_a_million():
    """Random and 96 bits: two alike among 10^6 would come once in 10^17 runs."""
    nonces = set()
    for _ in range(1_000_000):
        nonces.add(KEY.seal(TENANT, PLACE, b"")[NONCE_START : NONCE_START + NONCE_BYTES])
    assert len(nonces) == 1_000_000


def test_a_key_shows_nothing():
    """Not in a log, not in a traceback that prints values."""
    key = EnvelopeKey(UUID(int=9), b"canary-key-material-canary-key-m")
    assert "canary" not in repr(key) + str(key) + repr(key._cipher)
    assert not hasattr(key, "__dict__")
