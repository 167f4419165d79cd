"""Rules that change nothing: written twice, covered by a wider rule, or always overruled.

Every statement here is provable from the rows alone: a rule is only called covered when each request it matches is
matched by the other rule too. Wider rules are found by hashing names and prefixes, not by comparing rules in pairs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from authz.lint.part import Part, place_of
from authz.lint.prefixes import Prefixes
from authz.lint.roles import PermanentAncestors
from authz.rules import Effect, RoleLink, Rule
from authz.served_model import PolicyEffect, ServedModel
from authz.served_names import ROLE_TYPES, is_platform_resource, is_platform_role

_Slot = tuple[Effect | None, str, str, str | None]


@dataclass(slots=True)
class _Resources:
    """Rules of one effect, subject, action and condition, by resource; the earliest of equals."""

    exact: dict[str, tuple[int, Rule]] = field(default_factory=dict)
    patterns: dict[str, tuple[int, Rule]] = field(default_factory=dict)
    prefixes: Prefixes | None = None


def check_coverage(part: Part) -> None:
    """Report duplicate, covered, overruled and shadowing rules of one tenant."""
    model = part.model
    if model is None:
        return
    ordered = list(part.rules)
    if model.effect is PolicyEffect.PRIORITY:
        ordered.sort(key=lambda rule: -1 if rule.priority is None else rule.priority)
    _Coverage(part, model, ordered).report()


class _Coverage:
    def __init__(self, part: Part, model: ServedModel, ordered: list[Rule]) -> None:
        self._part = part
        self._model = model
        self._ordered = ordered
        self._by_order = model.effect is PolicyEffect.PRIORITY
        # A residual may look at any column, so that only rules with equal columns are known to match alike.
        self._wider = model.residual is None
        self._slots: dict[_Slot, _Resources] = {}
        self._first: dict[tuple[str, ...], Rule] = {}
        self._patterns = Prefixes(rule.subject[:-1] for rule in ordered if rule.subject.endswith("*"))
        self._reserved = _held_by_the_platforms(part.links) if model.subject.roles == "g" else set()
        self._ancestors = PermanentAncestors(part.links if model.subject.roles == "g" else ())
        self._subjects: dict[str, tuple[str, ...]] = {}
        self._shadowed: dict[int, tuple[Rule, int, Rule]] = {}

    def report(self) -> None:
        duplicates = self._fill()
        for order, rule in enumerate(self._ordered):
            if not self._part.is_own(rule):
                continue
            first = duplicates.get(order)
            if first is not None:
                self._part.at_rule(
                    rule, "sub", "duplicate-rule", f"the same rule as {place_of(first)}", "remove one of them"
                )
            else:
                self._judge(order, rule)
        for wide, count, example in self._shadowed.values():
            what = "rule" if count == 1 else "rules"
            message = f"the wildcard makes {count} narrower {what} idle, such as {place_of(example)}"
            hint = "narrow it, or remove the rules it covers"
            self._part.at_rule(wide, _star_column(wide), "shadowing-wildcard", message, hint)

    def _fill(self) -> dict[int, Rule]:
        """Index all rules; return the first of each rule that stands twice in the file under lint."""
        duplicates: dict[int, Rule] = {}
        for order, rule in enumerate(self._ordered):
            first = self._first.setdefault(rule.key, rule)
            if first is not rule and first.base == rule.base:
                duplicates[order] = first
                continue
            slot = (None if self._by_order else rule.effect, rule.subject, rule.action, rule.condition)
            resources = self._slots.get(slot)
            if resources is None:
                resources = self._slots[slot] = _Resources()
            if rule.resource.endswith("*"):
                resources.patterns.setdefault(rule.resource[:-1], (order, rule))
            else:
                resources.exact.setdefault(rule.resource, (order, rule))
        return duplicates

    def _judge(self, order: int, rule: Rule) -> None:
        effect = None if self._by_order else rule.effect
        conditions: tuple[str | None, ...] = (None,) if rule.condition is None else (None, rule.condition)
        if self._by_order:
            # Under a priority effect an error in any condition denies: a rule without one covers none that may err.
            conditions = (rule.condition,)
        wide = self._find(order, rule, effect, conditions)
        if wide is not None and self._by_order:
            message = f"{place_of(wide)} matches all of it and stands before: this rule never decides"
            self._part.at_rule(rule, "sub", "covered-rule", message, "remove it, or give it a lower priority number")
        elif wide is not None:
            message = f"covered by {place_of(wide)}: {_says(wide)}"
            self._part.at_rule(rule, "sub", "covered-rule", message, "remove it, or narrow the other rule")
        elif rule.effect is Effect.ALLOW and self._model.effect is PolicyEffect.ALLOW_AND_DENY:
            wide = self._find(order, rule, Effect.DENY, (None,))
            if wide is not None:
                message = f"never allows anything: {place_of(wide)} denies all of it: {_says(wide)}"
                self._part.at_rule(rule, "sub", "overruled-rule", message, "remove it, or narrow the deny rule")
        elif rule.effect is Effect.DENY and self._model.effect is PolicyEffect.ALLOW_OVERRIDE:
            message = "a deny rule changes nothing under this model's effect"
            self._part.at_rule(rule, "eft", "idle-deny", message, "remove it")
        if wide is not None and "*" in (wide.subject[-1:], wide.resource[-1:], wide.action) and self._part.is_own(wide):
            _, count, example = self._shadowed.get(id(wide), (wide, 0, rule))
            self._shadowed[id(wide)] = (wide, count + 1, example)

    def _find(self, order: int, rule: Rule, effect: Effect | None, conditions: tuple[str | None, ...]) -> Rule | None:
        """Return a rule that matches whenever `rule` does, other than an equal one of the same file."""
        for subject in self._wider_subjects(rule.subject):
            for action in self._wider_actions(rule.action):
                for condition in conditions:
                    resources = self._slots.get((effect, subject, action, condition))
                    if resources is not None:
                        for found_order, found in self._in(resources, rule.resource):
                            if found_order != order and (found_order < order or not self._by_order):
                                return found
        return None

    def _in(self, resources: _Resources, resource: str) -> Iterator[tuple[int, Rule]]:
        is_pattern = resource.endswith("*")
        found = resources.patterns.get(resource[:-1]) if is_pattern else resources.exact.get(resource)
        if found is not None:
            yield found
        column = self._model.resource
        if not resources.patterns or not self._wider:
            return
        if column.prefix:
            if resources.prefixes is None:
                resources.prefixes = Prefixes(resources.patterns)
            for prefix in resources.prefixes.of(resource[:-1] if is_pattern else resource):
                if prefix or not is_platform_resource(resource):
                    yield resources.patterns[prefix]
        elif column.star and "" in resources.patterns and not is_platform_resource(resource):
            yield resources.patterns[""]

    def _wider_actions(self, action: str) -> tuple[str, ...]:
        column = self._model.action
        if action == "*" or not self._wider or not (column.star or column.prefix):
            return (action,)
        return (action, "*")

    def _wider_subjects(self, subject: str) -> tuple[str, ...]:
        known = self._subjects.get(subject)
        if known is None:
            known = self._subjects[subject] = tuple(dict.fromkeys(self._all_wider_subjects(subject)))
        return known

    def _all_wider_subjects(self, subject: str) -> Iterator[str]:
        yield subject
        if not self._wider:
            return
        yield from self._ancestors.of(subject)
        column = self._model.subject
        is_reserved = subject in self._reserved or is_platform_role(subject)
        if (column.star or column.prefix) and not is_reserved:
            yield "*"
        is_pattern = subject.endswith("*")
        if not column.prefix or (not is_pattern and subject.partition(":")[0] in ROLE_TYPES):
            return  # a pattern means subjects by their own name: members of a role have other names
        for prefix in self._patterns.of(subject.removesuffix("*")):
            if not is_reserved or is_platform_role(prefix):
                yield prefix + "*"


def _held_by_the_platforms(links: Iterable[RoleLink]) -> set[str]:
    """Return the platform's roles and all that they inherit: they match as subjects that no other wildcard reaches."""
    parents: dict[str, list[str]] = {}
    for link in links:
        if link.kind == "g":
            parents.setdefault(link.member, []).append(link.role)
    held = {name for name in parents if is_platform_role(name)}
    waiting = list(held)
    while waiting:
        for role in parents.get(waiting.pop(), ()):
            if role not in held:
                held.add(role)
                waiting.append(role)
    return held


def _star_column(rule: Rule) -> str:
    if rule.resource.endswith("*"):
        return "obj"
    return "sub" if rule.subject.endswith("*") else "act"


def _says(rule: Rule) -> str:
    condition = f" if {rule.condition}" if rule.condition else ""
    return f"{rule.effect.value} `{rule.subject}` `{rule.action}` `{rule.resource}`{condition}"
