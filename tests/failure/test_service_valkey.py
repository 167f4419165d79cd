"""Valkey killed, hung, flushed, lying and absent under whole services: decisions go on, and no answer is wrong."""

import time
from contextlib import contextmanager

import pytest
import redis
from sqlalchemy.engine import make_url

from authz.rule_set_codec import FORMAT, HEADER, MAC_BYTES
from tests.support.installation import FLIP
from tests.support.outside_checker import BOUND_SECONDS, Checker, Question, Target, never_after, verdict, wait_until
from tests.support.slow_proxy import slow_proxy

pytestmark = [pytest.mark.integration, pytest.mark.process]

MAX_STALENESS_SECONDS = 5.0
"""From then on a node that could not ask decides nothing, however busy it is; its polls find a change far sooner."""

EDITOR = Question("user:alice", "write", "record:1")
NOBODY = Question("user:nobody", "write", "record:1")


@contextmanager
def checked(installation, tenant, *, rate=25.0, connections=2):
    """Ask both nodes, warm and cold, while the block breaks something."""
    targets = [Target(node.port, tenant.key) for node in installation.nodes]
    with Checker(targets, tenant.questions, rate=rate, connections=connections) as checker:
        time.sleep(0.5)
        yield checker
        time.sleep(0.5)


def turn_and_follow(installation, tenant, checker):
    """Grant and revoke through the first node; both nodes must follow and never go back, notices or none."""
    for write, wanted in ((tenant.grant, True), (tenant.revoke, False)):
        answer = write(installation.first)
        assert answer.status == 200, answer.body
        checker.demand = tenant.revision
        for node in installation.nodes:
            wait_until(lambda n=node, w=wanted: tenant.ask(n, FLIP).decision is w)
        followed = time.monotonic()
        time.sleep(0.3)
        never_after(checker.seen, followed, tenant.revision)


def test_a_killed_valkey_costs_no_answer(installation, tenant):
    """Every request is answered 200 and right while it is down and after; changes travel by the poll."""
    with checked(installation, tenant) as checker:
        installation.valkey.kill()
        turn_and_follow(installation, tenant, checker)
        cold = installation.new_tenant()
        for node in installation.nodes:
            assert cold.ask(node, EDITOR).decision is True
        installation.valkey.start_again()
        turn_and_follow(installation, tenant, checker)
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}


def test_a_hung_valkey_costs_no_answer(installation, tenant):
    """Connections stay open and nobody answers: cold tenants wait for its timeout at most, warm ones not at all."""
    with checked(installation, tenant) as checker:
        installation.valkey.freeze()
        turn_and_follow(installation, tenant, checker)
        cold = installation.new_tenant()
        for node in installation.nodes:
            seen = cold.ask(node, EDITOR)
            assert seen.decision is True
            assert seen.seconds < BOUND_SECONDS
        ready = installation.second.request("GET", "/readyz")
        assert (ready.status, ready.json()["parts"]["cache"]) == (200, "not ready")
        installation.valkey.thaw()
        turn_and_follow(installation, tenant, checker)
        wait_until(lambda: installation.second.request("GET", "/readyz").json()["parts"]["cache"] == "ready")
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}


@pytest.mark.parametrize(
    ("delay_seconds", "piece"), [(0.1, 0), (1.0, 0), (0.05, 1)], ids=["slow", "slower", "dripping"]
)
def test_a_slow_valkey_costs_no_answer(installation, tenant, delay_seconds, piece):
    """Every answer of it comes late, or byte by byte: nobody waits for it beyond its timeout, and nothing is wrong."""
    url = make_url(installation.valkey.url)
    with slow_proxy(url.host, url.port) as proxy:
        through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        with (
            installation.another_node(redis_url=through) as node,
            Checker([Target(node.port, tenant.key)], tenant.questions, rate=25, connections=2) as checker,
        ):
            proxy.delay_seconds, proxy.piece = delay_seconds, piece
            followed = []
            for number in range(4):
                cold = installation.new_tenant(barred=1)
                seen = [cold.ask(node, EDITOR), cold.ask(node, NOBODY)]
                assert [one.decision for one in seen] == [True, False]
                assert seen[0].seconds < BOUND_SECONDS
                wanted = number % 2 == 0
                write = tenant.grant if wanted else tenant.revoke
                assert write(node).status == 200  # its own notices and rule sets are late, too
                checker.demand = tenant.revision
                for one in (node, installation.second):
                    wait_until(lambda n=one, w=wanted: tenant.ask(n, FLIP).decision is w)
                followed.append((time.monotonic(), tenant.revision))
            assert proxy.delayed > 0
            proxy.delay_seconds, proxy.piece = 0, 0
            wait_until(lambda: node.request("GET", "/readyz").json()["parts"]["cache"] == "ready")
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}
    for moment, revision in followed:
        never_after(checker.seen, moment, revision)


def test_a_flushed_valkey_loses_nothing(installation, tenant):
    """Flushed again and again while decisions are made and tenants are loaded that no node holds."""
    cold = [installation.new_tenant() for _ in range(4)]
    with checked(installation, tenant) as checker, redis.Redis.from_url(installation.valkey.url) as client:
        for one in cold:
            client.flushall()
            for node in installation.nodes:
                assert one.ask(node, EDITOR).decision is True
                assert one.ask(node, NOBODY).decision is False
                client.flushall()
        turn_and_follow(installation, tenant, checker)
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}


