"""Both ways through the server answer whole connections alike: many requests, in any pieces, while what they ask changes."""

import json
from asyncio import sleep
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authn.api_keys import hash_token
from service import fast_answers
from service.http.authzen import ROUTES
from service.http_settings import HttpSettings
from service.keys import CALLERS, DRAINING
from tenancy.ids import TenantId, TenantStatus
from tests.support.edge import Edge, head_of, question
from tests.support.policies import NOW, policy
from tests.support.policy_world import run_virtual
from tests.support.two_ways import SHORT, Pair, TwoWays

POLICY = f"""
g user:alice role:editor
g user:tmp role:editor until {(NOW + timedelta(seconds=20)).isoformat()}
p role:editor record:* read
p role:editor record:secret read deny
p role:editor record:* write if resource.properties.status != "archived"
p user:* page:a:b view
"""
OTHER_POLICY = "p user:alice record:secret read\np role:editor record:1 read deny"
ENTITIES = {"record:1": {"status": "active"}, "record:2": {"status": "archived"}}

KEYS = (*["all"] * 13, *["check"] * 5, "ending", "read", "platform", "unknown")
"""Keys by what they may; the name stands in a request until there is a token."""

LONG = (4.0, 13.0, 26.0)
"""Pauses on either side of the deadlines for heads and bodies (10 s) and for connections at rest (75 s)."""

WIDTH = 190


