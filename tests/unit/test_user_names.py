"""Which names accounts may have, and which spellings are one name."""

import pytest

from authn.errors import InvalidEmailError, InvalidPersonNameError, InvalidUsernameError
from authn.users import normalize_display_name, normalize_email, normalize_username, subject_ref, user_id_of

TOO_LONG = "a" * 65


@pytest.mark.parametrize(
    ("typed", "shown", "key"),
    [
        ("alice", "alice", "alice"),
        ("Alice.Smith-2+x_y", "Alice.Smith-2+x_y", "alice.smith-2+x_y"),
        ("ａｌｉｃｅ", "alice", "alice"),  # fullwidth
        ("Zoe\u0308", "Zo\u00eb", "zo\u00eb"),  # NFD
        ("\u212aim", "Kim", "kim"),  # Kelvin sign
        ("\u0130brahim", "\u0130brahim", "ibrahim"),  # Turkish dotted I
        ("\u0131lgaz", "\u0131lgaz", "ilgaz"),  # Turkish dotless i
        ("ΣΑΣ", "ΣΑΣ", "σασ"),
        ("σας", "σας", "σασ"),
        ("Иван", "Иван", "иван"),
        ("田中たろう", "田中たろう", "田中たろう"),
        ("김철수", "김철수", "김철수"),
        ("שלום", "שלום", "שלום"),
        ("a" * 64, "a" * 64, "a" * 64),
    ],
)
def test_usernames(typed, shown, key):
    """A name is shown as it was meant, and found however it is spelled (RFC 8265)."""
    assert normalize_username(typed) == (shown, key)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "alice@example.com",
        "alice＠example",
        TOO_LONG,
        "a" * 100_000,
        "\ufdfa" * 30,
        "a\x00b",
        "a\nb",
        "a\u200bb",
        "a\u202eb",
        "\ud800",
        "al*",
        "user:alice",
        "name=alice",
        "a,b",
        'a"b',
        "a/b",
        "../a",
        "a\\b",
        "a%2fb",
        "=cmd",
        "-rf",
        "+1",
        ".",
        "..",
        "a.",
        "_",
        "paypаl",  # Cyrillic
        "аdmin",
        "οmega1x",  # Greek
        "ᏢᎪᏢᎪ",  # Cherokee, not in everyday use
        "1٢",  # digits of two kinds
        "a\u0301\u0302\u0303\u0304\u0306",
        "e\u0323\u0323",
        "ﬁne",
        "\u0378",  # unassigned
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "01890A5DAC96774BBCCEB302099A8057",
    ],
)
def test_what_is_no_username(name):
    """Hostile and ambiguous names are refused, and no message repeats them."""
    with pytest.raises(InvalidUsernameError) as refused:
        normalize_username(name)
    assert len(name) < 3 or name not in str(refused.value)


@pytest.mark.parametrize(
    ("typed", "shown", "key"),
    [
        ("Alice@Example.COM", "Alice@example.com", "alice@example.com"),
        ("a@Ex\u00e4mple.com", "a@ex\u00e4mple.com", "a@xn--exmple-cua.com"),
        ("a@xn--exmple-cua.com", "a@ex\u00e4mple.com", "a@xn--exmple-cua.com"),
        ("a@xn--fa-hia.de", "a@fa\u00df.de", "a@xn--fa-hia.de"),  # IDNA 2008 keeps the sharp s
        ("a@ｅxample.com", "a@example.com", "a@example.com"),
        ("\u00d1@example.com", "\u00d1@example.com", "\u00f1@example.com"),
        ("a+b@corp.internal", "a+b@corp.internal", "a+b@corp.internal"),
        ("a@corp.local", "a@corp.local", "a@corp.local"),
        ("a@acme.test", "a@acme.test", "a@acme.test"),
    ],
)
def test_addresses(typed, shown, key):
    """The key is in lower case with the domain as A-labels; the shown form is where mail goes."""
    assert normalize_email(typed) == (shown, key)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "alice",
        "@example.com",
        "a@",
        "a@localhost",
        "a@acme.invalid",
        "a@b@example.com",
        '"a b"@example.com',
        "a@[192.0.2.1]",
        "Alice <a@example.com>",
        "a@example.com\r\nBcc: b@example.com",
        "a@example.com\x00",
        "ａ@example.com",
        "pаypal@example.com",
        "a@exаmple.com",
        f"{TOO_LONG}@example.com",
        "a@" + "a" * 300 + ".com",
        "a" * 100_000 + "@example.com",
        "a@-example.com",
        "a@xn--a.com",
        "a@example..com",
    ],
)
def test_what_is_no_address(address):
    """Injections, look-alikes and places that are no mailbox are refused."""
    with pytest.raises(InvalidEmailError):
        normalize_email(address)


def test_names_of_people():
    """They are trimmed and composed; their search form ignores case and compatible forms."""
    assert normalize_display_name("  Zoe\u0308 Ｓmith ") == ("Zo\u00eb Ｓmith", "zo\u00eb smith")
    for text in ("", "  ", "a\nb", "a\u202eb", "a" * 201, "\x1b[31mred"):
        with pytest.raises(InvalidPersonNameError):
            normalize_display_name(text)


def test_what_searches_compare_is_bounded():
    """One character may stand for eighteen; an index takes 2,704 bytes."""
    shown, compared = normalize_display_name("\ufdfa" * 200)
    assert (len(shown), len(compared)) == (200, 256)


def test_the_subject_of_an_account_has_one_spelling():
    """Another spelling of the same id is another subject, of which no account is known."""
    ref = "user:01890a5d-ac96-774b-bcce-b302099a8057"
    found = user_id_of(ref)
    assert found is not None
    assert subject_ref(found) == ref
    for other in (ref.upper(), ref.replace("user", "service"), ref.replace("-", ""), ref + " ", "user:alice", "user"):
        assert user_id_of(other) is None
