"""The flips of a plan equal those found by asking every question before and after."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.flip_sets import PolicyState
from authz.flips import Answer, count_flips
from authz.request import Ref
from authz.rules import Effect, EntityKind, RoleLink, Rule, StoredEntity
from authz.served_model import ColumnMatch, PolicyEffect, ServedModel

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = ("sub", "dom", "obj", "act", "eft", "cond", "priority")
SUBJECTS = ["user:a", "user:ab", "user:b", "svc:a", "role:r", "role:s", "group:g", "role:platform-x"]
RESOURCES = ["doc:1", "doc:12", "doc:2", "box:x", "box:y", "kasbah:key"]
ACTIONS = ["read", "write"]
CONDITIONS = ["c1", "c2"]


def model(effect: PolicyEffect, *, resource_roles: bool = False) -> ServedModel:
    """The default model, with another effect and optionally groups of resources."""
    return ServedModel(
        digest="0" * 64,
        effect=effect,
        columns=COLUMNS,
        subject=ColumnMatch(prefix=True, roles="g"),
        resource=ColumnMatch(prefix=True, roles="g2" if resource_roles else None),
        action=ColumnMatch(exact=True, star=True),
    )


rules = st.builds(
    Rule,
    subject=st.sampled_from([*SUBJECTS, "*", "user:*", "user:a*", "role:*", "role:platform-*"]),
    resource=st.sampled_from([*RESOURCES, "*", "doc:*", "doc:1*", "kasbah:*"]),
    action=st.sampled_from([*ACTIONS, "*"]),
    effect=st.sampled_from([Effect.ALLOW, Effect.ALLOW, Effect.DENY]),
    condition=st.sampled_from([None, None, None, *CONDITIONS]),
    priority=st.sampled_from([0, 0, 1]),
)
links = st.one_of(
    st.builds(
        RoleLink,
        member=st.sampled_from([Ref(s) for s in SUBJECTS]),
        role=st.sampled_from([Ref("role:r"), Ref("role:s"), Ref("group:g")]),
        expires_at=st.sampled_from([None, None, NOW - timedelta(1), NOW, NOW + timedelta(1)]),
    ),
    st.builds(
        RoleLink,
        member=st.sampled_from([Ref(r) for r in RESOURCES]),
        role=st.sampled_from([Ref("box:x"), Ref("box:all")]),
        kind=st.just("g2"),
    ),
)
entities = st.builds(
    StoredEntity,
    kind=st.just(EntityKind.SUBJECT),
    ref=st.sampled_from([Ref("user:a"), Ref("user:z")]),
    properties=st.fixed_dictionaries({"level": st.integers(0, 1)}),
)


def unique(rows: list) -> tuple:
    """Keep the first row of every key, as a tenant does."""
    return tuple({row.key: row for row in reversed(rows)}.values())[::-1]


states = st.builds(
    PolicyState,
    rules=st.lists(rules, max_size=6).map(unique),
    links=st.lists(links, max_size=6).map(unique),
    entities=st.lists(entities, max_size=2).map(unique),
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[PolicyState, PolicyState]:
    """Two states, mostly of the same rows, so that what stays equal is tried too."""
    before, other = draw(states), draw(states)
    if draw(st.booleans()):
        return before, other
    keep = PolicyState(
        rules=unique([*before.rules[: draw(st.integers(0, 6))], *other.rules[:2]]),
        links=unique([*before.links[draw(st.integers(0, 2)) :], *other.links[:1]]),
        entities=before.entities,
    )
    return before, keep


def reaches(name: str, target: str, state: PolicyState, kind: str) -> bool:
    """Whether `name` is or inherits `target` over links that have not expired."""
    seen, todo = {name}, [name]
    while todo:
        here = todo.pop()
        for link in state.links:
            alive = link.expires_at is None or link.expires_at > NOW
            if link.kind == kind and link.member == here and alive and link.role not in seen:
                seen.add(link.role)
                todo.append(link.role)
    return target in seen


def key_match(value: str, pattern: str) -> bool:
    """Casbin's keyMatch."""
    return value.startswith(pattern[: pattern.index("*")]) if "*" in pattern else value == pattern


def takes(value: str, pattern: str, reserved: str) -> bool:
    """As keyMatch, but that a wildcard means reserved names only if it begins as they do."""
    return key_match(value, pattern) and (not value.startswith(reserved) or pattern.startswith(reserved))


