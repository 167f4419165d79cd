"""Which passwords may be chosen: lengths in code points, known words and their variations, marked deviations."""

import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.password_blocklist import is_common, is_made_of, is_pattern
from authn.password_strength import advise, is_known_word
from authn.password_text import normalize_password
from authn.passwords import (
    GUIDANCE,
    PasswordRefused,
    Refusal,
    check_password,
    context_words_of,
    must_be_replaced,
)
from tenancy.password_deviations import PasswordDeviations, read_deviation, read_deviations
from tenancy.tenant_settings import Deviation
from tenancy.tenant_settings import PasswordSettings as PasswordPolicy


class Known:
    """zxcvbn's lists."""

    def __contains__(self, word):
        return is_known_word(word)


CONTEXT = context_words_of(
    slug="acme-corp",
    tenant_names=("Acme Corporation", None),
    username="jane.doe",
    email="jane.doe@mail.acme.example",
    display_name="Jane Doe",
)


DEFAULT = PasswordPolicy()


def refusals(password, policy=DEFAULT, *, mfa_required=False, context=CONTEXT):
    found = check_password(
        normalize_password(password), policy=policy, context_words=context, blocklist=Known(), mfa_required=mfa_required
    )
    return {reason.code for reason in found.reasons} if isinstance(found, PasswordRefused) else set()


@pytest.mark.parametrize(
    ("password", "alone", "with_mfa"),
    [
        ("vex quo", False, False),
        ("vex quoz", False, True),
        ("glyph vexing j", False, True),
        ("glyph vexing jq", True, True),
        ("🎉🚀🌵🍩🧊🪐🦑" * 2, False, True),
        ("🎉🚀🌵🍩🧊🪐🦑🎲🧭🪁🧵🪤🫖🪗🧿", True, True),
        ("e\u0301" * 3 + "o\u0302" * 4, False, False),  # 14 code points as typed, 7 after composing
        ("e\u0301a\u0300u\u0308o\u0302i\u0301y\u0301a\u0308qz", False, True),
        ("пароль здесь юг", True, True),
        ("东京大阪名古屋札幌福冈神户京都横滨", True, True),
    ],
)
def test_length_is_counted_in_code_points_after_composing(password, alone, with_mfa):
    """At least 15 where the password alone signs in, 8 only where a second factor must follow."""
    assert (Refusal.TOO_SHORT not in refusals(password)) is alone
    assert (Refusal.TOO_SHORT not in refusals(password, mfa_required=True)) is with_mfa


def test_a_tenant_may_ask_for_other_lengths():
    """And what is above its most is refused, with both numbers in the reason."""
    policy = PasswordPolicy(min_length=20, max_length=64)
    assert refusals("glyph vexing jqrs", policy) == {Refusal.TOO_SHORT}
    assert refusals("glyph vexing " * 5, policy) == {Refusal.TOO_LONG}
    found = check_password("short", policy=policy, context_words=(), blocklist=(), mfa_required=False)
    assert isinstance(found, PasswordRefused)
    assert "5" in found.reasons[0].message
    assert "20" in found.reasons[0].message


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "PASSWORD12345678",
        "P4ssw0rd!!!2024",
        "dr0wssaP",
        "password password password",
        "p@$$w0rdp@$$w0rdp@$$w0rd",
        "1234567890123456",
        "9876543210987654",
        "aaaaaaaaaaaaaaaa",
        "abababababababab",
        "abcabcabcabcabca",
        "abcdefghijklmnop",
        "zyxwvutsrqponmlk",
        "qwertyuiopasdfgh",
        "lkjhgfdsapoiuytr",
        "1234567890qwerty",
        "polniypizdec110211",
        "q1w2e3r4t5y6u7i8o9p0",
        "responsibilities1999",
        "letmeinletmeinletmein",
        "111222333444555",
        "ｐａｓｓｗｏｒｄ2024",
        "!!!!!!!!!!!!!!!!!!",
        "sunshine1234567890",
    ],
)
def test_what_everybody_tries_is_refused(password):
    """A sample of a cracker's corpus, with the variations that its rules make."""
    assert Refusal.COMMON in refusals(password)


@pytest.mark.parametrize(
    "password",
    [
        "kasbahkasbahkasbah",
        "Kasbah-Kasbah-2024",
        "acme-corp-acme-corp",
        "AcmeCorporation2024",
        "@cm3corporation!!",
        "acmekasbah password",
        "kasbah-admin-login",
        "jane.doe.jane.doe",
        "eod.enaj.eod.enaj",
        "J4N3D03jane.doe1",
        "janedoeacmecorp99",
        "jane.doe@mail.acme.example",
        "JaneDoe JaneDoe!",
        "Sesamstrasse-2024",
    ],
)
def test_names_that_belong_to_the_account_are_refused(password):
    """Service, tenant, own names, address and the tenant's blocked words, one or several, with trivial variations."""
    policy = PasswordPolicy(blocked_words=("Sesamstraße",))
    assert refusals(password, policy) == {Refusal.CONTEXT}


