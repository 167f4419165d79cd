"""Role graphs with patterns reach what PyCasbin's role managers reach, each asked as if for the first time."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from authz.linear_regex import compile_pattern
from authz.pattern_machine import UnsupportedPatternError
from authz.role_graph import Link, PatternMatcher, RoleGraph
from tests.support.pycasbin_roles import FUNCTIONS, domain_manager, role_manager

NAMES = ["alice", "bob", "/a/1", "/a/2", "/a/:id", "/a/{id}", "/a/*", "/*", "*", "a.*", "admin", "(a|b).*", "/a/1\n"]
DOMAINS = ["d1", "d2", "d*", "*", "/:x", "/7"]
NAME = st.sampled_from(NAMES)
MATCHERS = st.sampled_from([None, *FUNCTIONS])


@settings(max_examples=50, deadline=None)
@given(links=st.lists(st.tuples(NAME, NAME), max_size=8), function=MATCHERS)
def test_roles(links, function):
    """Every pair of names, linked or not."""
    graph = RoleGraph([Link(*link) for link in links], role_matcher=function and PatternMatcher(function))
    for name in NAMES:
        for role in NAMES:
            try:
                found = graph.has_link(name, role)
            except UnsupportedPatternError:
                assume(False)
            assert found is role_manager(links, function).has_link(name, role), (name, role)


@settings(max_examples=100, deadline=None)
@given(
    links=st.lists(st.tuples(NAME, NAME, st.sampled_from(DOMAINS)), max_size=8),
    roles=MATCHERS,
    domains=MATCHERS,
    domain=st.sampled_from(DOMAINS),
)
def test_domains(links, roles, domains, domain):
    """Links of all domains that match, in the order in which PyCasbin adds them."""
    graph = RoleGraph(
        [Link(*link) for link in links],
        with_domains=True,
        role_matcher=roles and PatternMatcher(roles),
        domain_matcher=domains and PatternMatcher(domains),
    )
    for name in NAMES[:6]:
        for role in NAMES:
            found = graph.has_link(name, role, domain)
            assert found is domain_manager(links, roles, domains).has_link(name, role, domain), (name, role)


def test_the_names_hold_patterns_of_all_kinds():
    """The properties above would prove little over plain names."""
    assert compile_pattern("^/a/[^/]+$").matches("/a/1")
    assert PatternMatcher("keyMatch2")("/a/1", "/a/:id")
    assert PatternMatcher("keyMatch")("/a/1", "/a/*")
