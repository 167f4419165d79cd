"""The live cross-check: what it compares, and what it leaves alone."""

import socket
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from authz.cross_check import (
    MAX_LEVELS,
    MAX_LINKS,
    MAX_RULES,
    Comparison,
    CrossCheck,
    Sample,
    casbin_rows,
    levels_above,
)
from authz.default_model import DEFAULT_MODEL_TEXT
from authz.ports import Lookup, RuleSet, StoredModel
from authz.request import Ref
from authz.rules import RoleLink, Rule
from service.cross_check import Rest, Sampler, load_casbin, sample_sockets, shape_of
from tenancy.ids import Slug
from tests.support.policies import NOW, policy, rows


class Reader:
    """One tenant, read as often as asked."""

    def __init__(self, text: str) -> None:
        self.small = policy(text)
        links = [row for row in rows(text) if isinstance(row, RoleLink) and not row.is_membership]
        self.rule_set = RuleSet(self.small.head, StoredModel(DEFAULT_MODEL_TEXT, "m"), self.small.snapshot.rules, links)
        self.loads = 0

    async def holds_at_most(self, tenant_id, *, rules, links):
        return len(self.rule_set.rules) <= rules and len(self.rule_set.links) <= links

    async def lookup(self, tenant_id, subjects, resources):
        records = {ref: self.small.records.get(ref) or replace_record() for ref in subjects}
        return Lookup(self.small.head, records, {})

    async def load_rules(self, tenant_id):
        self.loads += 1
        return self.rule_set


def replace_record():
    from authz.ports import SubjectRecord

    return SubjectRecord()


def sample(small, subject, action, resource, *, allowed, revision=None, at=NOW):
    head = small.head
    return Sample(head.tenant_id, revision or head.revision, subject, action, resource, allowed, at)


POLICY = """
base p role:member page:* read
g user:a role:editor
g role:editor role:member
p role:editor doc:* write
p role:editor doc:9 write deny
p user:a doc:1 delete if context.x
g user:tmp role:editor until 2026-06-01T12:00:00+00:00
"""


@pytest.mark.parametrize(
    ("subject", "action", "resource", "right"),
    [
        ("user:a", "read", "page:1", True),
        ("user:a", "write", "doc:1", True),
        ("user:a", "write", "doc:9", False),
        ("user:b", "write", "doc:1", False),
        ("user:tmp", "write", "doc:1", False),
    ],
)
async def test_right_answers_agree_and_wrong_ones_differ(subject, action, resource, right):
    """PyCasbin on the same rows is the judge; an expired grant is not among them."""
    reader = Reader(POLICY)
    check = CrossCheck(reader, load_casbin, shape_of)
    for said, expected in ((right, Comparison.AGREES), (not right, Comparison.DIFFERS)):
        assert await check.compare(sample(reader.small, subject, action, resource, allowed=said)) is expected
    assert reader.loads == 1
    before = sample(reader.small, "user:tmp", "write", "doc:1", allowed=True, at=NOW - timedelta(seconds=1))
    assert await check.compare(before) is Comparison.AGREES


class Raising:
    """PyCasbin that raises at every question."""

    def ask(self, request, links):
        return None


async def test_an_error_of_pycasbin_must_not_have_been_an_allow():
    """Where PyCasbin raises, a deny agrees and an allow differs."""
    reader = Reader(POLICY)
    check = CrossCheck(reader, lambda *_: Raising(), shape_of)
    assert await check.compare(sample(reader.small, "user:a", "x", "doc:1", allowed=False)) is Comparison.AGREES
    assert await check.compare(sample(reader.small, "user:a", "x", "doc:1", allowed=True)) is Comparison.DIFFERS


async def test_another_revision_is_not_compared():
    """A sample of a revision that is gone says nothing, and new rules are loaded for new samples."""
    reader = Reader(POLICY)
    check = CrossCheck(reader, load_casbin, shape_of)
    old = sample(reader.small, "user:a", "write", "doc:1", allowed=True)
    assert await check.compare(replace_revision(old, 99)) is Comparison.MOVED_ON
    assert await check.compare(old) is Comparison.AGREES
    reader.small.head = replace(reader.small.head, revision=2, rules_revision=2)
    assert await check.compare(old) is Comparison.MOVED_ON
    assert await check.compare(replace_revision(old, 2)) is Comparison.MOVED_ON
    reader.rule_set = replace(reader.rule_set, head=reader.small.head)
    assert await check.compare(replace_revision(old, 2)) is Comparison.AGREES


def replace_revision(old: Sample, revision: int) -> Sample:
    return msgspec.structs.replace(old, revision=revision)


