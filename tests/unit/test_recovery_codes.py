"""Recovery codes: 120 random bits, read back however people type them."""

import hashlib
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.recovery_codes import CODE_BYTES, CODES, code_text, hash_recovery_code, read_recovery_code


@given(st.binary(min_size=CODE_BYTES, max_size=CODE_BYTES), st.randoms(use_true_random=False))
def test_a_code_is_read_back_however_it_is_typed(entropy, chance):
    """Any case, dashes or not, spaces anywhere, and the letters that are mistaken for digits."""
    shown = code_text(entropy)
    assert len(shown.replace("-", "")) == 24
    assert not set("ILOU") & set(shown)
    typed = "".join(
        chance.choice(
            [
                letter,
                letter.lower(),
                *{"0": "oO", "1": "iIlL"}.get(letter, ""),
                *([letter, ""] if letter == "-" else []),
            ]
        )
        + chance.choice(["", "", " "])
        for letter in shown
    )
    assert read_recovery_code(typed) == entropy


def test_every_bit_counts():
    """Two codes that differ in one bit are two codes."""
    entropy = secrets.token_bytes(CODE_BYTES)
    for bit in range(CODE_BYTES * 8):
        other = (int.from_bytes(entropy) ^ 1 << bit).to_bytes(CODE_BYTES)
        assert read_recovery_code(code_text(other)) == other != entropy
        assert hash_recovery_code(other) != hash_recovery_code(entropy)


@pytest.mark.parametrize("text", ["", "-", "A" * 23, "A" * 25, "U" * 24, "A" * 100_000, "Ａ" * 24, "A" * 23 + "!"])
def test_what_is_no_code_is_refused(text):
    """Too short, too long, other letters."""
    assert read_recovery_code(text) is None


def test_spaces_are_taken_up_to_three_times_the_length():
    """Whoever types generously is understood; what is longer is not read at all."""
    shown = "A" * 24
    assert read_recovery_code(" ".join(shown) + " " * 25) is not None
    assert read_recovery_code(" ".join(shown) + " " * 26) is None


def test_letters_that_only_look_like_those_of_a_code_are_refused():
    """`ſ` and `ı` become `S` and `I` in upper case."""
    for letter in "ſı":
        assert read_recovery_code("A" * 23 + letter.upper()) is not None
        assert read_recovery_code("A" * 23 + letter) is None


def test_a_person_has_ten_codes_shown_in_groups_of_four():
    """As the notice of them says."""
    assert CODES == 10
    assert [len(group) for group in code_text(bytes(CODE_BYTES)).split("-")] == [4] * 6


def test_a_code_takes_enough_chance():
    """112 bits are the least for a plain hash (NIST SP 800-63B-4 section 3.1.2)."""
    assert CODE_BYTES * 8 >= 112
    with pytest.raises(ValueError, match="random bytes"):
        code_text(b"short")
    assert hash_recovery_code(b"a") == hashlib.sha256(b"a").digest()
