"""Keys of an issuer over time: rotation, outages, made-up key ids; and answers of introspection."""

import asyncio
import json
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from authn.access_tokens import Expected, Refusal, TokenHeader
from authn.errors import AccessTokenRefusedError, IssuerUnavailableError
from authn.introspections import IntrospectionLimits, Introspections
from authn.issuer_keys import IssuerKeys, KeyLimits
from tests.support.issuer import AUDIENCE, Issuer, new_key

LIMITS = KeyLimits(fresh=300, stale=3600, unknown=10, retry=2)


class Publisher:
    """Publishes what the test says, and counts."""

    def __init__(self, *keys):
        self.keys = list(keys)
        self.fetches = 0
        self.down = False
        self.garbage = False
        self.gate = None

    async def fetch_keys(self):
        """Answer, fail, or wait for the test."""
        self.fetches += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise IssuerUnavailableError("down")
        return b"<html>" if self.garbage else json.dumps({"keys": [key.public for key in self.keys]}).encode()


OLD, NEW = new_key(kid="old"), new_key(kid="new")


def named(kid) -> TokenHeader:
    return TokenHeader("ES256", kid)


def make(*keys):
    """Return keys over a publisher, and the clock that they go by."""
    publisher, clock = Publisher(*(keys or (OLD,))), [1000.0]
    return IssuerKeys(publisher, ["ES256"], LIMITS, monotonic=lambda: clock[0]), publisher, clock


async def settled():
    """Let what was begun beside end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_keys_are_fetched_once_and_by_one_for_all():
    """Fifty tokens at a cold start ask the issuer once."""
    keys, publisher, _ = make()
    publisher.gate = asyncio.Event()
    finding = [asyncio.create_task(keys.find(named("old"))) for _ in range(50)]
    await settled()
    publisher.gate.set()
    assert all(await asyncio.gather(*finding))
    assert await keys.find(named("old"))
    assert publisher.fetches == 1


async def test_who_goes_away_does_not_end_the_fetch_for_the_others():
    """A cancelled request is one of many that wait."""
    keys, publisher, _ = make()
    publisher.gate = asyncio.Event()
    first, second = (asyncio.create_task(keys.find(named("old"))) for _ in range(2))
    await settled()
    first.cancel()
    await settled()
    publisher.gate.set()
    assert await second
    assert publisher.fetches == 1


async def test_a_new_key_is_found_at_once_and_an_old_one_goes_with_the_next_set():
    """Rotation: an unknown id has the issuer asked, and what it took back is refused."""
    keys, publisher, clock = make()
    assert await keys.find(named("old"))
    publisher.keys = [NEW, OLD]
    clock[0] += LIMITS.unknown
    assert await keys.find(named("new"))
    assert publisher.fetches == 2
    publisher.keys = [NEW]
    clock[0] += LIMITS.fresh
    assert await keys.find(named("old"))  # nobody waits: the set is renewed beside this
    await settled()
    assert publisher.fetches == 3
    assert await keys.find(named("old")) is None
    assert await keys.find(named("new"))


async def test_a_key_is_one_for_its_own_algorithm():
    """Found by its id and another algorithm, it is unknown."""
    keys, _, _ = make()
    assert await keys.find(TokenHeader("RS256", "old")) is None


async def test_ten_thousand_made_up_ids_ask_the_issuer_once_and_leave_nothing():
    """The bound is in time, and nothing is remembered of an id."""
    keys, publisher, clock = make()
    assert await keys.find(named("old"))
    clock[0] += LIMITS.unknown
    tracemalloc.start()
    try:
        for number in range(10_000):
            assert await keys.find(named(f"kid-{number}" + "x" * 200)) is None
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert publisher.fetches == 2
    assert held < 200_000
    clock[0] += LIMITS.unknown
    assert await keys.find(named("kid")) is None
    assert publisher.fetches == 3


@pytest.mark.parametrize("how", ["down", "garbage"])
async def test_keys_are_served_while_the_issuer_is_down_but_not_without_end(how):
    """Fail closed: after the bound nothing is known, which is no refusal of the token."""
    keys, publisher, clock = make()
    assert await keys.find(named("old"))
    setattr(publisher, how, True)
    clock[0] += LIMITS.stale - 1
    assert await keys.find(named("old"))
    await settled()
    clock[0] += 1
    with pytest.raises(IssuerUnavailableError):
        await keys.find(named("old"))
    setattr(publisher, how, False)
    clock[0] += LIMITS.retry
    assert await keys.find(named("old"))


async def test_an_issuer_that_is_down_is_left_alone_between_tries():
    """A flood of tokens at a dead issuer asks it every two seconds."""
    keys, publisher, clock = make()
    publisher.down = True
    for _ in range(100):
        with pytest.raises(IssuerUnavailableError):
            await keys.find(named("old"))
    assert publisher.fetches == 1
    clock[0] += LIMITS.retry
    with pytest.raises(IssuerUnavailableError):
        await keys.find(named("old"))
    assert publisher.fetches == 2


async def test_an_unknown_id_is_no_refusal_while_the_issuer_is_down():
    """It may be the id of a new key: 503, and tried again soon."""
    keys, publisher, clock = make()
    assert await keys.find(named("old"))
    publisher.down = True
    clock[0] += LIMITS.unknown
    for _ in range(3):
        with pytest.raises(IssuerUnavailableError):
            await keys.find(named("new"))
    assert publisher.fetches == 2
    assert await keys.find(named("old"))
    publisher.down, publisher.keys = False, [NEW]
    clock[0] += LIMITS.retry
    assert await keys.find(named("new"))


async def test_closing_ends_a_fetch():
    """Nothing goes on after the service has ended."""
    keys, publisher, _ = make()
    publisher.gate = asyncio.Event()
    finding = asyncio.create_task(keys.find(named("old")))
    await settled()
    await keys.close()
    with pytest.raises(asyncio.CancelledError):
        await finding
    assert keys.totals() == {"issuer_keys_fetched": 0, "issuer_keys_failed": 0}


async def test_fetches_and_failures_are_counted_and_the_failure_is_told():
    """Whoever runs the service reads why tokens are refused."""
    keys, publisher, clock = make()
    publisher.down = True
    with capture_logs() as logs, pytest.raises(IssuerUnavailableError):
        await keys.find(named("old"))
    assert logs == [{"event": "access_tokens.keys_not_fetched", "error": "down", "log_level": "warning"}]
    clock[0] += LIMITS.retry
    publisher.down = False
    assert await keys.find(named("old"))
    assert keys.totals() == {"issuer_keys_fetched": 1, "issuer_keys_failed": 1}


async def test_closing_waits_until_the_fetch_has_ended():
    """What it holds is let go before the service's connections are."""
    keys, publisher, _ = make()
    ended = []

    async def hang():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    publisher.fetch_keys = hang
    finding = asyncio.create_task(keys.find(named("old")))
    await settled()
    await keys.close()
    assert ended == [True]
    with pytest.raises(asyncio.CancelledError):
        await finding