def padded(value: object) -> bytes:
    """Return JSON that is as long as all others, so that heads differ in nothing."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return text.ljust(WIDTH)


SINGLE = [
    padded(question("user:alice", "read", "record:1")),
    padded(question("user:alice", "read", "record:secret")),
    padded(question("user:tmp", "read", "record:1")),
    padded(question("user:alice", "write", "record:2")),
    padded(question("user:a:b", "view", "page:a:b")),
    padded(question("role:editor", "read", "record:1")),
    padded(question("user:alice", "read", "record:1", context={"a": [None]})),
    padded(question("user:alice", "read", "record:1", x=1)),
    padded(question("user:alice", "read", "record:1", options={"explain": True})),
    padded(b'{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"1"}}'),
    padded(b'{"subject":{"type":"user","id":"bob","id":"alice"},"action":{"name":"read"},"resource":{"type":"r","id":"1"}}'),
    padded(b'{"subject":{"type":"user","id":"a\\u003ab"},"action":{"name":"view"},"resource":{"type":"page","id":"a:b"}}'),
    padded(b'{"subject":{"type":"user","id":""},"action":{"name":"read"},"resource":{"type":"record","id":"1"}}'),
    padded(b'{"subject":{"type":"us:er","id":"x"},"action":{"name":"\\u0000"},"resource":{"type":"record","id":"1"}}'),
    padded(b'{"subject":"alice"}'),
    padded(b"{"),
    padded(b""),
]  # fmt: skip
TOP = '"subject":{"type":"user","id":"alice"},"action":{"name":"read"}'
ITEM = '{"resource":{"type":"record","id":"1"}}'
BATCH = [
    padded(f"{{{TOP},{more}}}".encode())
    for more in (
        f'"evaluations":[{ITEM},{{"resource":{{"type":"record","id":"secret"}}}}]',
        f'"evaluations":[{ITEM}],"evaluations":[]',
        f'"evaluations":[{ITEM},{{"subject":{{"type":"user","id":"tmp"}}}}]',
        '"evaluations":[{"resource":{"type":"page","id":"a:b"},"x":1}]',
        '"evaluations":[{"resource":{"type":"page","id":"a","id":"b"}}]',
        '"evaluations":[{"subject":{"type":"role","id":"editor"}},1]',
        f'"evaluations":[{ITEM}],"options":{{"explain":true}}',
        '"evaluations":[]',
    )
]
# Each item has a subject of its own, and is known; what stands at the top is asked about by nobody, yet is judged.
OWN_SUBJECT = '{"subject":{"type":"user","id":"alice"},"resource":{"type":"record","id":"1"}}'
BATCH += [
    padded(
        f'{{"subject":{{"type":"{kind}","id":"editor"}},"action":{{"name":"read"}},"evaluations":[{OWN_SUBJECT}]}}'.encode()
    )
    for kind in ("role", "group", "user")
]
HEADERS = [
    *[b""] * 24,
    b"X-Request-ID: id 1\r\n",
    b"X-Request-Id: id 2\r\n",
    b"X-REQUEST-ID: id 3\r\n",
    b"traceparent: 00-1-2-01\r\nX-Request-ID: id 4\r\nb3: 0\r\n",
    b"tracestate: a=1\r\nTraceState: b=2\r\n",
    b"X-Request-ID: a\r\nX-Request-ID: b\r\n",
    b"X-Tenant-ID: acme\r\n",
    b"X-Tenant-ID: beta\r\n",
    b"Kasbah-Min-Revision: 8\r\n",
    b"Connection: keep-alive\r\n",
]
ODD_HEADERS = [
    b"Connection: close\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: the worst\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Upgrade: other\r\nConnection: upgrade\r\n",
    b"X-Request-ID: a\r\n b\r\n",
    b"baggage: a\r\n\tX-Tenant-ID: beta\r\n",
    b"X-Request-ID: a\x00\r\n",
    b"X-Request-ID: a\n",
    b"X-Request-ID : a\r\n",
    b": a\r\n",
]
LINES = [
    b"GET /.well-known/authzen-configuration HTTP/1.1",
    b"HEAD /.well-known/authzen-configuration HTTP/1.1",
    b"GET /nowhere HTTP/1.1",
    b"PUT /access/v1/evaluation HTTP/1.1",
    b"POST  /access/v1/evaluation HTTP/1.1",
    b"POST /access/v1/evaluation?tenant=beta HTTP/1.1",
    b"POST /access/v1/evaluation HTTP/1.0",
    b"POST /access/v1/evaluation HTTP/1.0\r\nConnection: keep-alive",
    b"POST /access/v1/evaluation HTTP/2.0\r\nConnection: keep-alive",
    b"POST /access/v1/evaluation",
    b"\r\nPOST /access/v1/evaluation HTTP/1.1",
    b"\r\n\r\nPOST /access/v1/evaluation HTTP/1.1",
    b"\nPOST /access/v1/evaluation HTTP/1.1",
    b"\r\nX-Request-ID: a\r\nPOST /access/v1/evaluation HTTP/1.1",
    b"CONNECT pdp.example:443 HTTP/1.1",
]
LENGTHS = [
    *(b"0190", b"+190", b"190 ", b"-190", b"190, 190", b"0xBE", b"1190", b"999999999190"),
    *(b"18446744073709551614", b"18446744073709551615", b"18446744073709551616", b"0", b"100", b"189", b"191"),
]
ENDS = [b"\n\n", b"\r\n\n", b"\n\r\n", b"\r\n\r\n\r\n", b"\r\n \r\n\r\n"]
ODDITIES = ("header", "line", "length", "length", "chunks", "end", "many")


@dataclass(frozen=True)
class Message:
    """One request."""

    data: bytes
    is_odd: bool = False
    """Whether it may leave the connection anywhere but at the beginning of the next request."""


def request_of(
    body: bytes,
    *,
    line: bytes = b"",
    headers: bytes = b"",
    key: bytes = b"all",
    framing: bytes = b"",
    end: bytes = b"\r\n\r\n",
) -> bytes:
    """Return the bytes of a request; those of a plain one unless told otherwise."""
    path = b"evaluations" if body in BATCH else b"evaluation"
    line = line or b"POST /access/v1/%b HTTP/1.1" % path
    framing = framing or b"Content-Length: %d" % len(body)
    head = b"%b\r\nHost: x\r\n%bAuthorization: Bearer <%b>\r\nContent-Type: application/json\r\n%b%b"
    return head % (line, headers, key, framing, end) + body


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Draw requests that are mostly plain, so that those who are not come upon heads that are known."""
    body = draw(st.sampled_from([*SINGLE[:5] * 7, *SINGLE, *BATCH[:1] * 5, *BATCH[-3:] * 2, *BATCH]))
    headers = draw(st.sampled_from(HEADERS))
    key = draw(st.sampled_from(KEYS)).encode()
    oddity = draw(st.sampled_from([None] * 20 + [*ODDITIES]))
    if oddity is None:
        return Message(request_of(body, headers=headers, key=key))
    if oddity == "many":
        headers += draw(st.sampled_from([b"A: b\r\n", b"b3: 0\r\n"])) * draw(st.integers(122, 125))
        return Message(request_of(body, headers=headers, key=key))
    how: dict[str, bytes] = {}
    if oddity == "header":
        headers += draw(st.sampled_from(ODD_HEADERS))
    elif oddity == "line":
        how["line"] = draw(st.sampled_from(LINES))
    elif oddity == "length":
        how["framing"] = b"Content-Length: " + draw(st.sampled_from(LENGTHS))
        body = draw(st.sampled_from([body, b""]))
    elif oddity == "chunks":
        how["framing"] = b"Transfer-Encoding: chunked"
        body = draw(
            st.sampled_from([b"%x\r\n%b\r\n0\r\n\r\n" % (WIDTH, body), b"1\r\n{\r\n0\r\nA: b\r\n\r\n", b"z\r\n"])
        )
    else:
        how["end"] = draw(st.sampled_from(ENDS))
    return Message(request_of(body, headers=headers, key=key, **how), is_odd=True)


