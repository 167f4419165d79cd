"""Rule sets in an untrusted store: exact round trips, and nothing but our own bytes in their own place is accepted."""

import string
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz import rule_set_codec
from authz.ports import RuleSet, StoredModel
from authz.request import Ref
from authz.rule_set_codec import FORMAT, HEADER, REASONS, RejectedError, decode_rule_set, derive_key, encode_rule_set
from authz.rules import Effect, Owner, RoleLink, Rule, Source
from tenancy.ids import Slug, TenantId, TenantStatus
from tenancy.tenant import TenantHead

KEY = derive_key(b"k" * 32, "test")
HEAD = TenantHead(TenantId(UUID(int=7)), Slug("acme"), TenantStatus.ACTIVE, 9, 5, 2, UUID(int=1), UUID(int=2))

HOSTILE = st.one_of(
    st.sampled_from(
        [
            "",
            "*",
            "user:*",
            'a"b',
            "a,b",
            "a\nb",
            "a\r\nb",
            "a\0b",
            "#x",
            "é",
            "e\u0301",
            "\u202e",
            "𝔘",
            " x ",
            "p, a, b",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text(string.printable, max_size=40),
)
SOURCES = st.none() | st.builds(Source, HOSTILE, st.integers(1, 10**6))
RULES = st.builds(
    Rule,
    subject=HOSTILE,
    resource=HOSTILE,
    action=HOSTILE,
    effect=st.sampled_from(Effect),
    condition=st.none() | HOSTILE,
    priority=st.none() | st.integers(0, 2**62),
    base=st.booleans(),
    owner=st.sampled_from(Owner),
    source=SOURCES,
)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 (bounds are naive)
LINKS = st.builds(
    RoleLink,
    member=HOSTILE.map(Ref),
    role=HOSTILE.map(Ref),
    kind=st.sampled_from(["g", "g2"]),
    expires_at=st.none() | TIMES,
    base=st.booleans(),
    owner=st.sampled_from(Owner),
    source=SOURCES,
)
MODELS = st.builds(StoredModel, text=HOSTILE, digest=st.text("0123456789abcdef", min_size=64, max_size=64))
HEADS = st.builds(
    TenantHead,
    tenant_id=st.uuids().map(TenantId),
    slug=HOSTILE.map(Slug),
    status=st.sampled_from(TenantStatus),
    revision=st.integers(0, 2**62),
    rules_revision=st.integers(0, 2**62),
    keys_revision=st.integers(0, 2**62),
)
RULE_SETS = st.builds(
    RuleSet,
    head=HEADS,
    model=MODELS,
    rules=st.lists(RULES, max_size=6),
    links=st.lists(LINKS, max_size=6),
    mfa_roles=st.lists(HOSTILE, max_size=3).map(tuple),
)
SAMPLE = RuleSet(
    HEAD,
    StoredModel("text", "d" * 64),
    [Rule("role:a", "record:*", "read", source=Source("policy.csv", 1))],
    [RoleLink(Ref("role:b"), Ref("role:a"))],
)
VALUE = encode_rule_set(SAMPLE, KEY, "db-1")


def reason(value: bytes, head: TenantHead = HEAD, digest: str = "", lineage: str = "db-1", key: bytes = KEY) -> str:
    with pytest.raises(RejectedError) as caught:
        decode_rule_set(value, key, head, digest, lineage)
    assert caught.value.reason in REASONS
    return caught.value.reason


@given(RULE_SETS, HOSTILE)
def test_a_rule_set_comes_back_exactly(rule_set: RuleSet, lineage: str):
    """Every field of every row survives, whatever the names are made of."""
    value = encode_rule_set(rule_set, KEY, lineage)
    found = decode_rule_set(value, KEY, rule_set.head, rule_set.model.digest, lineage)
    assert found == rule_set
    assert [type(rule.effect) for rule in found.rules] == [Effect for _ in rule_set.rules]
    assert [link.expires_at for link in found.links] == [link.expires_at for link in rule_set.links]


def test_many_rows_come_back_in_order():
    """Rows are coded in portions; their order is the policy's."""
    rules = [Rule(f"role:{n}", "record:x", "read") for n in range(3500)]
    value = encode_rule_set(replace(SAMPLE, rules=rules), KEY)
    assert decode_rule_set(value, KEY, HEAD).rules == rules


def test_no_run_of_rows_is_long():
    """One run is read in one call, which nothing else in the process can interrupt."""
    rules = [Rule(f"role:{n}", "record:x", "read") for n in range(3500)]
    links = [RoleLink(Ref(f"role:{n}"), Ref("role:x")) for n in range(1001)]
    payload = encode_rule_set(replace(SAMPLE, rules=rules, links=links), KEY)[HEADER.size + 32 :]
    found = msgspec.msgpack.decode(payload)
    runs = [len(msgspec.msgpack.decode(zlib.decompress(run))) for part in found[2:] for run in part]
    assert sum(runs) == 4501
    assert max(runs) <= 200


def test_another_offset_is_the_same_instant():
    """Times are instants; the offset they were written with does not matter."""
    at = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    value = encode_rule_set(replace(SAMPLE, links=[RoleLink(Ref("a:b"), Ref("c:d"), expires_at=at)]), KEY)
    assert decode_rule_set(value, KEY, HEAD).links[0].expires_at == at


def test_what_cannot_be_coded_is_refused():
    """A lone surrogate is an error of the writer, not bytes that come back as something else."""
    with pytest.raises(ValueError):
        encode_rule_set(replace(SAMPLE, rules=[Rule("a:\ud800", "b:c", "d")]), KEY)
    with pytest.raises(OverflowError):
        encode_rule_set(replace(SAMPLE, rules=[Rule("a:b", "b:c", "d", priority=2**70)]), KEY)


@pytest.mark.parametrize("length", range(len(VALUE)))
def test_every_truncation_is_rejected(length: int):
    """However much of it is left."""
    assert reason(VALUE[:length]) in {"truncated", "mac"}


@given(st.integers(0, len(VALUE) * 8 - 1))
def test_every_bit_flip_is_rejected(bit: int):
    """Wherever it is: header, MAC or payload."""
    damaged = bytearray(VALUE)
    damaged[bit // 8] ^= 1 << bit % 8
    reason(bytes(damaged))


@given(st.binary(max_size=300))
def test_garbage_is_rejected(value: bytes):
    """Also garbage that begins like one of ours."""
    reason(value)
    reason(HEADER.pack(b"KsRs", FORMAT, HEAD.rules_revision) + value)


def test_it_holds_in_its_own_place_only():
    """Another tenant's, revision's, database's, model's or key's rule set is none."""
    assert decode_rule_set(VALUE, KEY, HEAD, "d" * 64, "db-1") == SAMPLE
    assert reason(VALUE, replace(HEAD, tenant_id=TenantId(UUID(int=8)))) == "mac"
    assert reason(VALUE, replace(HEAD, rules_revision=6)) == "older"
    assert reason(VALUE, replace(HEAD, rules_revision=4)) == "newer"
    assert reason(VALUE, replace(HEAD, rules_stamp=UUID(int=3))) == "stamp"
    assert reason(VALUE, lineage="db-2") == "mac"
    assert reason(VALUE, lineage="") == "mac"
    assert reason(VALUE, digest="e" * 64) == "model"
    assert reason(VALUE, key=derive_key(b"k" * 32, "other")) == "mac"
    moved = HEADER.pack(b"KsRs", FORMAT, 6) + VALUE[HEADER.size :]
    assert reason(moved, replace(HEAD, rules_revision=6)) == "mac"


def test_another_layout_is_rejected_even_with_a_good_mac(monkeypatch: pytest.MonkeyPatch):
    """Bytes of an older or newer release are not read as ours."""
    monkeypatch.setattr(rule_set_codec, "FORMAT", b"earlier!")
    earlier = encode_rule_set(SAMPLE, KEY, "db-1")
    monkeypatch.undo()
    assert reason(earlier) == "format"


def test_a_payload_that_is_not_a_rule_set_is_rejected(monkeypatch: pytest.MonkeyPatch):
    """Even our own MAC over something else does not get through."""
    parts = msgspec.msgpack.decode(VALUE[HEADER.size + 32 :])
    uncompressed = msgspec.msgpack.encode([*parts[:2], [b"no zlib"], []])
    cut_off = msgspec.msgpack.encode([*parts[:2], [parts[2][0][:-5]], []])
    strange = [b"", b"\xc0", msgspec.msgpack.encode([1, 2, 3, 4]), msgspec.msgpack.encode({"head": 1})]
    for payload in [*strange, uncompressed, cut_off]:
        header = HEADER.pack(b"KsRs", FORMAT, HEAD.rules_revision)
        mac = rule_set_codec._mac(KEY, HEAD.tenant_id, "db-1", header, payload)
        assert reason(header + mac + payload) == "payload"
    other = replace(SAMPLE, head=replace(HEAD, slug=Slug("other"), tenant_id=TenantId(UUID(int=9))))
    payload = encode_rule_set(other, KEY, "db-1")[HEADER.size + 32 :]
    header = HEADER.pack(b"KsRs", FORMAT, HEAD.rules_revision)
    mac = rule_set_codec._mac(KEY, HEAD.tenant_id, "db-1", header, payload)
    assert reason(header + mac + payload) == "payload"
