"""Hypothesis strategies for Casbin models, policies and requests, hostile ones included."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from authz.positional import PolicyRow, RoleFunction

REQUESTS_PER_WORLD = 50

NAMES = ["alice", "bob", "admin", "root", "editor", "/a/1", "/a/:id", "/a/*", "*", ""]
OBJECTS = ["data1", "data2", "/a/1", "/a/2/b", "/a", "/a/1?x=y", "a.c", "abc", "/a/1\n", "é", ""]
PATTERNS = [
    "data1",
    "/a/*",
    "/a/:id",
    "/a/{id}",
    "/a/{id}/{id}",
    "*",
    "a.c",
    "[",
    "(data1|abc)",
    "/**",
    "{a,b}*",
    "a+b",
]
ACTIONS = ["read", "write", "*", "(read)|(write)", "re", "read|[", ".*"]
DOMAINS = ["d1", "d2", "*", "d*", ""]
ADDRESSES = ["192.168.0.1", "10.0.0.7", "::1", "nonsense"]
NETWORKS = ["192.168.0.0/16", "10.0.0.7", "nonsense", "::/0"]
OBJECT_VALUES: list[Any] = [
    {"Age": 20, "Name": "alice", "Owner": "alice", "Role": {"Level": 3}},
    {"Age": 7, "Name": "bob", "Owner": "bob"},
    {"Age": "20"},
    {"items": 3, "Owner": None},
    {},
]
ODD_VALUES: list[Any] = [0, 1, 1.5, True, None, [], ["alice", "data1"], *OBJECT_VALUES]
RULES = [
    *["r.sub == 'alice'", "r.sub == p.sub || r.obj == p.obj", "keyMatch(r.obj, '/a/*')", "!(r.sub == 'bob')", "True"]
    * 4,
    "r.sub.Age > 18",
    "r.sub.Age > 18 && r.sub.Age < 60",
    "r.obj.Owner == r.sub.Name",
    "False",
    "1",
    "",
    "r.sub.Nope == 1",
    "unknown == 1",
    "unknown(r.sub)",
    "foo(",
    "True # comment",
    "r.sub.Role.Level >= 3",
    "r.sub.items == 3",
    "eval(p.rule)",
]

SUBJECT_CLAUSES = [
    "r.sub == p.sub",
    "g(r.sub, p.sub)",
    "g(r.sub, p.sub, r.dom)",
    "(g(r.sub, p.sub) || p.sub == '*')",
    "(g(r.sub, p.sub, r.dom) || keyMatch(r.sub, p.sub))",
    "keyMatch(r.sub, p.sub)",
    "!(r.sub == p.sub)",
    "!g(r.sub, p.sub)",
    "r.sub in ('alice', 'bob')",
    "r.sub.startswith(p.sub)",
    "p.sub in r.sub",
    "g('alice', p.sub)",
    "r.sub.Age > 18",
    "r.sub.Name == p.sub",
    "r.sub == r.obj.Owner",
    "r.sub",
]
OBJECT_CLAUSES = [
    "r.obj == p.obj",
    "p.obj == r.obj",
    "keyMatch(r.obj, p.obj)",
    "keyMatch2(r.obj, p.obj)",
    "keyMatch3(r.obj, p.obj)",
    "keyMatch4(r.obj, p.obj)",
    "keyMatch5(r.obj, p.obj)",
    "globMatch(r.obj, p.obj)",
    "regexMatch(r.obj, p.obj)",
    "g2(r.obj, p.obj)",
    "r.obj in ['data1', 'data2']",
    "r.obj[0:2] == p.obj[0:2]",
    "r.obj != p.obj",
    "(r.obj == p.obj || keyMatch2(r.obj, p.obj))",
]
ACTION_CLAUSES = [
    "r.act == p.act",
    "(p.act == '*' || r.act == p.act)",
    "regexMatch(r.act, p.act)",
    "r.act in ('read', 'write')",
    "ipMatch(r.act, p.act)",
    "r.act != 'write'",
]
DOMAIN_CLAUSES = ["r.dom == p.dom", "(p.dom == r.dom || p.dom == '*')", "keyMatch(r.dom, p.dom)"]
EXTRA_CLAUSES = [
    "r.sub == 'root'",
    "r.sub != r.obj",
    "p.act != 'write'",
    "not r.sub == 'bob'",
    "'read' in [r.act, p.act]",
    "1 + 1 == 2",
    "eval(p.rule)",
    "True",
    "1.5",
    "0.0",
    "1 / 0 == 1",
]
EFFECTS = [
    "some(where (p.eft == allow))",
    "!some(where (p.eft == deny))",
    "some(where (p.eft == allow)) && !some(where (p.eft == deny))",
    "priority(p.eft) || deny",
    "subjectPriority(p.eft) || deny",
]
ROLE_FUNCTIONS = ["keyMatch", "keyMatch2", "keyMatch3", "keyMatch4", "keyMatch5", "globMatch", "regexMatch"]


@dataclass(frozen=True)
class World:
    """A model, its policy, and what is asked."""

    model: str
    rows: tuple[PolicyRow, ...]
    functions: tuple[RoleFunction, ...]
    requests: tuple[tuple[Any, ...], ...]


@st.composite
def worlds(draw: st.DrawFn, requests: int = REQUESTS_PER_WORLD) -> World:
    """Draw a world; about one in ten has a clause that always fails, a broken row, or no rows."""
    with_domains = draw(st.booleans())
    columns = ["sub", *(["dom"] if with_domains else []), "obj", "act"]
    held = list(columns)
    extras = draw(st.sets(st.sampled_from(["eft", "priority", "rule"])))
    held += sorted(extras)
    matcher = draw(matchers(with_domains=with_domains, with_rule="rule" in extras))
    model = "\n".join(
        [
            "[request_definition]",
            f"r = {', '.join(columns)}",
            "[policy_definition]",
            f"p = {', '.join(held)}",
            "[role_definition]",
            "g = _, _, _" if with_domains else "g = _, _",
            "g2 = _, _",
            "[policy_effect]",
            f"e = {draw(st.sampled_from(EFFECTS))}",
            "[matchers]",
            f"m = {matcher}",
        ]
    )
    functions = draw(role_functions(with_domains=with_domains))
    links = draw(role_links(with_domains=with_domains))
    fewest = 0 if draw(st.integers(0, 19)) == 0 else 2
    policy = draw(st.lists(st.tuples(*(cells(name) for name in held)), min_size=fewest, max_size=10))
    rows = [PolicyRow("p", values, f"p.csv:{number}") for number, values in enumerate(policy, start=1)]
    if rows and draw(st.integers(0, 19)) == 0:
        place = draw(st.integers(0, len(rows) - 1))
        rows[place] = PolicyRow("p", rows[place].values[:-1], rows[place].source)
    asked = draw(st.lists(st.tuples(*(values(name) for name in columns)), min_size=requests, max_size=requests))
    return World(model, (*rows, *links), functions, tuple(asked))


@st.composite
def matchers(draw: st.DrawFn, *, with_domains: bool, with_rule: bool) -> str:
    """Draw a matcher over the columns that there are."""
    subject = [clause for clause in SUBJECT_CLAUSES if with_domains or "r.dom" not in clause]
    clauses = [draw(mostly_first(subject)), draw(mostly_first(OBJECT_CLAUSES)), draw(mostly_first(ACTION_CLAUSES))]
    if with_domains:
        clauses.append(draw(st.sampled_from(DOMAIN_CLAUSES)))
    if with_rule and draw(st.booleans()):
        clauses.append("eval(p.rule)")
    extra = [clause for clause in EXTRA_CLAUSES if with_rule or "eval" not in clause]
    if draw(st.integers(0, 3)) == 0:
        clauses.append(draw(mostly_first(extra)))
    clauses = draw(st.permutations(clauses))[: draw(st.integers(1, len(clauses)))]
    joint = " && ".join(clauses)
    shape = draw(st.integers(0, 9))
    if shape == 0:
        return f"{joint} || r.sub == 'root'"
    if shape == 1:
        return f"!({joint})"
    if shape == 2:
        return " || ".join(clauses)
    if shape == 3 and len(clauses) > 1:
        return f"({clauses[0]} || {clauses[-1]}) && {joint}"
    return joint


def mostly_first(clauses: list[str]) -> st.SearchStrategy[str]:
    """Return a strategy in which the clauses of ordinary models, which come first, are frequent."""
    half = max(1, len(clauses) // 2)
    return st.one_of(st.sampled_from(clauses[:half]), st.sampled_from(clauses[:half]), st.sampled_from(clauses))


def cells(name: str) -> st.SearchStrategy[str]:
    """Return what stands in a policy column."""
    match name:
        case "sub":
            return st.sampled_from(NAMES)
        case "dom":
            return st.sampled_from(DOMAINS)
        case "obj":
            return st.sampled_from(PATTERNS + OBJECTS)
        case "act":
            return st.sampled_from(ACTIONS + NETWORKS)
        case "eft":
            return st.sampled_from(["allow", "allow", "deny", "indeterminate"])
        case "priority":
            return st.sampled_from(["1", "2", "10", "10", "3"])
        case _:
            return st.sampled_from(RULES)


def values(name: str) -> st.SearchStrategy[Any]:
    """Return what stands in a request column: mostly text, sometimes anything JSON has."""
    texts = {"sub": NAMES, "dom": DOMAINS, "obj": OBJECTS, "act": ACTIONS + ADDRESSES}[name]
    odd = OBJECT_VALUES + ODD_VALUES if name in {"sub", "obj"} else ODD_VALUES
    return st.sampled_from(texts * (1 + 15 * len(odd) // len(texts)) + odd)


@st.composite
def role_links(draw: st.DrawFn, *, with_domains: bool) -> tuple[PolicyRow, ...]:
    """Draw `g` and `g2` rows."""
    member = st.sampled_from([*NAMES, "d1"])
    shape = (member, member, st.sampled_from(DOMAINS)) if with_domains else (member, member)
    links = draw(st.lists(st.tuples(*shape), max_size=6))
    grouped = draw(st.lists(st.tuples(st.sampled_from(OBJECTS + PATTERNS), st.sampled_from(PATTERNS)), max_size=4))
    rows = [PolicyRow("g", values, f"g.csv:{number}") for number, values in enumerate(links)]
    return (*rows, *(PolicyRow("g2", values, f"g2.csv:{number}") for number, values in enumerate(grouped)))


@st.composite
def role_functions(draw: st.DrawFn, *, with_domains: bool) -> tuple[RoleFunction, ...]:
    """Draw matching functions for about half of the worlds."""
    sides = [("g", "role"), ("g2", "role"), *([("g", "domain")] if with_domains else [])]
    chosen = [one for one in sides if draw(st.integers(0, 3)) == 0]
    return tuple(RoleFunction(*one, draw(st.sampled_from(ROLE_FUNCTIONS))) for one in chosen)
