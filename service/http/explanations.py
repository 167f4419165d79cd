"""Explanations as JSON: what `context.kasbah` holds when an explanation was asked for."""

from authz.decision import Decision, DeterminingRule
from authz.explain import ExplainedRule, Explanation, place_of
from service.http.authzen_wire import Json, decision_json


def explained_json(decision: Decision, explanation: Explanation | None) -> Json:
    """Return a decision with its determining rules, its errors, and the explanation when there is one."""
    answer = decision_json(decision)
    kasbah = answer["context"]["kasbah"]
    kasbah["determining_rules"] = [determining_json(rule) for rule in decision.determining]
    if decision.errors:
        kasbah["errors"] = list(decision.errors)
    if explanation is not None:
        kasbah["explanation"] = explanation_json(explanation)
    return answer


def determining_json(rule: DeterminingRule) -> Json:
    """Return a rule that settled a decision; `source` is `policy.csv:LINE`, `_base/policy.csv:LINE` or null."""
    return {
        "id": rule.id,
        "effect": rule.effect.value,
        "owner": rule.owner.value,
        "base": rule.base,
        "source": place_of(rule.source, base=rule.base),
        "role_path": list(rule.role_path),
    }


def explanation_json(explanation: Explanation) -> Json:
    """Return the whole explanation, and the same as lines for a terminal."""
    return {
        "summary": explanation.summary,
        "lines": explanation.lines(),
        "roles": list(explanation.roles),
        "inactive_roles": list(explanation.inactive_roles),
        "granted_by": [explained_rule_json(rule) for rule in explanation.granted_by],
        "blocked_by": [explained_rule_json(rule) for rule in explanation.blocked_by],
        "would_grant": [explained_rule_json(rule) for rule in explanation.would_grant],
        "unmet_conditions": [explained_rule_json(rule) for rule in explanation.unmet_conditions],
        "failed_conditions": [explained_rule_json(rule) for rule in explanation.failed_conditions],
        "truncated": explanation.truncated,
    }


def explained_rule_json(rule: ExplainedRule) -> Json:
    """Return one rule of an explanation."""
    return {
        "id": rule.id,
        "effect": rule.effect.value,
        "subject": rule.subject,
        "action": rule.action,
        "resource": rule.resource,
        "condition": rule.condition,
        "owner": rule.owner.value,
        "base": rule.base,
        "source": place_of(rule.source, base=rule.base),
        "role_path": list(rule.role_path),
        "note": rule.note,
    }