# --- introspection

ISSUER = Issuer()


class Endpoint:
    """Says of tokens what the test put there."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.down = False
        self.gate = None

    async def introspect(self, token):
        """Answer, fail, or wait for the test."""
        self.asked.append(token)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise IssuerUnavailableError("down")
        answer = self.answers.get(token, {"active": False})
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def introspections(**limits):
    """Return introspections over an endpoint, and their clocks: seconds that have passed."""
    endpoint, passed, begun = Endpoint(), [0.0], datetime.now(UTC)
    endpoint.answers["good"] = {"active": True} | ISSUER.claims("alice", "kasbah:policy:read")
    found = Introspections(
        endpoint,
        Expected(ISSUER.issuer, AUDIENCE),
        lambda: begun + timedelta(seconds=passed[0]),
        IntrospectionLimits(**limits),
        monotonic=lambda: passed[0],
    )
    return found, endpoint, passed


async def refusal(found, token):
    with pytest.raises(AccessTokenRefusedError) as refused:
        await found.find(token)
    return refused.value.refusal


async def test_an_answer_is_remembered_for_moments_and_revocation_follows():
    """The issuer takes the token back; ten seconds later it is refused."""
    found, endpoint, passed = introspections()
    assert (await found.find("good")).scopes == {"policy:read"}
    del endpoint.answers["good"]
    passed[0] = 9.9
    assert (await found.find("good")).subject == "alice"
    assert endpoint.asked == ["good"]
    passed[0] = 10
    assert await refusal(found, "good") == Refusal.INACTIVE
    assert await refusal(found, "good") == Refusal.INACTIVE
    assert endpoint.asked == ["good", "good"]


async def test_an_answer_is_never_remembered_beyond_the_token():
    """It ends in between: the issuer is asked again, and what it says is judged again."""
    found, endpoint, passed = introspections(seconds=1000)
    endpoint.answers["short"] = {"active": True} | ISSUER.claims("alice", exp=ISSUER.claims("alice")["iat"] + 5)
    assert (await found.find("short")).subject == "alice"
    passed[0] = 6
    await found.find("short")  # within the leeway, and asked anew
    assert endpoint.asked == ["short", "short"]
    passed[0] = 20
    assert await refusal(found, "short") == Refusal.TIME


async def test_many_with_one_token_ask_once():
    """Also when the first of them goes away."""
    found, endpoint, _ = introspections()
    endpoint.gate = asyncio.Event()
    finding = [asyncio.create_task(found.find("good")) for _ in range(50)]
    await settled()
    finding[0].cancel()
    await settled()
    endpoint.gate.set()
    assert len([token for token in await asyncio.gather(*finding[1:]) if token.subject == "alice"]) == 49
    assert endpoint.asked == ["good"]


async def test_a_flood_of_unknown_tokens_is_bounded():
    """In questions at once, in what waits, and in what is remembered."""
    found, endpoint, _ = introspections(questions=4, waiting=8, refused=16, remembered=16)
    endpoint.gate = asyncio.Event()
    finding = [asyncio.create_task(found.find(f"token-{number}")) for number in range(20)]
    await settled()
    assert len(endpoint.asked) == 4
    endpoint.gate.set()
    outcomes = await asyncio.gather(*finding, return_exceptions=True)
    assert sum(isinstance(outcome, IssuerUnavailableError) for outcome in outcomes) == 12
    assert sum(isinstance(outcome, AccessTokenRefusedError) for outcome in outcomes) == 8
    for number in range(100):
        endpoint.answers[f"more-{number}"] = endpoint.answers["good"]
        await found.find(f"more-{number}")
        await refusal(found, f"bad-{number}")
    assert len(found._good) == len(found._bad) == 16
    assert not found._under_way


async def test_an_endpoint_that_is_down_is_no_refusal_and_nothing_is_remembered():
    """Fail closed with 503; a good answer from moments ago still counts."""
    found, endpoint, _ = introspections()
    assert await found.find("good")
    endpoint.down = True
    assert await found.find("good")
    with pytest.raises(IssuerUnavailableError):
        await found.find("other")
    endpoint.down = False
    assert await refusal(found, "other") == Refusal.INACTIVE


@pytest.mark.parametrize("answer", [b"", b"[]", b"<html>", b'{"active":true,"active":true}', b"\xff"])
async def test_an_answer_that_cannot_be_read_is_none(answer):
    """Never taken for a good one."""
    found, endpoint, _ = introspections()
    endpoint.answers["odd"] = answer
    assert await refusal(found, "odd") == Refusal.CLAIMS


async def test_a_refusal_is_remembered_for_moments_too():
    """A token that becomes good is taken ten seconds after it was refused, counted from the question."""
    found, endpoint, passed = introspections()
    assert await refusal(found, "late") == Refusal.INACTIVE
    endpoint.answers["late"] = endpoint.answers["good"]
    passed[0] = 9.9
    assert await refusal(found, "late") == Refusal.INACTIVE
    passed[0] = 10
    assert (await found.find("late")).subject == "alice"
    assert endpoint.asked == ["late", "late"]


async def test_an_answer_holds_from_when_it_was_asked_for():
    """A slow issuer's answer is no younger than the question."""
    found, endpoint, passed = introspections()
    endpoint.gate = asyncio.Event()
    finding = asyncio.create_task(found.find("good"))
    await settled()
    passed[0] = 8
    endpoint.gate.set()
    await finding
    passed[0] = 9.9
    await found.find("good")
    assert endpoint.asked == ["good"]
    passed[0] = 10
    await found.find("good")
    assert endpoint.asked == ["good", "good"]


