"""The Kubernetes tenant says exactly what Kubernetes' bootstrap roles say, judged by a plain reading of the source."""

from itertools import product

import pytest

from authz.offline import OfflinePolicy
from authz.policy_files import read_directory
from authz.request import Action, Entity, EvaluationRequest, parse_ref
from tests.support.kubernetes_policy import SLUG, load, policy_text
from tests.support.paths import ROOT
from tests.support.policies import DEFAULT_MODEL, NOW

NAMESPACES = [None, "kube-system", "kube-public", "default"]
PROBES = [
    "core/podsecurity",
    "core/pods/logs",
    "example.com/databases",
    "example.com/databases/scale",
    "example.com/scale",
    "custom.metrics.k8s.io/requests",
    "custom.metrics.k8s.io.evil.example/requests",
    "url:/healthz/etcd",
    "url:/healthzz",
    "url:/api/v1/pods",
    "url:/scale/x/scale",
    "url:/",
]


class Source:
    """The semantics that the data states, written out with no regard for speed."""

    def __init__(self, data):
        self.data = data

    def roles(self, subject, namespace):
        """Names of all roles that hold for a subject in a namespace (None: cluster scope), aggregation included."""
        waiting = [r for s, r, domain in self.data["user_roles"] if s == subject and domain in ("*", namespace)]
        found = set()
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self.data["roles"][name].get("inherits", ()))
        return found

    def permissions(self, subject, namespace):
        """(resource, action) pairs of a subject."""
        positions = {p for role in self.roles(subject, namespace) for p in self.data["roles"][role]["permissions"]}
        return [self.data["permissions"][position] for position in positions]


def matches(pattern, resource):
    """Whether a permission's resource takes a request's."""
    if pattern.startswith("url:") or resource.startswith("url:"):
        return (
            resource.startswith(pattern[:-1])
            if pattern.endswith("*") and pattern.startswith("url:")
            else pattern == resource
        )
    pattern, _, wanted = pattern.partition("#")
    resource, _, name = resource.partition("#")
    if wanted and wanted != name:
        return False
    group, _, rest = resource.partition("/")
    pattern_group, _, pattern_rest = pattern.partition("/")
    if pattern_group not in ("*", group):
        return False
    if pattern_rest.startswith("*/"):
        return rest.count("/") == 1 and rest.partition("/")[2] == pattern_rest[2:]
    return pattern_rest in ("*", rest)


@pytest.fixture(scope="module")
def source():
    return Source(load())


@pytest.fixture(scope="module")
def policy():
    directory = read_directory(ROOT / "policies", tenants=[SLUG])
    return OfflinePolicy.from_rows(SLUG, DEFAULT_MODEL, directory.base.rows, directory.tenants[SLUG].rows)


def ask(policy, subject, namespace, resource, action):
    properties = {} if namespace is None else {"namespace": namespace}
    what = parse_ref(resource if resource.startswith("url:") else f"k8s:{resource}")
    request = EvaluationRequest(parse_ref(subject), Action(action), Entity(what.type, what.id, properties))
    return policy.decide(request, NOW, trace=False).allowed


def test_committed_rows_are_those_of_the_source(source):
    """The file in the repository is what the data says today."""
    assert (ROOT / "policies" / SLUG / "policy.csv").read_text() == policy_text(source.data)


def questions(source):
    subjects = [*sorted({subject for subject, _, _ in source.data["user_roles"]}), "user:nobody", "group:system:master"]
    exact = sorted({resource for resource, _ in source.data["permissions"] if "*" not in resource}) + PROBES
    named = [f"{resource}#probe" for resource in exact if "#" not in resource and not resource.startswith("url:")]
    actions = [*sorted({action for _, action in source.data["permissions"]} - {"*"}), "use"]
    return subjects, exact, named, actions


def compare(policy, source, *, subjects, namespaces, resources, actions):
    wrong = []
    allowed = 0
    for subject, namespace in product(subjects, namespaces):
        permissions = source.permissions(subject, namespace)
        for resource in resources:
            granted = {action for pattern, action in permissions if matches(pattern, resource)}
            for action in actions:
                expected = bool(granted & {action, "*"})
                allowed += expected
                if ask(policy, subject, namespace, resource, action) is not expected:
                    wrong.append((subject, namespace, resource, action, expected))
    assert wrong[:20] == []
    assert allowed > 0


def test_all_candidates_come_out_as_in_the_source(policy, source):
    """Every subject, every resource the source names and some it does not, every verb: at cluster scope."""
    subjects, exact, _, actions = questions(source)
    compare(policy, source, subjects=subjects, namespaces=[None], resources=exact, actions=actions)


def test_named_objects_come_out_as_in_the_source(policy, source):
    """A rule without resource names takes every object, one with a name only that object."""
    subjects, _, named, _ = questions(source)
    compare(policy, source, subjects=subjects, namespaces=[None], resources=named, actions=["get", "update", "create"])


def test_roles_of_a_namespace_hold_only_there(policy, source):
    """Namespaced roles, for each subject that has one, in their namespaces and in others."""
    _, exact, named, actions = questions(source)
    subjects = sorted({subject for subject, _, domain in source.data["user_roles"] if domain != "*"})
    assert len(subjects) > 3
    resources = [each for each in exact + named if each.startswith(("core/", "url:", "coordination"))]
    verbs = [*actions[:3], "get", "update", "watch"]
    compare(policy, source, subjects=subjects, namespaces=NAMESPACES, resources=resources, actions=verbs)
