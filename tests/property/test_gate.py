"""The gate against brute force: what it lets through gives nobody what the writer lacks, and the writer nothing."""

import dataclasses
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from authz.errors import GrantRefusedError, OwnRightsError, TargetTooPowerfulError
from authz.grants import Gate, Holder, held_by, require_power
from authz.offline import OfflinePolicy
from authz.own_rights import Own
from authz.ports import SubjectRecord
from authz.request import Action, Entity, EvaluationRequest, Ref, parse_ref
from authz.rights import Catalogue, Right
from authz.row_changes import changes_to, index_rows
from authz.rules import Effect, EntityKind, Owner, RoleLink, Row, Rule, StoredEntity
from tests.support.policies import DEFAULT_MODEL, NOW

PEOPLE = ("user:a", "user:b")
ROLES = ("role:r", "role:s", "role:t", "group:g")
PAIRS = [("kasbah:user", "read"), ("kasbah:user", "write"), ("kasbah:key", "write")]
GRANTS = [
    *(("kasbah:" + role.replace(":", "/"), "grant") for role in ROLES),
    ("kasbah:permission/doc:1", "grant"),
    ("kasbah:permission/doc:2", "grant"),
]
ORDINARY = [("doc:1", "read"), ("doc:2", "read")]
FAMILIES = [("kasbah:role/*", "grant"), ("kasbah:group/*", "grant"), ("kasbah:permission/*", "grant")]
CATALOGUE = Catalogue.of(Right(*pair) for pair in (*PAIRS, *FAMILIES))
LATER = datetime(2027, 1, 1, tzinfo=UTC)
MOMENTS = (NOW, datetime(2028, 1, 1, tzinfo=UTC))
CONDITIONS = (None, None, None, "subject.properties.level > 1", "resource.properties.level > 1", "context.on == true")

subjects = st.sampled_from((*PEOPLE, *ROLES, "user:*", "*"))
resources = st.sampled_from(
    (
        *("kasbah:user", "kasbah:key", "kasbah:*", "kasbah:u*", "kasbah:role/r", "kasbah:role/*", "kasbah:group/*"),
        *("kasbah:permission/*", "kasbah:permission/doc:1", "doc:1", "doc:2", "doc:*", "*"),
    )
)
actions = st.sampled_from(("read", "write", "grant", "grant", "*"))
rules = st.builds(
    lambda subject, resource, action, effect, condition: Rule(
        subject, resource, action, effect, condition, base=resource.startswith("kasbah:"), owner=Owner.API
    ),
    subjects,
    resources,
    actions,
    st.sampled_from((Effect.ALLOW, Effect.ALLOW, Effect.DENY)),
    st.sampled_from(CONDITIONS),
)
links = st.builds(
    lambda member, role, expires: RoleLink(Ref(member), Ref(role), expires_at=expires, owner=Owner.API),
    st.sampled_from((*PEOPLE, *ROLES)),
    st.sampled_from(ROLES),
    st.sampled_from((None, None, LATER)),
).filter(lambda link: link.member != link.role)
entities = st.builds(
    lambda ref, level: StoredEntity(
        EntityKind.SUBJECT if ref in PEOPLE else EntityKind.RESOURCE, Ref(ref), {"level": level}, owner=Owner.API
    ),
    st.sampled_from((*PEOPLE, "doc:1")),
    st.integers(0, 3),
)
rows = st.lists(st.one_of(rules, rules, links, links, entities), max_size=9)


def by_key(found: list[Row]) -> dict[tuple[str, ...], Row]:
    """Return rows by key; the last of equal keys counts."""
    return {(str(getattr(row, "base", False)), *row.key): row for row in found}


def world(found: dict[tuple[str, ...], Row]) -> OfflinePolicy:
    """Return a policy of these rows."""
    every = sorted(found.values(), key=lambda row: row.key)
    base = [row for row in every if not isinstance(row, StoredEntity) and row.base]
    own = [row for row in every if isinstance(row, StoredEntity) or not row.base]
    return OfflinePolicy.from_rows("acme", DEFAULT_MODEL, base, own)


def allowed(small: OfflinePolicy, subject: str) -> set[tuple[object, ...]]:
    """Return everything that a subject may do: at any moment, in any context."""
    found = set()
    for pair in (*PAIRS, *GRANTS, *ORDINARY):
        for moment in MOMENTS:
            for on in (True, False):
                question = EvaluationRequest(parse_ref(subject), Action(pair[1]), parse_ref(pair[0]), {"on": on})
                if small.decide(question, moment, trace=False).allowed:
                    found.add((*pair, moment, on))
    return found


def pairs(found: set[tuple[object, ...]]) -> set[tuple[object, ...]]:
    """Return what is allowed at some moment in some context."""
    return {item[:2] for item in found}


