"""Which answers a change of policy turns over, by set arithmetic instead of by asking each question.

A question is a (resource, action) pair, answered for all subjects at once; pairs that meet the same rules share one
evaluation, and only pairs that a changed rule, link or attribute can reach are looked at. The universe is that of the
searches: names that stand exactly in rules, links or stored entities, before or after; wildcards add none.

Answers have three values: `allow`, `deny`, and `depends` where a conditional rule takes part. From allow to deny and
back is exact; what begins or ends at `depends` is counted as conditional, never guessed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from authz.flip_answers import SetAnswers
from authz.flip_sets import Content, Interner, PolicyState, Side, Universe, common_ranks, is_pattern, names_itself
from authz.row_codec import canonical_json
from authz.served_model import PolicyEffect, ServedModel


class Answer(StrEnum):
    """What a question would be answered; `depends` is settled by a condition at the time of asking."""

    ALLOW = "allow"
    DENY = "deny"
    DEPENDS = "depends"


@dataclass(frozen=True, slots=True)
class Flip:
    """One answer that turns over, or may where either side is `depends`."""

    subject: str
    resource: str
    action: str
    before: Answer
    after: Answer


@dataclass(frozen=True, slots=True)
class FlipLimits:
    """Bounds of one computation; passing one is said in the result.

    `mask_bytes` bounds the cached subject sets of each state, `work_bytes` the sets read while evaluating,
    `questions` the pairs visited.
    """

    examples: int = 1000
    mask_bytes: int = 128 << 20
    work_bytes: int = 48 << 30
    questions: int = 3_000_000


@dataclass(frozen=True, slots=True)
class Flips:
    """How many answers turn over, and examples.

    `gained`, `lost` and `conditional` count (subject, resource, action) triples; `gaining` and `losing` count the
    distinct subjects of the exact ones by type. Unless `complete`, the counts are lower bounds and `note` says why.
    """

    gained: int = 0
    lost: int = 0
    conditional: int = 0
    gaining: Mapping[str, int] = field(default_factory=dict)
    losing: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[Flip, ...] = ()
    complete: bool = True
    note: str | None = None

    @property
    def total(self) -> int:
        """All flips, the conditional ones included."""
        return self.gained + self.lost + self.conditional


def count_flips(
    before: PolicyState,
    after: PolicyState,
    model: ServedModel,
    *,
    now: datetime,
    limits: FlipLimits | None = None,
) -> Flips:
    """Return which answers differ between two states of one tenant.

    Args:
        before: What holds today, base rows included, rules in policy order.
        after: What would hold.
        model: The served model of both.
        now: Links that expire at or before it count as absent (aware).
        limits: Bounds; the defaults suit 100,000 rules and 100,000 subjects.
    """
    reason = _why_not(model)
    if reason is not None:
        return Flips(complete=False, note=reason)
    return _Comparison(before, after, model, now=now, limits=limits or FlipLimits()).run()


def _why_not(model: ServedModel) -> str | None:
    if model.residual is not None or not (model.subject.indexed and model.resource.indexed and model.action.indexed):
        return "flips are not counted: the model's matcher has a part that is not indexed"
    if model.action.roles is not None:
        return "flips are not counted: the model matches actions through a role graph"
    if model.effect is PolicyEffect.SUBJECT_PRIORITY:
        return "flips are not counted: the model decides by subject priority"
    return None


Key = tuple[tuple[int, ...], tuple[int, ...], bool]
"""Contents that a question meets before and after, and whether attributes of its resource change."""

Shape = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, int], ...], tuple[tuple[str, int], ...], bool]
"""What decides a resource's answers to the actions that no rule names for it alone."""


@dataclass(frozen=True, slots=True)
class _Masks:
    """Subjects by how the answer to one question moves."""

    gained: int
    lost: int
    conditional: int
    allow: tuple[int, int]
    depends: tuple[int, int]


