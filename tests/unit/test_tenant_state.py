"""What passes from one revision of a tenant to the next, and which older rows are still good."""

from dataclasses import replace
from typing import Any

from authz.ports import Grant, Lookup, SubjectRecord, Touched
from authz.request import Ref
from authz.snapshot import Facts
from authz.tenant_state import HISTORY_NAMES, HISTORY_STEPS, TenantState
from tests.support.policy_world import SimpleSnapshot, World, tenant_id

ALICE, BOB, RECORD, OTHER = Ref("user:alice"), Ref("user:bob"), Ref("record:1"), Ref("record:2")
RECORD_OF = SubjectRecord((Grant(Ref("role:reader")),))


def first_state() -> TenantState:
    world = World()
    head = world.current(world.create(1)).head
    return TenantState(head, snapshot(), 0.0)


def snapshot() -> Any:
    return object.__new__(SimpleSnapshot)


def advanced(
    state: TenantState,
    *,
    by: int = 1,
    subjects: tuple[Ref, ...] = (),
    resources: tuple[Ref, ...] = (),
    everything: bool = False,
) -> TenantState:
    head = replace(state.head, revision=state.head.revision + by)
    touched = Touched(head, everything=everything, subjects=frozenset(subjects), resources=frozenset(resources))
    return state.successor(touched, state.snapshot, 1.0, 0)


def lookup_at(state: TenantState, revision: int) -> Lookup:
    return Lookup(replace(state.head, revision=revision), {ALICE: RECORD_OF, BOB: RECORD_OF}, {RECORD: {"a": 1}})


def test_rows_of_the_same_revision_are_all_good():
    """Nothing lies between."""
    state = first_state()
    lookup = lookup_at(state, 1)
    assert state.still_valid(lookup) is lookup


def test_older_rows_are_good_unless_touched_since():
    """Each advance since, wherever it began, takes away what it touched."""
    state = advanced(advanced(first_state(), subjects=(ALICE,)), by=3)
    found = state.still_valid(lookup_at(state, 1))
    assert found is not None
    assert set(found.subjects) == {BOB}
    assert found.head == state.head
    # Revision 3 lies inside the second advance (2 to 5), which touched nobody.
    found = state.still_valid(lookup_at(state, 3))
    assert found is not None
    assert set(found.subjects) == {ALICE, BOB}
    assert found.resources == {RECORD: {"a": 1}}


def test_rows_of_an_unknown_past_or_of_the_future_are_not_used():
    """Before the state was loaded, before everything changed, before a long change, too long ago, or newer: none."""
    loaded_later = TenantState(replace(first_state().head, revision=5), snapshot(), 0.0)
    assert advanced(loaded_later).still_valid(lookup_at(loaded_later, 4)) is None
    state = advanced(first_state())
    assert state.still_valid(lookup_at(state, 3)) is None
    everything = advanced(advanced(first_state(), everything=True))
    assert everything.still_valid(lookup_at(everything, 1)) is None
    assert everything.still_valid(lookup_at(everything, 2)) is not None
    names = tuple(Ref(f"user:{n}") for n in range(HISTORY_NAMES + 1))
    after_everything = advanced(advanced(advanced(first_state()), everything=True))
    assert after_everything.still_valid(lookup_at(after_everything, 1)) is None
    long_change = advanced(first_state(), subjects=names)
    assert long_change.still_valid(lookup_at(long_change, 1)) is None
    many = first_state()
    for _ in range(HISTORY_STEPS + 1):
        many = advanced(many)
    assert many.still_valid(lookup_at(many, 1)) is None
    assert many.still_valid(lookup_at(many, 2)) is not None


def test_what_an_advance_touched_is_looked_up_again():
    """Subjects and resources alike, whichever generation of the cache holds them; the others are taken over."""
    for aged in (False, True):
        state = first_state()
        for subject in (ALICE, BOB):
            state.subjects[subject] = Facts(subject, frozenset({subject}), {}, float("inf"), RECORD_OF)
        state.resources[RECORD], state.resources[OTHER] = {"a": 1}, {"b": 2}
        if aged:
            state.age()
        after = advanced(state, subjects=(ALICE,), resources=(RECORD,))
        assert {*after.subjects, *after.aged_subjects} == {BOB}
        assert after.resources | after.aged_resources == {OTHER: {"b": 2}}
        everything = advanced(after, everything=True)
        held = (everything.subjects, everything.aged_subjects, everything.resources, everything.aged_resources)
        assert held == ({}, {}, {}, {})


def test_a_replaced_state_holds_nothing_more():
    """Whoever kept it looks up again: what it would hold could be of another revision by now."""
    old = first_state()
    old.resources[RECORD] = {}
    new = advanced(old)
    assert (old.resources, old.subjects, len(old.history)) == ({}, {}, 0)
    assert new.resources == {RECORD: {}}
    assert old.tenant_id == tenant_id(1)