def differences(before: dict[tuple[str, ...], Row], after: dict[tuple[str, ...], Row]):
    """Return what turns one into the other, as storage would find it: base rows and a tenant's own apart."""
    merged = None
    for base in (True, False):
        sides = [
            index_rows(
                [row for row in side.values() if bool(getattr(row, "base", False)) is base],
                owner=Owner.API,
                base=base,
            )
            for side in (before, after)
        ]
        found = changes_to(sides[1], sides[0], owner=Owner.API, remove=sides[0])
        if merged is None:
            merged = found
        else:
            # Equal rows of base and tenant have one id; here they are changes of their own.
            for name in ("added", "removed", "updated"):
                getattr(merged, name).update({f"{key}'": value for key, value in getattr(found, name).items()})
    return merged


powers = st.builds(
    lambda pair: Rule("user:a", *pair, base=True, owner=Owner.API),
    st.sampled_from((*FAMILIES, *FAMILIES, ("kasbah:user", "*"), ("kasbah:*", "*"), ("kasbah:key", "write"))),
)
"""What makes the writer somebody who gives."""


@st.composite
def writes(draw):
    """Return the rows before and after a write: some go, some come, some change."""
    before = by_key([*draw(st.lists(powers, max_size=4)), *draw(rows)])
    gone = draw(st.sets(st.sampled_from(sorted(before)), max_size=2)) if before else set()
    after = {key: row for key, row in before.items() if key not in gone} | by_key(
        draw(st.lists(st.one_of(rules, links, entities), max_size=2))
    )
    return before, after


@pytest.mark.parametrize("person", [True, False])
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(write=writes())
def test_what_passes_the_gate_gives_nobody_what_the_writer_lacks(person, write):
    """Every question about administration, for everybody, before and after, at every moment and in every context."""
    before_rows, after_rows = write
    before, after = world(before_rows), world(after_rows)
    writer = Ref("user:a")
    record = before.records.get(writer, SubjectRecord())
    held = held_by(before.snapshot, writer, record, NOW)
    own = Own(writer, record) if person else None
    changes = differences(before_rows, after_rows)
    # What the writer may do for certain: now, whatever the context is.
    mine = {
        item[:2]
        for item in allowed(before, writer)
        if item[2] == NOW and (*item[:3], not item[3]) in allowed(before, writer)
    }
    try:
        Gate(before.snapshot, Holder((held,), is_person=person), own, CATALOGUE, NOW).judge(changes)
    except (GrantRefusedError, OwnRightsError):
        event("refused")
        return
    event("passed" if changes.is_empty else "passed with changes")
    for subject in (*PEOPLE, *ROLES, "user:new"):
        if not person and subject == writer:
            continue  # a service has no row of its own
        gained = pairs(allowed(after, subject)) - pairs(allowed(before, subject))
        assert {pair for pair in gained if pair[0].startswith("kasbah:")} <= mine, subject
        for resource, action in gained:
            if not str(resource).startswith("kasbah:"):
                through = {("kasbah:" + role.replace(":", "/"), "grant") for role in ROLES}
                given_by = (f"kasbah:permission/{resource}", "grant")
                assert given_by in mine or through & mine, (subject, resource, action)
    if person:
        assert allowed(after, writer) <= allowed(before, writer), "own rights grew"


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(found=rows)
def test_whom_one_has_power_over_may_nothing_that_one_may_not(found):
    """Else the one would have it through the other's account."""
    small = world(by_key(found))
    writer, target = Ref("user:a"), Ref("user:b")
    held = held_by(small.snapshot, writer, small.records.get(writer, SubjectRecord()), NOW)
    record = small.records.get(target, SubjectRecord())
    try:
        require_power(small.snapshot, target, record, Holder((held,), is_person=True), CATALOGUE, now=NOW)
    except TargetTooPowerfulError:
        event("refused")
        return
    event("passed")
    theirs = {pair for pair in pairs(allowed(small, target)) if pair[0].startswith("kasbah:")}
    mine = {item[:2] for item in allowed(small, writer)}
    assert theirs <= mine


def test_the_brute_force_sees_a_gate_that_is_open():
    """A write that the gate refuses does give more: what it is held against is no empty claim."""
    before = by_key([Rule("role:r", "kasbah:key", "write", base=True, owner=Owner.API)])
    after = before | by_key([RoleLink(Ref("user:b"), Ref("role:r"), owner=Owner.API)])
    gained = pairs(allowed(world(after), "user:b")) - pairs(allowed(world(before), "user:b"))
    assert gained == {("kasbah:key", "write")}
    assert dataclasses.is_dataclass(Entity)