class _Comparison:
    def __init__(
        self, before: PolicyState, after: PolicyState, model: ServedModel, *, now: datetime, limits: FlipLimits
    ) -> None:
        self._limits = limits
        self._universe = Universe.of((before, after), model)
        self._everyone = (1 << len(self._universe.subjects)) - 1
        self._contents = Interner()
        self._action_names_itself = names_itself(model.action)
        ranks = common_ranks(before.rules, after.rules) if model.effect is PolicyEffect.PRIORITY else None
        self._sides = tuple(
            Side(state, model, self._universe, self._contents, now=now, mask_bytes=limits.mask_bytes, ranks=ranks)
            for state in (before, after)
        )
        self._answers = SetAnswers(model.effect, self._sides, len(self._universe.subjects))
        old, new = self._sides
        touched = {role for _, role in old.roles.edges ^ new.roles.edges}
        self._moved_roles = old.roles.above(touched) | new.roles.above(touched)
        grouped = {member for member, _ in old.resource_roles.edges ^ new.resource_roles.edges}
        self._moved_resources = old.resource_roles.below(grouped) | new.resource_roles.below(grouped)
        changed = _changed_attributes(before, after)
        self._attributed = frozenset(changed)
        self._attributed_mask = sum(1 << n for n, name in enumerate(self._universe.subjects) if name in changed)
        self._action_patterns = tuple(
            sorted(
                {a for side in self._sides for cell in side.cells.values() for a in cell if is_pattern(model.action, a)}
            )
        )
        self._dirty = [self._is_dirty(content) for content in self._contents.contents]

    def _is_dirty(self, content: Content) -> bool:
        """Whether an unchanged content may still answer differently."""
        return any(
            entry.subject in self._moved_roles or (entry.condition and self._attributed_mask) for entry in content
        )

    def run(self) -> Flips:
        visited: list[tuple[str, Shape]] = []
        occurrences: Counter[Key] = Counter()
        shapes: Counter[Shape] = Counter()
        questions = 0
        note = None
        for resource, shape in self._resources_to_visit():
            visited.append((resource, shape))
            shapes[shape] += 1
            for action in self._named_actions(resource):
                occurrences[self._key(resource, shape, action)] += 1
                occurrences[self._shape_key(shape, action)] -= 1
                questions += 1
            if questions + len(shapes) * len(self._universe.actions) > self._limits.questions:
                bound = f"{self._limits.questions:,} questions"
                note = f"flips are counted up to resource `{resource}` only: more than {bound} change"
                break
        for shape, count in shapes.items():
            for action in self._universe.actions:
                occurrences[self._shape_key(shape, action)] += count
        return self._evaluate(visited, occurrences, note)

    def _evaluate(self, visited: Sequence[tuple[str, Shape]], occurrences: Counter[Key], note: str | None) -> Flips:
        gained = lost = conditional = gaining = losing = 0
        flipping: dict[Key, int] = {}
        for key, count in occurrences.items():
            if count == 0 or self._is_still(key):
                continue
            if self._answers.work > self._limits.work_bytes:
                note = note or "flips are counted in part: the policy is too large to count them all"
                break
            masks = self._masks(key)
            counts = (masks.gained.bit_count(), masks.lost.bit_count(), masks.conditional.bit_count())
            if any(counts):
                flipping[key] = sum(counts)
                gained += counts[0] * count
                lost += counts[1] * count
                conditional += counts[2] * count
                gaining |= masks.gained
                losing |= masks.lost
        everything = gained + lost + conditional <= self._limits.examples
        return Flips(
            gained=gained,
            lost=lost,
            conditional=conditional,
            gaining=self._by_type(gaining),
            losing=self._by_type(losing),
            examples=tuple(self._examples(visited, flipping, everything=everything)),
            complete=note is None,
            note=note,
        )

    def _resources_to_visit(self) -> Iterator[tuple[str, Shape]]:
        old, new = self._sides
        dirty = {
            selector
            for selector in old.cells.keys() | new.cells.keys()
            if (cell := old.cells.get(selector)) != new.cells.get(selector)
            or any(self._dirty[content] for content in (cell or {}).values())
        }
        for resource in self._universe.resources:
            patterns = (old.pattern_selectors(resource), new.pattern_selectors(resource))
            own = (old.own_selectors(resource), new.own_selectors(resource))
            moved = resource in self._moved_resources or resource in self._attributed
            if not moved and dirty.isdisjoint((*patterns[0], *patterns[1], *own[0], *own[1])):
                continue
            wild = tuple(
                tuple(
                    (action, side.cells[selector][action])
                    for selector in selectors
                    for action in self._action_patterns
                    if action in side.cells[selector]
                )
                for side, selectors in zip(self._sides, own, strict=True)
            )
            yield resource, (*patterns, wild[0], wild[1], resource in self._attributed)

    def _named_actions(self, resource: str) -> list[str]:
        """Return the actions that some rule names for this resource itself or for a group of it."""
        named = {
            action
            for side in self._sides
            for selector in side.own_selectors(resource)
            for action in side.cells[selector]
        }
        return sorted(named.difference(self._action_patterns))

    def _matching(self, action: str) -> list[str]:
        named = [action] if self._action_names_itself else []
        return [*named, *(p for p in self._action_patterns if action.startswith(p.partition("*")[0]))]

    def _key(self, resource: str, shape: Shape, action: str) -> Key:
        wanted = self._matching(action)
        ids = tuple(
            tuple(
                sorted(
                    side.cells[selector][act]
                    for selector in (*side.own_selectors(resource), *patterns)
                    for act in wanted
                    if act in side.cells[selector]
                )
            )
            for side, patterns in zip(self._sides, shape[:2], strict=True)
        )
        return ids[0], ids[1], shape[4]

    def _shape_key(self, shape: Shape, action: str) -> Key:
        wanted = self._matching(action)
        ids = tuple(
            tuple(
                sorted(
                    [side.cells[s][act] for s in patterns for act in wanted if act in side.cells[s]]
                    + [content for act, content in wild if act in wanted]
                )
            )
            for side, patterns, wild in zip(self._sides, shape[:2], shape[2:4], strict=True)
        )
        return ids[0], ids[1], shape[4]

    def _is_still(self, key: Key) -> bool:
        before, after, attributed = key
        return before == after and not attributed and not any(self._dirty[number] for number in before)

    def _masks(self, key: Key) -> _Masks:
        old, new = self._sides
        before = self._entries(key[0])
        after = self._entries(key[1])
        allow_before, depends_before = self._answers.allowed(old, before)
        allow_after, depends_after = self._answers.allowed(new, after)
        deny_before = self._everyone & ~(allow_before | depends_before)
        deny_after = self._everyone & ~(allow_after | depends_after)
        unsettled = depends_before & depends_after
        if unsettled:
            unsettled &= self._everyone if key[2] else self._answers.different(before, after) | self._attributed_mask
        settling = (depends_before ^ depends_after) | unsettled
        return _Masks(
            gained=deny_before & allow_after,
            lost=allow_before & deny_after,
            conditional=settling,
            allow=(allow_before, allow_after),
            depends=(depends_before, depends_after),
        )

    def _entries(self, numbers: Sequence[int]) -> Content:
        merged = {entry for number in numbers for entry in self._contents.contents[number]}
        return tuple(sorted(merged))

    def _by_type(self, mask: int) -> dict[str, int]:
        counted: Counter[str] = Counter()
        for name in _members(mask, self._universe.subjects):
            counted[name.partition(":")[0]] += 1
        return dict(sorted(counted.items()))

    def _examples(
        self, visited: Sequence[tuple[str, Shape]], flipping: Mapping[Key, int], *, everything: bool
    ) -> Iterator[Flip]:
        """Yield all flips where they fit, else some of every kind of question, at most the limit."""
        if not flipping:
            return
        left = self._limits.examples
        share = left if everything else max(1, left // len(flipping))
        quota = dict.fromkeys(flipping, share)
        loud = {
            shape: [action for action in self._universe.actions if self._shape_key(shape, action) in flipping]
            for shape in {shape for _, shape in visited}
        }
        for resource, shape in visited:
            for action in sorted({*loud[shape], *self._named_actions(resource)}):
                key = self._key(resource, shape, action)
                if not quota.get(key):
                    continue
                masks = self._masks(key)
                for mask in (masks.gained, masks.lost, masks.conditional):
                    for number, subject in _numbered(mask, self._universe.subjects):
                        if not quota[key] or not left:
                            break
                        quota[key] -= 1
                        left -= 1
                        answers = tuple(
                            _answer(number, allow, depends)
                            for allow, depends in zip(masks.allow, masks.depends, strict=True)
                        )
                        yield Flip(subject, resource, action, answers[0], answers[1])
            if not left:
                return


def _answer(number: int, allow: int, depends: int) -> Answer:
    if allow >> number & 1:
        return Answer.ALLOW
    return Answer.DEPENDS if depends >> number & 1 else Answer.DENY


def _numbered(mask: int, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    while mask:
        number = (mask & -mask).bit_length() - 1
        yield number, names[number]
        mask &= mask - 1


def _members(mask: int, names: Sequence[str]) -> Iterator[str]:
    data = mask.to_bytes(len(names) // 8 + 1, "little")
    for place, byte in enumerate(data):
        if byte:
            for bit in range(8):
                if byte >> bit & 1:
                    yield names[place * 8 + bit]


def _changed_attributes(before: PolicyState, after: PolicyState) -> set[str]:
    """Return the entities whose attributes differ; `1`, `1.0` and `true` do, since conditions tell them apart."""
    old, new = (
        {entity.key: canonical_json(dict(entity.properties)) for entity in state.entities} for state in (before, after)
    )
    return {key[2] for key in old.keys() | new.keys() if old.get(key, "{}") != new.get(key, "{}")}
