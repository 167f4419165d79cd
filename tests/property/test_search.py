"""A search is the filter of its candidates by evaluation, page by page."""

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz import search
from authz.errors import StaleError
from authz.evaluate import evaluate
from authz.offline import OfflinePolicy
from authz.ports import SubjectRecord
from authz.request import Action, Entity, EvaluationRequest
from tests.property.test_served_engine import policies
from tests.support.policies import NOW, policy


class OneTenant:
    """A node and reader over one offline policy."""

    def __init__(self, small: OfflinePolicy) -> None:
        self.small = small
        self.loads = 0
        self.moves_at: set[int] = set()

    async def load(self, tenant_id, subjects, resources, min_revision=None):
        self.loads += 1
        if self.loads in self.moves_at:
            self.small.head = replace(self.small.head, revision=self.small.head.revision + 1)
        for ref in subjects:
            self.small.subjects[ref] = self.small.snapshot.facts(ref, self.small.records.get(ref, SubjectRecord()), NOW)
        for ref in resources:
            self.small.resources[ref] = self.small.stored_resources.get(ref, {})
        return self.small

    def now(self) -> datetime:
        return NOW

    async def list_subject_candidates(self, tenant_id, kind, after, limit):
        return self._page((ref for ref in self.small.records), kind, after, limit)

    async def list_resource_candidates(self, tenant_id, kind, after, limit):
        return self._page((ref for ref in self.small.stored_resources), kind, after, limit)

    def _page(self, refs, kind, after, limit):
        ids = sorted(ref.partition(":")[2] for ref in refs if ref.startswith(f"{kind}:"))
        return [i for i in ids if i > after][:limit]


def context_of(small: OfflinePolicy) -> search.SearchContext:
    node = OneTenant(small)
    return search.SearchContext(node, node, small.head.tenant_id)


def question(subject="user:a", action="read", resource="doc:1") -> EvaluationRequest:
    kind, _, name = subject.partition(":")
    other, _, thing = resource.partition(":")
    return EvaluationRequest(Entity(kind, name), Action(action), Entity(other, thing))


async def pages(function, where, asked, limit):
    found, after = [], ""
    while True:
        page = await function(where, asked, after=after, limit=limit)
        assert len(page.results) <= limit
        found.extend(page.results)
        if page.next_after is None:
            return found
        assert page.next_after > after
        after = page.next_after


@settings(max_examples=60, deadline=None)
@given(policies, st.integers(1, 4))
def test_search_equals_filtering_by_evaluation(text, limit):
    """All three searches, at any page size, in order of id."""
    small = policy(text)
    where = context_of(small)

    async def check() -> None:
        candidates = {"user:" + i for i in search.named_subjects(small.snapshot).get("user", ())}
        candidates |= {ref for ref in small.records if ref.startswith("user:")}
        expected = [
            ref.removeprefix("user:")
            for ref in sorted(candidates)
            if (await evaluate(where.node, where.tenant_id, question(subject=ref))).allowed
        ]
        assert await pages(search.search_subjects, where, question(), limit) == expected
        expected = [
            name
            for name in search.named_resources(small.snapshot).get("doc", ())
            if (await evaluate(where.node, where.tenant_id, question(resource=f"doc:{name}"))).allowed
        ]
        assert await pages(search.search_resources, where, question(), limit) == expected
        expected = [
            name
            for name in search.named_actions(small.snapshot)
            if (await evaluate(where.node, where.tenant_id, question(action=name))).allowed
        ]
        assert await pages(search.search_actions, where, question(), limit) == expected

    asyncio.run(check())


async def test_many_candidates_from_both_sources_come_once_and_in_order():
    """Ids named in rules and in the database are merged, chunk after chunk."""
    lines = [f"g user:{n:04} role:r" for n in range(0, 1500, 2)] + [
        f"p user:{n:04} x:y read" for n in range(1, 1500, 2)
    ]
    where = context_of(policy("p role:r x:y read\np user:0001 x:y read\n" + "\n".join(lines)))
    found = await pages(search.search_subjects, where, question(resource="x:y"), 97)
    assert found == [f"{n:04}" for n in range(1500)]


