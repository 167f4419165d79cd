"""Builders of small policies, written as Casbin's CSV without a `dom` column.

`p role:editor record:* read` and `g user:alice role:editor` are the tenant's rows; a line that starts with `base ` is the
platform's. A condition stands after `if`, an expiry after `until`.
"""

from dataclasses import replace
from datetime import UTC, datetime

from authz.offline import OfflinePolicy
from authz.ports import Account, AccountState, SubjectRecord
from authz.request import Action, Entity, EvaluationRequest, Ref, parse_ref
from authz.rules import Effect, EntityKind, RoleLink, Row, Rule, Source, StoredEntity
from authz.served_model import ColumnMatch, PolicyEffect, ServedModel

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)

DEFAULT_MODEL = ServedModel(
    digest="default",
    effect=PolicyEffect.ALLOW_AND_DENY,
    columns=("sub", "dom", "obj", "act", "eft", "cond"),
    subject=ColumnMatch(prefix=True, roles="g"),
    resource=ColumnMatch(prefix=True),
    action=ColumnMatch(exact=True, star=True),
)
"""What the model of the design compiles to."""


def rows(text: str) -> list[Row]:
    """Return the rows that `text` writes, one a line; each row's source is its line."""
    found: list[Row] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        base = line.startswith("base ")
        line = line.removeprefix("base ")
        source = Source("_base/policy.csv" if base else "policy.csv", number)
        line, _, condition = line.partition(" if ")
        line, _, until = line.partition(" until ")
        kind, *parts = line.split()
        if kind == "p":
            effect = Effect(parts[3]) if len(parts) > 3 else Effect.ALLOW
            priority = int(parts[4]) if len(parts) > 4 else None
            found.append(
                Rule(parts[0], parts[1], parts[2], effect, condition or None, priority, base=base, source=source)
            )
        else:
            expires = datetime.fromisoformat(until) if until else None
            found.append(RoleLink(Ref(parts[0]), Ref(parts[1]), kind, expires, base=base, source=source))
    return found


def policy(text: str, *, model: ServedModel = DEFAULT_MODEL, entities: dict[str, dict[str, object]] | None = None):
    """Return an `OfflinePolicy` of tenant `acme` for `text`; `entities` are stored for both kinds."""
    written = rows(text)
    stored = [
        StoredEntity(kind, Ref(ref), properties)
        for ref, properties in (entities or {}).items()
        for kind in (EntityKind.SUBJECT, EntityKind.RESOURCE)
    ]
    base = [row for row in written if not isinstance(row, StoredEntity) and row.base]
    own = [row for row in written if isinstance(row, StoredEntity) or not row.base]
    return OfflinePolicy.from_rows("acme", model, base, [*own, *stored])


def ask(subject: str, action: str, resource: str, **context: object) -> EvaluationRequest:
    """Return a question in short form; keyword arguments are the context."""
    return EvaluationRequest(parse_ref(subject), Action(action), parse_ref(resource), context)


def with_properties(
    request: EvaluationRequest, *, subject: dict[str, object] | None = None, resource: dict[str, object] | None = None
) -> EvaluationRequest:
    """Return the question with asserted properties."""
    return EvaluationRequest(
        Entity(request.subject.type, request.subject.id, subject or {}),
        request.action,
        Entity(request.resource.type, request.resource.id, resource or {}),
        request.context,
    )


def set_account(small: OfflinePolicy, subject: str, state: AccountState | None) -> None:
    """Make a subject of a policy an account in this state, or none."""
    ref = Ref(subject)
    account = None if state is None else Account(state)
    small.records = {**small.records, ref: replace(small.records.get(ref, SubjectRecord()), account=account)}
