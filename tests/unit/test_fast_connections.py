"""Connections that try to come between the two ways, each hazard by itself, under virtual time.

`tests/property/test_raw_connections.py` looks for those that nobody thought of.
"""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from authn.api_keys import hash_token
from authz.ports import AccountState
from service.fast_heads import MAX_HEAD, MAX_REMEMBERED
from service.http.authzen import ROUTES
from service.http_settings import HttpSettings
from service.keys import CALLERS, DRAINING
from tenancy.ids import TenantStatus
from tests.support.edge import Edge, question
from tests.support.policies import NOW, policy, set_account
from tests.support.policy_world import run_virtual
from tests.support.two_ways import TwoWays, answers_in

SOON = NOW + timedelta(seconds=20)
POLICY = f"""
g user:alice role:editor
g user:tmp role:editor until {SOON.isoformat()}
p role:editor record:* read
p role:editor record:secret read deny
p user:* page:a:b view
"""
READ = json.dumps(question("user:alice", "read", "record:1")).encode()
EXPIRING = json.dumps(question("user:tmp", "read", "record:1")).encode()


class Bench:
    """A warm tenant behind both ways; `head` is one that the fast way knows."""

    def __init__(self, ways: TwoWays, tenant, key: str) -> None:
        self.ways = ways
        self.edge = ways.edge
        self.tenant = tenant
        self.key = key
        self.head = head_of(key)

    @property
    def answered(self) -> int:
        return self.ways.path.answered

    async def know(self) -> None:
        """Make the head known, which is forgotten with each second."""
        pair = self.ways.connect()
        for _ in range(3):
            before = self.answered
            await pair.ask(self.head + READ)
        assert self.answered == before + 1
        for peer in pair.peers:
            peer.close()


def on_bench(test, *, known: bool = True, **settings) -> None:
    async def main() -> None:
        edge = Edge(HttpSettings(public_url="https://pdp.example", **settings), ROUTES)
        tenant = edge.tenant("acme", POLICY, record__1={"status": "active"})
        async with TwoWays(edge).serving() as ways:
            bench = Bench(ways, tenant, edge.key(tenant))
            if known:
                await bench.know()
            await test(bench)

    run_virtual(main)


def head_of(
    key: str,
    *headers: str,
    line: str = "POST /access/v1/evaluation HTTP/1.1",
    length: int | str = len(READ),
) -> bytes:
    lines = [line, "Host: x", *headers, f"Authorization: Bearer {key}", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}"]).encode() + b"\r\n\r\n"


def statuses(answers: list[bytes]) -> list[int]:
    return [int(answer[9:12]) for answer in answers]


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/2.0"])
def test_a_client_of_another_version_is_told_that_its_connection_stays(version):
    """It would wait for the end of the connection otherwise."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        line = f"POST /access/v1/evaluation {version}"
        (answer,) = await pair.ask(head_of(bench.key, "Connection: keep-alive", line=line) + READ)
        assert answer.startswith(version.encode() + b" 200")
        assert (b"\r\nconnection: keep-alive" in answer.lower()) is (version == "HTTP/1.0")
        assert len(await pair.ask(bench.head + READ)) == 1

    on_bench(test)


@pytest.mark.parametrize("length", [2**64 - 2, 2**64 - 1, 2**64])
@pytest.mark.parametrize("line", ["POST /access/v1/evaluation HTTP/1.1", "GET /nowhere HTTP/1.1"])
def test_the_body_of_a_request_of_the_greatest_length_is_no_request(length, line):
    """Of 2**64 - 1 bytes aiohttp makes an empty payload, and its parser waits for them all the same."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        await pair.ask(head_of(bench.key, line=line, length=length))
        assert await pair.ask(bench.head + READ) == []

    on_bench(test)


@pytest.mark.parametrize("before", ["\r\n", "\r\n\r\n", "\n", "\r"])
def test_a_line_before_the_request_line_is_no_header(before):
    """The parser skips line ends there; the id of a request is a header only behind the request line."""

    async def test(bench: Bench) -> None:
        line = "POST /access/v1/evaluation HTTP/1.1"
        for _ in range(2):
            pair = bench.ways.connect()
            await pair.ask(head_of(bench.key, line=before + line) + READ)
        pair = bench.ways.connect()
        answers = await pair.ask(head_of(bench.key, line=f"\r\nX-Request-ID: a\r\n{line}") + READ)
        assert statuses(answers) == [400]

    on_bench(test)