async def test_chains_that_pycasbin_would_cut_are_left_alone():
    chain = "\n".join(f"g role:r{n} role:r{n + 1}" for n in range(MAX_LEVELS))
    reader = Reader(f"g user:a role:r0\n{chain}\np role:r{MAX_LEVELS} doc:1 read")
    check = CrossCheck(reader, load_casbin, shape_of)
    deep = sample(reader.small, "user:a", "read", "doc:1", allowed=True)
    assert await check.compare(deep) is Comparison.OUT_OF_SCOPE


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"p user:a doc:{n} read" for n in range(MAX_RULES + 1)),
        "\n".join(f"g role:{n} role:all" for n in range(MAX_LINKS + 1)),
    ],
    ids=["rules", "links"],
)
async def test_large_tenants_are_not_even_read(text):
    """They would keep PyCasbin busy for long; a revision that is smaller is compared again."""
    large = Reader(text)
    answer = sample(large.small, "user:a", "read", "doc:1", allowed=True)
    check = CrossCheck(large, load_casbin, shape_of)
    assert await check.compare(answer) is Comparison.TOO_LARGE
    assert large.loads == 0
    large.small.head = replace(large.small.head, revision=2, rules_revision=2)
    large.rule_set = replace(
        large.rule_set, head=large.small.head, rules=policy("p user:a doc:1 read").snapshot.rules, links=[]
    )
    assert await check.compare(replace_revision(answer, 2)) is Comparison.AGREES


async def test_pycasbin_is_loaded_once_for_a_revision_of_the_rules():
    """Each subject's own links hold for its question alone; links that expire make it load again."""
    reader = Reader(POLICY + "g role:editor role:guest until 2026-06-01T12:00:00+00:00\np role:guest lobby:1 enter\n")
    loads = []

    def load(text, found):
        loads.append(len(found))
        return load_casbin(text, found)

    check = CrossCheck(reader, load, shape_of)
    for subject, right in (("user:a", True), ("user:b", False), ("user:a", True), ("user:tmp", False)):
        asked = sample(reader.small, subject, "write", "doc:1", allowed=right)
        assert await check.compare(asked) is Comparison.AGREES
    assert len(loads) == 1
    before = NOW - timedelta(seconds=1)
    for right, at in ((True, before), (False, NOW)):
        asked = sample(reader.small, "user:a", "enter", "lobby:1", allowed=right, at=at)
        assert await check.compare(asked) is Comparison.AGREES
    assert len(loads) == 3


def test_levels_are_counted_by_the_shortest_way_and_cycles_end():
    links = list(rows("g role:a role:b\ng role:b role:c\ng role:a role:c\ng role:c role:a"))
    assert levels_above(Ref("role:a"), links) == 1
    assert levels_above(Ref("user:x"), links) == 0


def test_rows_take_the_model_s_form():
    text = DEFAULT_MODEL_TEXT.replace("p = sub, dom, obj, act, eft, cond", "p = priority, sub, obj, act, eft").replace(
        "g = _, _, _", "g = _, _"
    )
    reader = Reader(POLICY)
    found = casbin_rows(reader.rule_set.rules, reader.rule_set.links, reader.small.head.slug, shape_of(text))
    assert found[0].values == ("0", "role:member", "page:*", "read", "allow")
    assert found[-1].values == ("role:editor", "role:member")


def test_rules_with_a_condition_are_not_given_to_pycasbin():
    """It would take them for unconditional ones."""
    given = casbin_rows(
        [row for row in rows("p user:a doc:1 read if context.ok\np user:a doc:2 read") if isinstance(row, Rule)],
        [],
        Slug("acme"),
        shape_of(DEFAULT_MODEL_TEXT),
    )
    assert [row.values[2] for row in given] == ["doc:2"]


def test_sampler_keeps_its_rate_and_never_blocks():
    """A full socket drops samples; the rate is the caller's to ask for by `due`."""
    sender, receiver = sample_sockets()
    with sender, receiver:
        sampler = Sampler(sender, 10)
        assert sampler.due <= 7.0
        reader = Reader(POLICY)
        given = sample(reader.small, "user:a", "write", "doc:1", allowed=True)
        for _ in range(20_000):
            sampler.offer(given, 7.0)
        assert sampler.due == 7.1
        dropped = sampler.totals()["cross_check_samples_dropped"]
        assert 0 < dropped < 20_000
        received = msgspec.msgpack.decode(receiver.recv(1 << 16), type=Sample)
        assert received == given
    with socket.socket() as closed:
        quiet = Sampler(closed, 0)
    assert quiet.due == float("inf")
    assert Sampler(None, 5).due == float("inf")


def test_rest_makes_all_time_taken_the_wanted_share():
    """After 2 s of processor time at one part in a hundred: 198 s; what was done between two rests counts as well."""
    taken = 5.0
    rest = Rest(0.01, lambda: taken)
    taken += 2.0
    assert rest.owed() == pytest.approx(198.0)
    assert rest.owed() == 0.0
    taken += 0.5
    assert rest.owed() == pytest.approx(49.5)
    whole = Rest(1.0, lambda: taken)
    taken += 3.0
    assert whole.owed() == 0.0


@pytest.mark.parametrize(("subject", "resource"), [("user:a", "kasbah:key"), ("role:platform-x", "doc:1")])
async def test_reserved_names_are_left_alone(subject, resource):
    """PyCasbin lets a wildcard reach them, which the engine does not."""
    reader = Reader("p * * read")
    question = sample(reader.small, subject, "read", resource, allowed=False)
    assert await CrossCheck(reader, load_casbin, shape_of).compare(question) is Comparison.OUT_OF_SCOPE
