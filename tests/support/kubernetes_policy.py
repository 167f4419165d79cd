"""Writes `policies/kubernetes/policy.csv` from Kubernetes' own bootstrap roles and bindings.

    python -m tests.support.kubernetes_policy > policies/kubernetes/policy.csv

How Kubernetes' words become rows is said in `policies/kubernetes/README.md`.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from authz.policy_files import write_policy_csv
from authz.request import Ref
from authz.rules import RoleLink, Rule
from tests.support.paths import require_shared_data

SLUG = "kubernetes"
HEADER = """\
# Kubernetes v1.20.2: the roles and bindings that a new cluster starts with (Apache-2.0).
# Written by tests/support/kubernetes_policy.py; README.md says how Kubernetes' words became rows.
"""


def load() -> dict[str, Any]:
    """Return the roles and bindings as data."""
    data: dict[str, Any] = json.loads(require_shared_data("rbac", "kubernetes-bootstrap.json").read_text())
    return data


def policy_text(data: dict[str, Any]) -> str:
    """Return the text of `policy.csv`: for each role its rules, then aggregation, then bindings."""
    parts = [HEADER]
    for name, role in data["roles"].items():
        permissions = sorted(tuple(data["permissions"][position]) for position in role["permissions"])
        if permissions:
            rules = [
                rule
                for resource, action in permissions
                for rule in rules_of(role_name(name), resource, action, role.get("domain"))
            ]
            parts.append(f"\n# {name}\n{write_policy_csv(rules, [], slug=SLUG)}")
    aggregation = [
        RoleLink(role_name(name), role_name(inherited))
        for name, role in data["roles"].items()
        for inherited in role.get("inherits", [])
    ]
    parts.append(f"\n# Aggregation: a role has the permissions of those it is made of.\n{_links(aggregation)}")
    bindings = []
    for subject, name, domain in data["user_roles"]:
        if domain != "*" and data["roles"][name].get("domain") != domain:
            raise ValueError(f"{subject}: a binding in {domain} to the cluster role {name} has no row")
        bindings.append(RoleLink(Ref(subject), role_name(name)))
    parts.append(f"\n# Bindings.\n{_links(bindings)}")
    return "".join(parts)


def rules_of(role: Ref, resource: str, action: str, namespace: str | None) -> Iterator[Rule]:
    """Yield the rows of one permission."""
    conditions = []
    if namespace is not None:
        conditions.append(f"has(resource.properties.namespace) && resource.properties.namespace == '{namespace}'")
    patterns: tuple[str, ...]
    subresource = re.fullmatch(r"\*/\*/([a-z]+)", resource)
    if resource.startswith("url:"):
        patterns = (resource,)
    elif subresource is not None:
        # A star in the middle: of everything, what ends like this, with or without an object's name.
        patterns = ("k8s:*",)
        conditions.append(f"resource.id.matches('^[^/#]+/[^/#]+/{subresource[1]}(#|$)')")
    elif resource == "*/*":
        patterns = ("k8s:*",)
    elif resource.endswith("/*") or "#" in resource:
        patterns = (f"k8s:{resource}",)
    else:
        patterns = (f"k8s:{resource}", f"k8s:{resource}#*")
    for pattern in patterns:
        yield Rule(role, pattern, action, condition=" && ".join(conditions) or None)


def role_name(name: str) -> Ref:
    """Return the typed name of a role; those of a namespace keep it as their first part."""
    return Ref(f"role:{name}")


def _links(links: list[RoleLink]) -> str:
    return write_policy_csv([], links, slug=SLUG)


if __name__ == "__main__":
    sys.stdout.write(policy_text(load()))
