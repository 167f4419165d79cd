"""Which decision scopes a service account may use, as far as the index alone tells: its keys ask many questions, too.

What the ordinary way finds out by a decision (`service/rights.py`), this reads from rows without conditions and roles
without an end. Where there is more to it, the ordinary way judges. People's keys and sign-ins always take that one.
"""

from dataclasses import replace

from authz.hierarchy import NEVER
from authz.snapshot import ALLOWED, UNDECIDED, Facts, Snapshot
from service.caller import Caller, CallerKind

DECISIONS = "kasbah:decision"
DECISION_SCOPES = ("decision:check", "decision:assert", "decision:explain")


def judged_at_once(caller: Caller, facts: Facts | None, snapshot: Snapshot) -> Caller | None:
    """Return the caller without those decision scopes that its account may not use; None when more must be asked.

    Args:
        caller: A key that has an owner.
        facts: Of the owner, at the revision of `snapshot`, if they are held.
        snapshot: The policy of the owner's own tenant.
    """
    if caller.kind is not CallerKind.SERVICE_ACCOUNT or facts is None or facts.valid_until != NEVER:
        return None
    refused: set[str] = set()
    for scope in DECISION_SCOPES:
        if scope not in caller.scopes:
            continue
        answer = snapshot.decide(facts.names, DECISIONS, scope.partition(":")[2])
        if answer is UNDECIDED:
            return None
        if answer is not ALLOWED:
            refused.add(scope)
    return replace(caller, scopes=caller.scopes - refused, judged=True)