async def test_a_long_barren_stretch_ends_the_page_early():
    """A page without results still moves on: its cursor is where the examination stopped."""
    lines = [f"g user:{n:05} role:nobody" for n in range(9000)]
    where = context_of(policy("p user:09999 x:y read\n" + "\n".join(lines)))
    first = await search.search_subjects(where, question(resource="x:y"), after="", limit=10)
    assert first.results == ()
    assert first.next_after is not None
    assert await pages(search.search_subjects, where, question(resource="x:y"), 10) == ["09999"]


async def test_a_page_is_true_at_one_revision():
    """When the tenant moves on behind its first chunk, the page ends there and the next one goes on."""
    lines = [f"g user:{n:05} role:r" for n in range(3000)]
    where = context_of(policy("p role:r x:y read\n" + "\n".join(lines)))
    where.node.moves_at = {4}
    page = await search.search_subjects(where, question(resource="x:y"), after="", limit=5000)
    assert len(page.results) == search.CHUNK
    assert page.next_after == page.results[-1]
    assert page.revision == where.node.small.head.revision - 1
    rest = await search.search_subjects(where, question(resource="x:y"), after=page.next_after, limit=5000)
    assert [*page.results, *rest.results] == [f"{n:05}" for n in range(3000)]


async def test_constant_membership_changes_do_not_stop_a_search():
    """Every look at the tenant finds it further on, and every page still comes."""
    lines = [f"g user:{n:05} role:r" for n in range(3000)]
    where = context_of(policy("p role:r x:y read\n" + "\n".join(lines)))
    where.node.moves_at = set(range(1000))
    assert len(await pages(search.search_subjects, where, question(resource="x:y"), 5000)) == 3000


async def test_rules_that_move_on_at_once_start_the_page_over():
    """Candidates of older rules are not evaluated under newer ones; and it does not go on for ever."""
    small, other = policy("p user:a x:y read"), policy("p user:a x:y read\np user:b x:y read")
    where = context_of(small)
    load = where.node.load

    async def changing(tenant_id, subjects, resources, min_revision=None):
        if where.node.loads == 1:
            small.snapshot = other.snapshot
            small.head = replace(small.head, revision=2, rules_revision=2)
        return replace_view(await load(tenant_id, subjects, resources, min_revision))

    where.node.load = changing
    page = await search.search_subjects(where, question(resource="x:y"), after="", limit=10)
    assert (page.results, page.revision) == (("a", "b"), 2)

    async def restless(tenant_id, subjects, resources, min_revision=None):
        small.snapshot = policy("p user:a x:y read").snapshot
        return replace_view(await load(tenant_id, subjects, resources, min_revision))

    where.node.load = restless
    with pytest.raises(StaleError):
        await search.search_subjects(where, question(resource="x:y"), after="", limit=10)


def replace_view(small: OfflinePolicy) -> OfflinePolicy:
    """Return a view of what is held now, which later changes leave alone."""
    held = OfflinePolicy(small.head, small.snapshot, small.records, small.stored_resources)
    held.subjects, held.resources = dict(small.subjects), dict(small.resources)
    return held


@pytest.mark.parametrize("effect", ["allow", "deny"])
async def test_conditions_that_take_much_work_end_a_page_and_change_no_answer(effect):
    """Candidates share an allowance: where it is spent the page ends, and the next one goes on."""
    rows = [f"p user:{number} doc:1 read {effect} if !(-1 in context.l)" for number in range(40)]
    if effect == "deny":
        rows += [f"p user:{number} doc:1 read" for number in range(40)]
        rows = [row.replace("!(", "(") for row in rows]
    small = policy("\n".join(rows))
    asked = replace(question(), context={"l": list(range(20_000))})
    found, after, pages = [], "", 0
    while after is not None:
        page = await search.search_subjects(context_of(small), asked, after=after, limit=1000)
        found += page.results
        after, pages = page.next_after, pages + 1
    assert pages > 1
    assert found == sorted(str(number) for number in range(40))
    for number in range(40):
        alone = replace(asked, subject=Entity("user", str(number)))
        assert (await evaluate(OneTenant(small), small.head.tenant_id, alone)).allowed
