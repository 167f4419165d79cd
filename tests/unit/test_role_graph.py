"""Reachability in role graphs."""

import json

import pytest
from casbin.rbac.default_role_manager.role_manager import DomainManager, RoleManager
from casbin.util import key_match, key_match2

from authz.pattern_machine import UnsupportedPatternError
from authz.role_graph import Hierarchy, Link, PatternMatcher, RoleGraph
from tests.support.paths import SHARED_DATA

PYCASBIN_LINKS = 9


def load_graphs():
    """Casbin's own; where they are not, only the test of them is left out."""
    path = SHARED_DATA / "casbin" / "role_graphs.json"
    return json.loads(path.read_text())["entries"] if path.exists() else []


@pytest.mark.parametrize("entry", load_graphs(), ids=lambda entry: entry["name"])
def test_casbin_role_graphs(entry):
    """Casbin's own role manager tests: every link and every list of roles and users."""
    links = [Link(*link) for link in entry["links"]]
    graph = RoleGraph(
        links,
        with_domains=any(link.domain for link in links),
        role_matcher=entry["role_matching"] and PatternMatcher(entry["role_matching"]),
        domain_matcher=entry["domain_matching"] and PatternMatcher(entry["domain_matching"]),
    )
    for case in entry["cases"]:
        match case["op"]:
            case "has_link":
                assert graph.has_link(*case["args"]) is case["expected"], case
            case "get_roles":
                assert set(graph.roles_of(*case["args"])) == set(case["expected"]), case
            case "get_users":
                name, *domain = case["args"]
                hierarchy = graph.hierarchy(*domain)
                found = {one for one in hierarchy.names() if name in graph.roles_of(one, *domain)}
                assert found == set(case["expected"]), case
            case other:
                pytest.fail(f"unknown operation {other}")


def chain(length: int) -> list[Link]:
    return [Link(f"n{place}", f"n{place + 1}") for place in range(length)]


@pytest.mark.parametrize("length", [1, 8, 9, 10, 11, 500])
def test_chains_are_followed_to_their_end(length):
    """PyCasbin stops after nine links; a chain is never cut silently here."""
    links = chain(length)
    manager = RoleManager(10)
    for link in links:
        manager.add_link(link.member, link.role)
    assert RoleGraph.build(links).has_link("n0", f"n{length}")
    assert manager.has_link("n0", f"n{length}") is (length <= PYCASBIN_LINKS)


def test_a_cycle_ends():
    """A cycle makes its names reach each other, and nothing runs for ever."""
    graph = RoleGraph.build([Link("a", "b"), Link("b", "c"), Link("c", "a")])
    assert all(graph.has_link(x, y) for x in "abc" for y in "abc")
    assert not graph.has_link("a", "d")


def test_the_path_is_a_shortest_one():
    """A decision can say how a subject reached a role."""
    graph = RoleGraph.build([Link("alice", "x"), Link("x", "y"), Link("y", "admin"), Link("alice", "y")])
    assert graph.closure("alice")["admin"] == ("alice", "y", "admin")
    assert graph.closure("alice")["alice"] == ("alice",)


def test_links_of_another_domain_do_not_hold():
    """Domains are worlds of their own; a domain without links knows nobody."""
    graph = RoleGraph.build([Link("alice", "admin", "d1"), Link("bob", "admin", "d2")])
    assert graph.has_link("alice", "admin", "d1")
    assert not graph.has_link("alice", "admin", "d2")
    assert not graph.has_link("alice", "admin", "unknown")
    assert not graph.has_link("alice", "admin")


def test_domain_patterns():
    """A link of domain `d*` holds in every domain that matches."""
    graph = RoleGraph([Link("alice", "admin", "d*")], with_domains=True, domain_matcher=PatternMatcher("keyMatch"))
    manager = DomainManager(10)
    manager.add_domain_matching_func(key_match)
    manager.add_link("alice", "admin", "d*")
    for domain in ("d1", "d*", "e", "*"):
        assert graph.has_link("alice", "admin", domain) is manager.has_link("alice", "admin", domain), domain


def test_role_patterns():
    """A link of pattern `/book/:id` holds for every name that matches, asked about for the first time."""
    links = [Link("/book/:id", "books"), Link("books", "things"), Link("alice", "/book/:id")]
    graph = RoleGraph(links, role_matcher=PatternMatcher("keyMatch2"))
    for name, role in [("/book/1", "books"), ("/book/1", "things"), ("/pen/1", "books"), ("alice", "/book/7")]:
        manager = RoleManager(10)
        manager.add_matching_func(key_match2)
        for link in links:
            manager.add_link(link.member, link.role)
        assert graph.has_link(name, role) is manager.has_link(name, role), (name, role)


def test_asking_leaves_nothing_behind():
    """A name in a request becomes no pattern for later requests, and takes no memory."""
    hierarchy = Hierarchy([Link("alice", "admin")], PatternMatcher("keyMatch"))
    before = list(hierarchy.names())
    for name in ("*", "ali*", "zoe"):
        hierarchy.reaches(name, "admin")
        hierarchy.reaches("alice", name)
    assert list(hierarchy.names()) == before
    graph = RoleGraph([Link("alice", "admin", "d1")], with_domains=True)
    for number in range(100):
        graph.has_link("alice", "admin", f"unknown{number}")
    assert not graph._hierarchies


def test_a_pattern_that_cannot_be_decided_is_an_error():
    """PyCasbin takes a back-reference as a role pattern; we do not guess."""
    with pytest.raises(UnsupportedPatternError):
        RoleGraph(
            [Link("alice", "admin"), Link(r"(a)\1", "admin")], role_matcher=PatternMatcher("regexMatch")
        ).has_link("aa", "admin")
