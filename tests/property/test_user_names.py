"""Names of accounts: normalising is idempotent, and all spellings of one name have one key."""

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from authn.errors import InvalidEmailError, InvalidUsernameError
from authn.users import normalize_email, normalize_username

LETTERS = st.text(
    st.one_of(
        st.sampled_from("abcXYZ019._-+@ıİςΣσßẞÅåéñşгЖя中たタᄀ가ﾀךא٣"),
        st.characters(codec="utf-8", categories=["Lu", "Ll", "Lo", "Lt", "Lm", "Nd", "Mn"]),
    ),
    max_size=12,
)


def key_of(text):
    """Return the key of a username, or None when it is none."""
    try:
        return normalize_username(text)[1]
    except InvalidUsernameError:
        return None


@given(LETTERS)
@example("İ")
@example("ı\u0307")
@example("i\u0307\u0307")
def test_usernames_are_stable(text):
    """The shown form and the key are names themselves, with the same key."""
    try:
        shown, key = normalize_username(text)
    except InvalidUsernameError:
        return
    assert normalize_username(shown) == (shown, key)
    assert normalize_username(key) == (key, key)
    assert "@" not in shown
    assert 1 <= len(shown) <= 64
    assert shown.isprintable()


@given(LETTERS)
def test_spellings_of_one_username_collide(text):
    """Case, composition and width make no other name: such a spelling is the same name, or none."""
    key = key_of(text)
    if key is None:
        return
    for spelled in (
        text.lower(),
        text.swapcase() if text.swapcase().swapcase() == text else text,
        unicodedata.normalize("NFD", text),
        unicodedata.normalize("NFC", text),
        "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text),
    ):
        assert key_of(spelled) in {key, None}, spelled


@given(local=LETTERS, domain=st.sampled_from(["example.com", "EXAMPLE.com", "exämple.com", "xn--exmple-cua.com"]))
def test_addresses_are_stable(local, domain):
    """The shown address has the key of what was typed, in any case."""
    try:
        shown, key = normalize_email(f"{local}@{domain}")
    except InvalidEmailError:
        return
    assert normalize_email(shown) == (shown, key)
    assert key.rpartition("@")[2] in {"example.com", "xn--exmple-cua.com"}
    assert normalize_email(shown.lower())[1] == key


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text):
    """Nothing but the two refusals comes out, whatever goes in."""
    for normalize, refusal in ((normalize_username, InvalidUsernameError), (normalize_email, InvalidEmailError)):
        try:
            shown, key = normalize(text)
        except refusal:
            continue
        assert shown
        assert key
