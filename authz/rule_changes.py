"""Brings a rule set up to a later revision by the few rows that changed, instead of reading all of them again. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from authz.ports import ChangedRow, RuleSet, TenantHead
from authz.rules import Owner, RoleLink, Rule


def brought_up(rule_set: RuleSet, head: TenantHead, changed: Sequence[ChangedRow]) -> RuleSet | None:
    """Return the rule set at `head`, or None where it must be read: then these changes do not say what it is.

    Args:
        rule_set: What it was before.
        head: Where the tenant stands after the changes.
        changed: Every rule and link that was added or removed in between, in order; neither base nor model changed, nor
            which roles demand a second factor.
    """
    gone: set[tuple[str, ...]] = set()
    added: dict[tuple[str, ...], Rule | RoleLink] = {}
    for change in changed:
        key = change.row.key
        if not change.added:
            if added.pop(key, None) is None:
                gone.add(key)
        elif change.row.owner is Owner.API:
            added[key] = change.row
        else:
            # Where a row of a file belongs is told by all rows of the file.
            return None
    names = {key[1] for key in gone}
    rules = [row for row in rule_set.rules if row.subject not in names or row.base or row.key not in gone]
    links = [row for row in rule_set.links if row.member not in names or row.base or row.key not in gone]
    if len(rule_set.rules) + len(rule_set.links) - len(rules) - len(links) != len(gone):
        return None
    # INVARIANT: rows of the API come last, in the order in which they were added.
    rules += [row for row in added.values() if isinstance(row, Rule)]
    links += [row for row in added.values() if isinstance(row, RoleLink)]
    return replace(rule_set, head=head, rules=rules, links=links)