@pytest.mark.parametrize("header", ["X-Request-ID: a", "traceparent: a"])
def test_what_differs_with_each_request_makes_no_head_too_long(header):
    """What aiohttp never sees must not have more headers than it takes: 128."""

    async def test(bench: Bench) -> None:
        others = ["A: b"] * 124
        for _ in range(2):
            assert statuses(await bench.ways.connect().ask(head_of(bench.key, *others) + READ)) == [200]
        for more in ([header, *others], ["traceparent: a"] * 125):
            assert statuses(await bench.ways.connect().ask(head_of(bench.key, *more) + READ)) == [400]

    on_bench(test)


def test_only_short_heads_of_callers_who_are_known_are_remembered():
    """An outsider fills no memory, and puts nobody else's heads out of it."""

    async def test(bench: Bench) -> None:
        known = bench.ways.path.heads.known
        pair = bench.ways.connect()
        for number in range(5):
            await pair.say(head_of("kasbah_ffffffff_" + "B" * 43, f"A: {number}") + READ)
            await bench.ways.connect().say(head_of("kasbah_ffffffff_" + "B" * 43, f"A: {number}"))
        assert not known
        await bench.know()
        (head,) = known
        assert head == bench.head
        await pair.ask(head_of(bench.key, "A: " + "b" * MAX_HEAD) + READ)
        assert list(known) == [head]
        for number in range(MAX_REMEMBERED + 10):
            await bench.ways.connect().say(head_of(bench.key, f"A: {number}") + READ)
        assert len(known) <= MAX_REMEMBERED
        pair.compare()

    on_bench(test, known=False)


def test_a_slow_body_has_the_same_time_both_ways():
    """A head that is held is not held for longer than a sweep: the ordinary way has the deadline for bodies."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        assert statuses(await pair.ask(bench.head, READ[:9], pause=0.001)) == []
        await asyncio.sleep(8.5)
        assert statuses(await pair.ask(READ[9:])) == [200]
        await bench.know()
        await pair.say(bench.head)
        await asyncio.sleep(9)
        pair.compare()
        await asyncio.sleep(2.5)
        pair.compare()
        assert statuses(answers_in(pair.fast.received)) == [200, 408]

    on_bench(test)


def test_a_request_that_is_held_keeps_its_connection():
    """A connection is closed at rest, not while a request has half arrived."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        for pause in (0.25, 0.7):
            await bench.know()
            assert statuses(await pair.ask(bench.head, READ, pause=pause)) == [200]
        await asyncio.sleep(1)
        pair.compare()
        assert pair.fast.closed

    on_bench(test, keepalive_seconds=0.5)


def test_what_follows_a_held_request_does_not_swallow_its_answer():
    """The parser forgets a request when there is a fault behind it in the same piece."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        assert statuses(await pair.ask(bench.head, READ + b"junk\r\n\r\n")) == [200, 400]
        pair = bench.ways.connect()
        assert statuses(await pair.ask(bench.head, READ + bench.head + READ, READ)) == [200, 200, 400]

    on_bench(test)


def test_a_held_request_is_answered_when_the_process_is_to_end():
    """And its client is told to connect elsewhere."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        await pair.say(bench.head)
        assert pair.fast.protocol.held
        for app in bench.ways.apps:
            app[DRAINING].set()
        (answer,) = await pair.ask(READ)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close" in answer.lower()
        assert pair.fast.closed

    on_bench(test)


def test_a_connection_that_is_lost_takes_what_it_held_with_it():
    """Nothing is answered, nothing is left, nothing fails; also when the process ends meanwhile."""

    async def test(bench: Bench) -> None:
        pair, other = bench.ways.connect(), bench.ways.connect()
        await pair.say(bench.head)
        await other.say(bench.head)
        for peer in pair.peers:
            peer.close()
        await asyncio.sleep(20)
        pair.compare()
        assert not pair.fast.received
        other.compare()

    on_bench(test)


def test_a_peer_that_does_not_read_is_answered_when_it_does():
    """In order, and no answer is written meanwhile but what the ordinary way would write."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        await pair.say(bench.head)
        for peer in pair.peers:
            peer.stop_reading()
        await pair.ask(READ)
        for number in range(3):
            await pair.ask(head_of(bench.key, f"X-Request-ID: {number}") + READ)
        before = bench.answered
        for peer in pair.peers:
            peer.read_on()
        await asyncio.sleep(0.001)
        pair.compare()
        assert len(await pair.ask(bench.head + READ)) == 1
        assert bench.answered == before + 1

    on_bench(test)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("together", [2, 33, 70])
def test_many_requests_at_once_are_all_answered_in_order(split, together):
    """Past the number at which aiohttp stops parsing, too; what comes then is fast again only at a message's beginning."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        for number in range(together):
            head = head_of(bench.key, f"X-Request-ID: {number}")
            assert len(await (pair.ask(head, READ) if split else pair.ask(head + READ))) == 1
        stream = b"".join(head_of(bench.key, f"X-Request-ID: {number}") + READ for number in range(together))
        answers = await pair.ask(*([stream[:500], stream[500:]] if split else [stream]))
        assert len(answers) == together
        for _ in range(2):
            assert len(await pair.ask(bench.head + READ)) == 1

    on_bench(test)