async def test_what_was_good_and_is_refused_is_not_held_as_good():
    """Its place is free for others, and it is refused from then on."""
    found, endpoint, passed = introspections(seconds=1)
    await found.find("good")
    del endpoint.answers["good"]
    passed[0] = 1
    assert await refusal(found, "good") == Refusal.INACTIVE
    assert not found._good


async def test_questions_and_remembered_answers_are_counted_apart():
    """For metrics: good and bad answers alike."""
    found, _, _ = introspections()
    assert found.totals() == {"introspection_hits": 0, "introspection_misses": 0}
    for _ in range(3):
        await found.find("good")
    for _ in range(2):
        await refusal(found, "bad")
    await refusal(found, "\ud800")
    assert found.totals() == {"introspection_hits": 3, "introspection_misses": 3}


async def test_a_place_in_the_queue_is_free_again_when_an_answer_came():
    """Exactly as many wait as may; the next one is told to come again, and only then."""
    found, endpoint, _ = introspections(questions=1, waiting=2)
    endpoint.gate = asyncio.Event()
    finding = [asyncio.create_task(found.find(name)) for name in ("good", "good", "bad")]
    await settled()
    with pytest.raises(IssuerUnavailableError):
        await found.find("third")
    assert len(endpoint.asked) == 1
    endpoint.gate.set()
    await asyncio.gather(*finding, return_exceptions=True)
    assert await refusal(found, "third") == Refusal.INACTIVE


async def test_closing_ends_questions():
    """Nothing goes on after the service has ended."""
    found, endpoint, _ = introspections()
    endpoint.gate = asyncio.Event()
    finding = asyncio.create_task(found.find("good"))
    await settled()
    await found.close()
    with pytest.raises(asyncio.CancelledError):
        await finding