def answer(state: PolicyState, kind: ServedModel, question: tuple[str, str, str], truth: dict[str, str]) -> bool:
    """One decision, rule by rule; `truth` says how every condition comes out: true, false or error."""
    subject, resource, action = question
    matched = []
    for place, rule in enumerate(state.rules):
        by_subject = reaches(subject, rule.subject, state, "g") or takes(subject, rule.subject, "role:platform-")
        by_resource = takes(resource, rule.resource, "kasbah:")
        if kind.resource.roles and (not resource.startswith("kasbah:") or rule.resource.startswith("kasbah:")):
            by_resource = by_resource or reaches(resource, rule.resource, state, "g2")
        if by_subject and by_resource and rule.action in ("*", action):
            matched.append((rule.priority, place, rule))
    outcomes = []
    for _, _, rule in sorted(matched, key=lambda item: item[:2]):
        held = "true" if rule.condition is None else truth[rule.condition]
        if held == "error" and kind.effect is PolicyEffect.PRIORITY:
            outcomes.append(Effect.DENY)
        elif held == "true" or (held == "error" and rule.effect is Effect.DENY):
            outcomes.append(rule.effect)
    match kind.effect:
        case PolicyEffect.ALLOW_OVERRIDE:
            return Effect.ALLOW in outcomes
        case PolicyEffect.DENY_OVERRIDE:
            return Effect.DENY not in outcomes
        case PolicyEffect.ALLOW_AND_DENY:
            return Effect.ALLOW in outcomes and Effect.DENY not in outcomes
        case _:
            return bool(outcomes) and outcomes[0] is Effect.ALLOW


def candidates(before: PolicyState, after: PolicyState) -> list[tuple[str, str, str]]:
    """Every question over names that stand exactly in either state."""
    subjects, resources, actions = set(), set(), set()
    for state in (before, after):
        for rule in state.rules:
            subjects.add(rule.subject)
            resources.add(rule.resource)
            actions.add(rule.action)
        for link in state.links:
            (subjects if link.kind == "g" else resources).update((link.member, link.role))
        subjects.update(entity.ref for entity in state.entities)
    kept = ([n for n in names if "*" not in n] for names in (subjects, resources, actions))
    return list(itertools.product(*kept))


@pytest.mark.parametrize("resource_roles", [False, True])
@pytest.mark.parametrize("effect", [e for e in PolicyEffect if e is not PolicyEffect.SUBJECT_PRIORITY])
@settings(max_examples=120, deadline=None)
@given(change=changes())
def test_flips_equal_asking_every_question(
    effect: PolicyEffect, resource_roles: bool, change: tuple[PolicyState, PolicyState]
) -> None:
    """Exact flips are exactly those that no condition can prevent; conditional ones cover all that remain."""
    before, after = change
    kind = model(effect, resource_roles=resource_roles)
    flips = count_flips(before, after, kind, now=NOW)
    assert flips.complete
    assert len(flips.examples) == flips.total
    told = {(f.subject, f.resource, f.action): (f.before, f.after) for f in flips.examples}
    assert len(told) == flips.total
    worlds = [
        dict(zip(CONDITIONS, values, strict=True))
        for values in itertools.product(["true", "false", "error"], repeat=len(CONDITIONS))
    ]
    for question in candidates(before, after):
        was = [answer(before, kind, question, world) for world in worlds]
        will = [answer(after, kind, question, world) for world in worlds]
        settled = len(set(was)) == 1 and len(set(will)) == 1
        said = told.pop(question, None)
        if said in [(Answer.DENY, Answer.ALLOW), (Answer.ALLOW, Answer.DENY)]:
            assert settled, question
            assert (was[0], will[0]) == (said[1] is Answer.DENY, said[1] is Answer.ALLOW)
        elif said is None:
            assert was == will, question
        else:
            assert Answer.DEPENDS in said
    assert not told
    assert flips.gained == sum(f.before is Answer.DENY and f.after is Answer.ALLOW for f in flips.examples)
    assert flips.lost == sum(f.before is Answer.ALLOW and f.after is Answer.DENY for f in flips.examples)
    for kinds, counted in ((Answer.ALLOW, flips.gaining), (Answer.DENY, flips.losing)):
        exact = {f.subject for f in flips.examples if f.after is kinds and Answer.DEPENDS not in (f.before, f.after)}
        assert sum(counted.values()) == len(exact)


@settings(max_examples=150, deadline=None)
@given(change=changes())
def test_without_conditions_every_flip_is_exact(change: tuple[PolicyState, PolicyState]) -> None:
    """Without conditional rules nothing is marked conditional, and the numbers equal the brute force."""
    plain = [replace(s, rules=unique([replace(r, condition=None) for r in s.rules])) for s in change]
    kind = model(PolicyEffect.ALLOW_AND_DENY)
    flips = count_flips(plain[0], plain[1], kind, now=NOW)
    gained = lost = 0
    for question in candidates(plain[0], plain[1]):
        was, will = (answer(state, kind, question, {}) for state in plain)
        gained += will and not was
        lost += was and not will
    assert (flips.gained, flips.lost, flips.conditional) == (gained, lost, 0)