def test_a_body_that_comes_behind_its_answer_is_no_head_that_is_late():
    """The connection is at rest then, for as long as any other."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        head = head_of("kasbah_ffffffff_" + "B" * 43)
        assert statuses(await pair.ask(head, READ[:5], READ[5:])) == [401]
        await asyncio.sleep(60)
        assert statuses(await pair.ask(head, READ)) == [401]

    on_bench(test)


@pytest.mark.parametrize("length", [2_000_000, len(READ)])
def test_an_answer_that_comes_before_the_body_leaves_the_body_a_body(length):
    """Refused by its head alone, a request still ends where it says."""

    async def test(bench: Bench) -> None:
        key = bench.key if length > len(READ) else "kasbah_ffffffff_" + "B" * 43
        pair = bench.ways.connect()
        assert statuses(await pair.ask(head_of(key, length=length))) == [413 if length > len(READ) else 401]
        await bench.know()
        # What looks like a request is the body of the one before.
        body = (bench.head + READ)[:length]
        assert await pair.ask(body) == []
        answers = await pair.ask(bench.head + READ)
        assert statuses(answers) == ([] if length > len(READ) else [200])

    on_bench(test)


async def revoked(bench: Bench) -> None:
    node = bench.edge.node
    head = node.heads[bench.tenant]
    node.heads[bench.tenant] = replace(head, keys_revision=head.keys_revision + 1)
    del bench.edge.keys.found[hash_token(bench.key)]


async def revoked_elsewhere(bench: Bench) -> None:
    """The node has not heard of it yet, but somebody who has asks with its revision."""
    del bench.edge.keys.found[hash_token(bench.key)]
    assert statuses(await bench.ways.connect().ask(head_of(bench.key, "Kasbah-Min-Revision: 8") + READ)) == [401]


async def suspended(bench: Bench) -> None:
    bench.edge.suspend(bench.tenant)


async def deleting(bench: Bench) -> None:
    bench.edge.suspend(bench.tenant, TenantStatus.DELETING)


async def deleted(bench: Bench) -> None:
    bench.edge.suspend(bench.tenant, TenantStatus.DELETED)
    del bench.edge.node.tenants[bench.tenant]


async def disabled(bench: Bench) -> None:
    small = policy(POLICY)
    set_account(small, "user:alice", AccountState.DISABLED)
    small.head = replace(bench.edge.node.heads[bench.tenant], revision=8)
    bench.edge.node.heads[bench.tenant] = small.head
    bench.edge.node.tenants[bench.tenant] = small


async def made_anew(bench: Bench) -> None:
    await deleted(bench)
    bench.edge.tenant("acme", POLICY)


async def evicted(bench: Bench) -> None:
    small = bench.edge.node.tenants.pop(bench.tenant)
    assert statuses(await bench.ways.connect().ask(bench.head + READ)) == [404]
    small.subjects.clear()
    bench.edge.node.tenants[bench.tenant] = small


async def another_database(bench: Bench) -> None:
    bench.edge.keys.found.clear()
    for app in bench.ways.apps:
        app[CALLERS].forget_all()


async def other_rules(bench: Bench) -> None:
    small = policy("p user:alice record:1 read deny")
    small.head = replace(bench.edge.node.heads[bench.tenant], revision=8, rules_revision=8)
    bench.edge.node.heads[bench.tenant] = small.head
    bench.edge.node.tenants[bench.tenant] = small


async def unconfirmed(bench: Bench) -> None:
    node = bench.edge.node
    node.confirm_until(node.elapsed() + 0.1)
    await bench.know()
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (revoked, b"401"),
        (revoked_elsewhere, b"401"),
        (suspended, b'"tenant_suspended"'),
        (deleting, b'"tenant_suspended"'),
        (disabled, b'"account_disabled"'),
        (deleted, b"401"),
        (made_anew, b"401"),
        (evicted, b'"decision":true'),
        (another_database, b"401"),
        (other_rules, b'"decision":false'),
        (unconfirmed, b"503"),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_a_change_counts_for_the_next_request_of_a_head_that_is_known(change, expected, held):
    """On the same connection, in the same instant."""

    async def test(bench: Bench) -> None:
        pair = bench.ways.connect()
        await pair.ask(bench.head + READ)
        before = bench.answered
        await pair.ask(bench.head + READ)
        assert bench.answered == before + 1
        await change(bench)
        (answer,) = await (pair.ask(bench.head, READ) if held else pair.ask(bench.head + READ))
        assert expected in answer

    on_bench(test)


@pytest.mark.parametrize("who", ["key", "grant"])
def test_keys_and_grants_end_at_their_very_moment(who):
    """Whatever is remembered of who calls and who may."""

    async def test(bench: Bench) -> None:
        key = bench.edge.key(bench.tenant, expires_at=SOON) if who == "key" else bench.key
        body = READ if who == "key" else EXPIRING
        request = head_of(key, length=len(body)) + body
        loop = asyncio.get_running_loop()
        end = loop.time() + (SOON - bench.edge.node.now()).total_seconds()
        last = b""
        await asyncio.sleep(end - 1 - loop.time())
        pair = bench.ways.connect()
        for moment in (end - 0.5, end - 0.4, end - 0.001, end):
            await asyncio.sleep(moment - loop.time())
            before = bench.answered
            for peer in pair.peers:
                peer.say(request)
            for _ in range(50):  # turns of the loop, while time stands still
                await asyncio.sleep(0)
            assert abs(loop.time() - moment) < 1e-6
            pair.compare()
            last = answers_in(pair.fast.received)[-1]
            assert (b'"decision":true' in last) is (moment != end)
        assert bench.answered == before
        assert last.startswith(b"HTTP/1.1 401" if who == "key" else b"HTTP/1.1 200")

    on_bench(test)


ITEM = {"resource": {"type": "record", "id": "1"}}
TOP = '"subject":{"type":"user","id":"alice"},"action":{"name":"read"}'


def batch(*items: str, top: str = TOP, more: str = "") -> bytes:
    return f'{{{top},"evaluations":[{",".join(items)}]{more}}}'.encode()


@pytest.mark.parametrize(
    ("body", "is_fast"),
    [
        (batch(*[json.dumps(ITEM)] * 1000), True),
        (batch(*[json.dumps(ITEM)] * 1001), False),
        (batch('{"resource":{"type":"page","id":"a:b"},"action":{"name":"view"}}'), True),
        (batch('{"resource":{"type":"page","id":"a\\u003ab"},"action":{"name":"view"}}'), True),
        (batch('{"resource":{"type":"record","id":"1"},"x":":"}'), True),
        (batch('{"resource":{"type":"record","id":"1","properties":{"a":[{}]}}}'), True),
        (batch('{"resource":{"type":"record","id":"secret","id":"1"}}'), False),
        (batch('{"resource":{"type":"record","id":"secret"},"resource":{"type":"record","id":"1"}}'), False),
        (batch('{"resource":{"type":"record","i\\u0064":"secret","id":"1"}}'), False),
        (batch('{"resource":{"type":"record","id":"1"}}', more=',"evaluations":[]'), False),
        (batch('{"resource":{"type":"record","id":"1"}}', more=',"options":{"explain":true}'), False),
        (batch('{"resource":{"type":"record","id":"1"}}', more=',"options":{"evaluations_semantic":"x"}'), False),
        (batch('{"subject":{"type":"role","id":"editor"},"resource":{"type":"record","id":"1"}}'), False),
        (batch('{"subject":{"type":"group","id":"a"},"resource":{"type":"record","id":"1"}}'), False),
        (batch('{"resource":{"type":"re cord","id":"1"}}'), False),
        (batch('{"resource":{"type":"record","id":"\\u0000"}}'), False),
        (batch('{"action":{"name":""},"resource":{"type":"record","id":"1"}}'), False),
        (batch('{"resource":{"type":"record","id":"1"}}', top='"subject":{"type":"role","id":"a"},"action":{"name":"read"}'), False),
        (batch("{}", top='"x":1'), False),
        (batch('{"resource":{"type":"record","id":"1"},"context":' + '{"a":' * 70 + "1" + "}" * 70 + "}"), False),
    ],
)  # fmt: skip
def test_batches_out_of_the_ordinary_are_answered_alike(body, is_fast):
    """By the fast way only where nothing is repeated, unknown to it, or to be judged item by item."""

    async def test(bench: Bench) -> None:
        key = bench.edge.key(bench.tenant, "decision:check")
        pair = bench.ways.connect()
        request = head_of(key, line="POST /access/v1/evaluations HTTP/1.1", length=len(body)) + body
        for _ in range(3):
            before = bench.answered
            assert len(await pair.ask(request)) == 1
        assert (bench.answered == before + 1) is is_fast

    on_bench(test)
