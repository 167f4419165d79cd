"""A plan as JSON. Lists are cut at 1,000 entries and say how many there are."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from authz.flips import Flip, Flips
from authz.plan import Plan
from service.http.policy_wire import to_wire

MAX_LISTED = 1000

_T = TypeVar("_T")


def shown_plan(plan: Plan) -> dict[str, Any]:
    """Return the JSON-ready form of a plan."""
    return {
        "tenant": plan.head.slug,
        "revision": plan.head.revision,
        "digest": plan.digest,
        "pending": plan.pending,
        "added": _listed(plan.added, to_wire),
        "removed": _listed(plan.removed, to_wire),
        "changed": _listed(plan.changed, lambda row: {"before": to_wire(row.before), "after": to_wire(row.after)}),
        "moved": plan.moved,
        "conflicts": _listed(
            plan.conflicts, lambda row: {"desired": to_wire(row.desired), "existing": to_wire(row.existing)}
        ),
        "patterns": _listed(
            plan.patterns,
            lambda change: {"change": "added" if change.added else "removed", "rule": to_wire(change.rule)},
        ),
        "flips": [{"tenant": part.slug, **_shown_flips(part.flips)} for part in plan.flips],
    }


def _listed(entries: Sequence[_T], shown: Callable[[_T], object]) -> dict[str, Any]:
    return {"count": len(entries), "rows": [shown(entry) for entry in entries[:MAX_LISTED]]}


def _shown_flips(flips: Flips) -> dict[str, Any]:
    return {
        "gained": flips.gained,
        "lost": flips.lost,
        "conditional": flips.conditional,
        "gaining_subjects": dict(flips.gaining),
        "losing_subjects": dict(flips.losing),
        "examples": [_shown_flip(flip) for flip in flips.examples],
        "complete": flips.complete,
        "note": flips.note,
    }


def _shown_flip(flip: Flip) -> dict[str, str]:
    return {
        "subject": flip.subject,
        "action": flip.action,
        "resource": flip.resource,
        "before": flip.before.value,
        "after": flip.after.value,
    }