@dataclass(frozen=True)
class Burst:
    """Requests that are sent one behind the other in pieces that know nothing of where they begin."""

    messages: list[Message]
    cuts: list[int]
    pauses: list[float]
    before: list[str]
    """What changes before."""
    anew: bool = False
    """Whether on another connection."""

    def pieces(self, tokens: dict[str, str]) -> list[bytes]:
        stream, marks = b"", [0]
        for message in self.messages:
            data = message.data
            for name, token in tokens.items():
                data = data.replace(b"<%b>" % name.encode(), token.encode())
            marks.append(len(stream) + data.find(b"\r\n\r\n") + 4)
            stream += data
            marks.append(len(stream))
        # Half of the cuts are where a head or a request ends.
        at = {marks[cut % len(marks)] if cut < 1000 else cut % len(stream) for cut in self.cuts}
        return [stream[start:end] for start, end in pairwise(sorted(at | {0, len(stream)}))]


CHANGES = (
    "revoke",
    "suspend",
    "resume",
    "rules",
    "evict",
    "forget",
    "delete",
    "again",
    "lose",
    "find",
    "drain",
    "deaf",
)
BURSTS = st.builds(
    Burst,
    st.lists(messages(), min_size=1, max_size=1)
    | st.lists(messages(), min_size=1, max_size=1)
    | st.lists(messages(), min_size=1, max_size=3),
    st.just([]) | st.lists(st.integers(0, 999), max_size=2) | st.lists(st.integers(0, 2000), max_size=3),
    st.lists(st.sampled_from([0.0] * 3 + [SHORT] * 30 + [*LONG]), min_size=8, max_size=8),
    st.lists(st.sampled_from(CHANGES), max_size=1) | st.just([]) | st.just([]),
    st.sampled_from([False, False, True]),
)


