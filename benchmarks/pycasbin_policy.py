"""The same policies in PyCasbin: what a Python service does today."""

from collections.abc import Iterable

import casbin
from casbin.model import Model

from benchmarks.workload import Question, Workload


def enforcer_of(workloads: Iterable[Workload], model_text: str, *, full_rows: bool) -> casbin.Enforcer:
    """Return an enforcer that holds the rules and memberships of all workloads, each in its own domain.

    Args:
        workloads: The tenants.
        model_text: The model.
        full_rows: Whether the model's rows have an effect and a condition; the conditions are empty.
    """
    model = Model()
    model.load_model_from_text(model_text)
    for workload in workloads:
        for rule in workload.rules:
            row = [rule.subject, workload.slug, rule.resource, rule.action]
            model.add_policy("p", "p", [*row, rule.effect.value, ""] if full_rows else row)
        for link in (*workload.hierarchy, *workload.memberships()):
            model.add_policy("g", "g", [link.member, link.role, workload.slug])
    enforcer = casbin.Enforcer(model)
    enforcer.build_role_links()
    return enforcer


def enforce(enforcer: casbin.Enforcer, slug: str, question: Question) -> bool:
    """Ask one question."""
    return bool(enforcer.enforce(question.subject, slug, question.resource, question.action))
