"""What rules answer to all subjects at once: each effect expression as arithmetic on sets of subjects.

A set is an integer with a bit for each subject of the universe.
"""

from authz.flip_sets import Content, Side
from authz.served_model import PolicyEffect


class SetAnswers:
    """Answers of two policy states under one effect. `work` grows by the bytes of the sets that were read."""

    def __init__(self, effect: PolicyEffect, sides: tuple[Side, ...], subjects: int) -> None:
        """Keep the states before and after, and how many subjects there are."""
        self._effect = effect
        self._sides = sides
        self._subjects = subjects
        self._everyone = (1 << subjects) - 1
        self.work = 0

    def allowed(self, side: Side, entries: Content) -> tuple[int, int]:
        """Return the sets of subjects whose answer is allow, and of those where it depends on a condition."""
        self.work += len(entries) * (self._subjects // 8 + 64)
        if self._effect is PolicyEffect.PRIORITY:
            return self._by_first(side, entries)
        allow = may_allow = deny = may_deny = 0
        for entry in entries:
            mask = side.subjects_of(entry.subject)
            if entry.deny and entry.condition:
                may_deny |= mask
            elif entry.deny:
                deny |= mask
            elif entry.condition:
                may_allow |= mask
            else:
                allow |= mask
        if self._effect is PolicyEffect.ALLOW_OVERRIDE:
            return allow, may_allow & ~allow
        if self._effect is PolicyEffect.DENY_OVERRIDE:
            allow = self._everyone
        return allow & ~(deny | may_deny), ((allow & may_deny) | (may_allow & ~allow)) & ~deny

    def _by_first(self, side: Side, entries: Content) -> tuple[int, int]:
        """Answer by the first match; a condition in error ends in deny, so a conditional rule may always deny."""
        open_, allow, depends, may_allow, may_deny = self._everyone, 0, 0, 0, 0
        for entry in entries:
            mask = side.subjects_of(entry.subject) & open_
            if entry.condition:
                may_deny |= mask
                may_allow |= 0 if entry.deny else mask
                continue
            other = may_allow if entry.deny else may_deny
            depends |= mask & other
            allow |= 0 if entry.deny else mask & ~other
            open_ &= ~mask
        return allow, depends | (open_ & may_allow)

    def different(self, before: Content, after: Content) -> int:
        """Return the subjects for which not exactly the same rules, in the same order, take part."""
        old, new = self._sides
        stripped = tuple([(e.subject, e.deny, e.condition) for e in entries] for entries in (before, after))
        common = set(stripped[0]) & set(stripped[1])
        kept = tuple([e for e in entries if e in common] for entries in stripped)
        if self._effect is PolicyEffect.PRIORITY and kept[0] != kept[1]:
            return self._everyone
        mask = 0
        for subject, _, _ in set(stripped[0]) | set(stripped[1]):
            self.work += self._subjects // 8
            was = old.subjects_of(subject)
            mask |= was ^ new.subjects_of(subject)
        for side, entries in zip(self._sides, stripped, strict=True):
            for entry in entries:
                if entry not in common:
                    mask |= side.subjects_of(entry[0])
        return mask