def test_lost_notices_delay_a_revoke_by_max_staleness_at_most(installation, tenant):
    """A node that listens on another Valkey hears of nothing, and finds every change by itself."""
    database = f"{installation.valkey.url.rpartition('/')[0]}/9"
    key = {"KASBAH_SECRET_KEY": "another-key-so-that-notices-go-by-another-channel-0123456789"}
    with installation.another_node(redis_url=database, **key) as deaf:
        installation.warm(tenant, deaf)
        with Checker([Target(deaf.port, tenant.key)], tenant.warm_questions, rate=50, connections=2) as checker:
            took, newer_from = [], []
            for number in range(12):
                write = tenant.grant if number % 2 == 0 else tenant.revoke
                assert write(installation.first).status == 200
                newer_from.append((time.monotonic() + MAX_STALENESS_SECONDS, tenant.revision))
                wanted = number % 2 == 0
                took.append(wait_until(lambda w=wanted: tenant.ask(deaf, FLIP).decision is w))
                newer_from.append((time.monotonic(), tenant.revision))
        for moment, revision in newer_from:
            never_after(checker.seen, moment, revision)
        # Without this the notices were not lost, and the test would show nothing.
        assert max(took) > 0.1
        assert set(verdict(checker.seen, tenant.truth)) == {"200"}


def test_garbage_on_the_channel_and_under_strange_keys_is_harmless(installation, tenant):
    """Forged notices of other tenants, of none, and by the thousand change no answer and stop nobody."""
    with checked(installation, tenant) as checker, redis.Redis.from_url(installation.valkey.url) as client:
        (channel,) = client.pubsub_channels("kasbah:*")
        for number in range(3000):
            client.publish(channel, [b"", b"\xff" * 90, f"{'0' * 32} 999999".encode()][number % 3])
        turn_and_follow(installation, tenant, checker)
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}


def poisons(value: bytes, foreign: bytes):
    """Yield what may stand under a tenant's key that is not its rule set, by name."""
    yield "empty", b"\0"
    yield "truncated head", value[: HEADER.size - 1]
    yield "truncated payload", value[:-7]
    yield "longer", value + b"\0"
    yield "another tenant's", foreign
    yield "old format", value.replace(FORMAT, bytes(8), 1)
    yield "newer revision", HEADER.pack(*HEADER.unpack(value[: HEADER.size])[:2], 2**40) + value[HEADER.size :]
    yield "payload of another", value[: HEADER.size + MAC_BYTES] + foreign[HEADER.size + MAC_BYTES :]
    for place in (0, 9, 17, HEADER.size + 3, HEADER.size + MAC_BYTES + 40, -1):
        flipped = bytearray(value)
        flipped[place] ^= 1
        yield f"a bit of byte {place}", bytes(flipped)


def test_poisoned_rule_sets_are_rebuilt_from_postgresql(installation):
    """A node finds each poison under the key of a tenant that it does not hold, and answers right all the same."""
    generous = installation.new_tenant(barred=1)
    wide = {"type": "rule", "subject": "user:*", "resource": "*", "action": "*"}
    assert generous.change(installation.first, "rules", {"add": [wide]}).status == 200
    assert generous.ask(installation.first, NOBODY).decision is True
    names = [name for name, _ in poisons(bytes(200), bytes(200))]
    with redis.Redis.from_url(installation.valkey.url) as client:
        _, foreign = stored(client, installation, generous)
        for name in [*names, "a list", "larger than allowed"]:
            tenant = installation.new_tenant(barred=1)
            assert tenant.ask(installation.first, NOBODY).decision is False
            key, value = stored(client, installation, tenant)
            client.delete(key)
            if name == "a list":
                client.rpush(key, value)
            elif name == "larger than allowed":
                client.setrange(key, 80 * 1024 * 1024, b"!")
            else:
                client.set(key, dict(poisons(value, foreign))[name])
            assert tenant.ask(installation.second, NOBODY).decision is False, name
            assert tenant.ask(installation.second, EDITOR).decision is True, name
            wait_until(lambda k=key, v=value: client.type(k) == b"string" and client.get(k) == v)
            client.delete(key)


def test_rule_sets_under_another_secret_are_not_used(installation, tenant):
    """Whoever has Valkey but not the secret can store a rule set, even under the right name, and nobody takes it."""
    generous = {"type": "rule", "subject": "user:*", "resource": "*", "action": "*"}
    with redis.Redis.from_url(installation.valkey.url) as client:
        key, value = stored(client, installation, tenant)
        before = set(client.keys("kasbah:*:rules:*"))
        secret = {"KASBAH_SECRET_KEY": "the-secret-of-somebody-else-who-shares-this-valkey-0123456789"}
        with installation.another_node(**secret) as other:
            assert tenant.change(other, "rules", {"add": [generous]}).status == 200
            assert tenant.ask(other, NOBODY).decision is True
            wait_until(lambda: other_key(client, before, key) is not None)
            forged = client.get(other_key(client, before, key))
            removed = tenant.change(other, "rules", {"remove": [generous]})
            assert removed.status == 200
        tenant.revision = removed.json()["revision"]
        client.set(key, forged)
        with installation.another_node() as cold:
            assert tenant.ask(cold, NOBODY).decision is False
            assert forged != value


def stored(client, installation, tenant):
    """Return name and value of a tenant's rule set."""
    wanted = (
        installation.first.request("GET", f"/v1/tenants/{tenant.slug}", key=installation.platform_key)
        .json()["id"]
        .encode()
    )

    def find():
        return [name for name in client.keys("kasbah:*:rules:*") if wanted in name]

    wait_until(lambda: bool(find()))
    (name,) = find()
    return name, client.get(name)


def other_key(client, before, key):
    """Return the same tenant's key under another prefix."""
    tail = key[key.index(b":rules:") :]
    found = [name for name in client.keys("kasbah:*:rules:*") if name.endswith(tail) and name not in before]
    return found[0] if found else None
