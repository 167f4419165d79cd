"""Choosing a password: judged, then hashed, all in the bounded pool."""

import pytest

from authn.errors import UnusablePasswordError
from authn.new_passwords import ChosenPassword, NewPasswords
from authn.password_hashing import PasswordHasher, Verified
from authn.password_settings import PasswordSettings
from authn.passwords import PasswordAccepted, PasswordRefused, Refusal
from service.passwords import LazyWords, advise
from tenancy.tenant_settings import PasswordSettings as PasswordPolicy

GOOD = "glyph vexing jqz kw"


class Breaches:
    """Knows some passwords; counts who asked."""

    def __init__(self, *known):
        self.known = known
        self.asked = []

    async def is_breached(self, password):
        self.asked.append(password)
        return password in self.known


@pytest.fixture
def hasher():
    """The cheapest that settings allow."""
    made = PasswordHasher(PasswordSettings(memory_mib=19, iterations=2, niceness=0))
    yield made
    made.close()


def asking(**more):
    return {"policy": PasswordPolicy(), "context_words": ("kasbah", "acme"), "mfa_required": False} | more


async def test_a_good_password_is_hashed(hasher):
    """And comes with advice; what is stored is its hash."""
    chosen = await NewPasswords(hasher, Breaches(), blocklist=LazyWords(), advise=advise).choose(GOOD, **asking())
    assert isinstance(chosen, ChosenPassword)
    assert chosen.advice is not None
    assert chosen.advice.score == 4
    assert await hasher.verify(GOOD, chosen.stored) == Verified(needs_rehash=False)


async def test_what_is_refused_is_never_hashed(hasher, monkeypatch):
    """All reasons together, breached beside short; advice comes along."""
    monkeypatch.setattr(hasher, "hash", lambda _: pytest.fail("hashed"))
    new = NewPasswords(hasher, Breaches("hunter2"), blocklist=LazyWords(), advise=advise)
    refused = await new.choose("hunter2", **asking())
    assert isinstance(refused, PasswordRefused)
    assert {reason.code for reason in refused.reasons} == {Refusal.TOO_SHORT, Refusal.COMMON, Refusal.BREACHED}
    assert refused.advice is not None
    with pytest.raises(UnusablePasswordError):
        await new.choose("x" * 5000, **asking())


async def test_a_tenant_may_turn_the_breach_check_off(hasher):
    """Then nothing is asked."""
    breaches = Breaches(GOOD)
    new = NewPasswords(hasher, breaches, blocklist=())
    assert isinstance(await new.judge(GOOD, **asking()), PasswordRefused)
    assert await new.judge(GOOD, **asking(policy=PasswordPolicy(check_breached=False))) == PasswordAccepted()
    assert breaches.asked == [GOOD]


async def test_breaches_are_asked_about_what_will_be_stored(hasher):
    """Composed, as lists hold it."""
    breaches = Breaches("café au lait à Orléans")
    new = NewPasswords(hasher, breaches, blocklist=())
    assert isinstance(await new.judge("cafe\u0301 au lait a\u0300 Orle\u0301ans", **asking()), PasswordRefused)


async def test_former_passwords_may_not_come_again_if_asked_so(hasher):
    """Only the deviation `history` hands their hashes in."""
    new = NewPasswords(hasher, Breaches(), blocklist=())
    old = [await hasher.hash(password) for password in ("the first of them all", GOOD)]
    refused = await new.choose(GOOD, **asking(previous=old))
    assert isinstance(refused, PasswordRefused)
    assert [reason.code for reason in refused.reasons] == [Refusal.REUSED]
    assert isinstance(await new.choose("something else again", **asking(previous=old)), ChosenPassword)