class Run:
    """One edge, its two servers, and one connection to each."""

    def __init__(self) -> None:
        self.edge = edge = Edge(HttpSettings(public_url="https://pdp.example"), ROUTES)
        self.acme = self.new_tenant()
        edge.tenant("beta", "p user:alice record:* read")
        self.tokens = {"platform": edge.key(None), "unknown": "kasbah_ffffffff_" + "B" * 43}
        self.new_keys()
        self.ways = TwoWays(edge)

    def new_tenant(self) -> TenantId:
        return self.edge.tenant("acme", POLICY, **{name.replace(":", "__"): value for name, value in ENTITIES.items()})

    def new_keys(self) -> None:
        key = self.edge.key
        self.tokens |= {
            "all": key(self.acme),
            "check": key(self.acme, "decision:check"),
            "read": key(self.acme, "policy:read"),
            "ending": key(self.acme, expires_at=NOW + timedelta(seconds=30)),
        }

    async def go(self, bursts: list[Burst]) -> int:
        """Send it all, and return how much the fast way answered."""
        async with self.ways.serving():
            pair = self.ways.connect()
            for body in (SINGLE[0], BATCH[0]) * 2:
                await self.send(pair, Burst([Message(request_of(body))], [], [SHORT], []))
            in_step = True
            for burst in bursts:
                if burst.anew:
                    await self.leave(pair, 0 if in_step else 30)
                    pair, in_step = self.ways.connect(), True
                for change in burst.before:
                    if change == "deaf":
                        for peer in pair.peers:
                            peer.stop_reading()
                    elif in_step:
                        # Of a request that is under way, each part is judged when it comes: no two ways need agree.
                        getattr(self, change)()
                in_step = in_step and not any(message.is_odd for message in burst.messages)
                await self.send(pair, burst)
            await self.leave(pair, 100)
            assert pair.fast.closed
            return self.ways.path.answered

    async def leave(self, pair: Pair, seconds: float) -> None:
        """Compare what came of a connection when all deadlines have passed, and close it."""
        await sleep(seconds)
        pair.compare()
        for peer in pair.peers:
            peer.close()

    async def send(self, pair: Pair, burst: Burst) -> None:
        for piece, pause in zip(burst.pieces(self.tokens), burst.pauses, strict=False):
            for peer in pair.peers:
                peer.say(piece)
            # As above, of a key that ends.
            await sleep(SHORT if pause > SHORT and b"<ending>" in b"".join(m.data for m in burst.messages) else pause)
        await sleep(SHORT)
        for peer in pair.peers:
            peer.read_on()
        await sleep(burst.pauses[-1] or SHORT)

    # --- what changes

    def revoke(self) -> None:
        """Revoke the key that is used most; the next request brings another one."""
        node = self.edge.node
        head = node.heads[self.acme]
        self.put(replace(head, keys_revision=head.keys_revision + 1))
        self.edge.keys.found.pop(hash_token(self.tokens["all"]), None)

    def put(self, head) -> None:
        node = self.edge.node
        node.heads[self.acme] = head
        if self.acme in node.tenants:
            node.tenants[self.acme].head = head
            node.tenants[self.acme] = node.tenants[self.acme]
        for digest, found in self.edge.keys.found.items():
            if found.head.tenant_id == self.acme:
                self.edge.keys.found[digest] = replace(found, head=head)

    def suspend(self) -> None:
        self.put(replace(self.edge.node.heads[self.acme], status=TenantStatus.SUSPENDED))

    def resume(self) -> None:
        self.put(replace(self.edge.node.heads[self.acme], status=TenantStatus.ACTIVE))

    def rules(self) -> None:
        """Bring in other rules, as one revision more."""
        small = policy(OTHER_POLICY, entities=ENTITIES)
        self.edge.node.tenants[self.acme] = small
        head = self.edge.node.heads[self.acme]
        self.put(replace(head, revision=head.revision + 1, rules_revision=head.revision + 1))

    def evict(self) -> None:
        self.edge.node.tenants.pop(self.acme, None)

    def forget(self) -> None:
        """As if another database stood behind."""
        self.edge.keys.found.pop(hash_token(self.tokens["check"]), None)
        for app in self.ways.apps:
            app[CALLERS].forget_all()

    def delete(self) -> None:
        self.put(replace(self.edge.node.heads[self.acme], status=TenantStatus.DELETED))
        self.evict()

    def again(self) -> None:
        """Delete the tenant, and make another one of the same name, with keys of its own."""
        self.delete()
        self.edge.node.heads[self.acme] = replace(head_of(self.acme, "gone"), status=TenantStatus.DELETED)
        self.acme = self.new_tenant()
        self.new_keys()

    def lose(self) -> None:
        """Lose PostgreSQL: what is held may be used for five seconds more."""
        self.edge.node.confirm_until(self.edge.node.elapsed() + 5)

    def find(self) -> None:
        self.edge.node.confirm_until(float("inf"))

    def drain(self) -> None:
        for app in self.ways.apps:
            app[DRAINING].set()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(BURSTS, min_size=5, max_size=12))
def test_both_ways_answer_whole_connections_alike(bursts: list[Burst]) -> None:
    """The same answers in the same order, and then the same end; no fault of a handler on the way."""
    run_virtual(lambda: Run().go(bursts))


def test_connections_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the comparison would compare the ordinary way with itself."""
    # What is remembered of heads ends with the second of the wall clock, which goes on while virtual time does not.
    monkeypatch.setattr(fast_answers, "time", lambda: 0.0)

    def burst(body: bytes, cuts: list[int], *, anew: bool = False) -> Burst:
        return Burst([Message(request_of(body))], cuts, [SHORT] * 4, [], anew=anew)

    whole, apart, pieces = [
        burst(body, cuts) for body, cuts in ((SINGLE[1], []), (BATCH[0], [1]), (SINGLE[0], [1, 1320]))
    ]
    # Of the first four, the first is looked up; the last two are of a head that is not known yet or any more.
    assert run_virtual(lambda: Run().go([whole, apart, pieces, burst(SINGLE[0], [], anew=True)])) == 3 + 4