@pytest.mark.parametrize(
    "password",
    [
        "acme sells purple ladders",
        "jane drinks cold tea",
        "passwordhorsebattery",
        "correct horse battery staple",
        "my kasbah has nine doors",
        "qwerty the hamster sleeps",
        "4815162342 lost in the sea",
        "ab8274619305736",
        "82746193057364921",
        "glyph-jolt-vexing-quartz",
        "            secret hill            ",
        "naïve façade über alles",
        "ποτέ δεν είναι αργά",
    ],
)
def test_near_misses_are_accepted(password):
    """Whole passwords are compared, never parts; any character counts, blanks and digits too; no class is asked for."""
    assert refusals(password) == set()


def test_every_reason_is_told_at_once():
    """With what helps; and never the password."""
    found = check_password(
        "Acme2024", policy=PasswordPolicy(), context_words=CONTEXT, blocklist=Known(), mfa_required=False
    )
    assert isinstance(found, PasswordRefused)
    assert {reason.code for reason in found.reasons} == {Refusal.TOO_SHORT, Refusal.CONTEXT}
    assert all(reason.message and reason.guidance == GUIDANCE[reason.code] for reason in found.reasons)
    assert "Acme2024" not in repr(found)
    assert GUIDANCE.keys() == {*Refusal}


def test_classes_of_characters_count_only_as_a_marked_deviation():
    """An auditor's wish; without the mark nothing asks for them."""
    plain = "glyph vexing jqz kw"
    assert refusals(plain) == set()
    wish = PasswordPolicy(deviations=(Deviation("composition:upper,digit,symbol", "PCI DSS 8.3.6"),))
    assert refusals(plain, wish) == {Refusal.COMPOSITION}
    assert refusals("Glyph vexing jqz 7", wish) == set()


def test_no_password_expires_without_a_marked_deviation():
    """And with one, on its day."""
    chosen = datetime(2024, 1, 1, tzinfo=UTC)
    wish = PasswordPolicy(deviations=(Deviation("max_age_days:90", "an auditor"),))
    assert not must_be_replaced(chosen, PasswordPolicy(), now=chosen + timedelta(days=36_500))
    assert not must_be_replaced(chosen, wish, now=chosen + timedelta(days=90, seconds=-1))
    assert must_be_replaced(chosen, wish, now=chosen + timedelta(days=90))


@pytest.mark.parametrize(
    "rule",
    ["", "composition", "composition:", "composition:lower,lower", "composition:letters", "max_age_days", "max_age_days:7",
     "max_age_days:٩٠", "max_age_days:-90", "history:0", "history:11", "history:5x", "min_length:4", "hints:yes"],
)  # fmt: skip
def test_deviations_are_a_closed_set(rule):
    """What nobody enforces cannot be written, and says what can."""
    with pytest.raises(ValueError, match=r"write|there are"):
        read_deviation(rule)


def test_the_strictest_of_several_deviations_counts():
    """Two auditors, one tenant."""
    rules = ("max_age_days:365", "max_age_days:90", "history:3", "history:5", "composition:lower", "composition:digit")
    assert read_deviations(Deviation(rule, "why") for rule in rules) == PasswordDeviations(
        frozenset({"lower", "digit"}), timedelta(days=90), 5
    )


@given(st.text(max_size=256), st.lists(st.text(max_size=30), max_size=5))
def test_any_text_is_judged(password, words):
    """No input is an error, and composing what was typed changes no answer."""
    typed = unicodedata.normalize("NFC", password)
    assert is_common(typed, Known()) in {True, False}
    assert is_made_of(typed, words) in {True, False}
    assert is_made_of(typed, words) == is_made_of(unicodedata.normalize("NFD", typed), words)


@given(
    st.sampled_from(["kasbah", "acme", "Sesamstraße", "Ölmühle"]),
    st.integers(1, 8),
    st.sampled_from(["", "!", "2024", "***"]),
)
def test_repeating_and_decorating_a_name_changes_nothing(word, times, decoration):
    """However often, in whatever case."""
    for shown in (word, word.upper(), word.casefold()):
        assert is_made_of(shown * times + decoration, ["kasbah", "Acme", "sesamstraße", "ÖLMÜHLE"])


def test_patterns():
    """Circles, runs and rows; short beginnings of them are none."""
    assert all(is_pattern(text) for text in ("aaaa", "xyxyxyx", "789012", "fedcba", "poiuyt", "asdfghjkl;'"))
    assert not any(is_pattern(text) for text in ("", "a", "ab", "abz", "2024", "asdx", "qwe rty"))


def test_advice_knows_the_context_and_shares_it_with_nobody():
    """The library's own entry point leaves the words of one account in a dictionary that the next one's are judged by."""
    from zxcvbn import matching

    before = set(matching.RANKED_DICTIONARIES)
    alone = advise("zyqqurath zyqqurath", ())
    known = advise("zyqqurath zyqqurath", ("Zyqqurath",))
    assert known.score < alone.score
    assert set(matching.RANKED_DICTIONARIES) == before
    assert advise("zyqqurath zyqqurath", ()) == alone
    assert advise("password1", ()).score == 0
    assert advise("password1", ()).warning


def test_advice_looks_at_a_bounded_part():
    """What zxcvbn takes grows much faster than a password."""
    assert advise("1!|@4$5" * 36, ()) == advise(("1!|@4$5" * 36)[:32], ())


def test_an_account_without_address_or_name_has_context_all_the_same():
    """The service, the tenant and the username."""
    words = context_words_of(slug="acme", tenant_names=(None,), username="jane", email=None, display_name=None)
    assert {"acme", "jane"} <= set(words)
    assert not [word for word in words if "@" in word]
