"""The positional engine: determining rules, order, contexts, and models of many kinds beside PyCasbin."""

from datetime import datetime

import pytest

from authz.casbin_oracle import CasbinOracle, parse_model
from authz.effects import RowEffect, RowOutcome, Settled, settle
from authz.positional import Answer, PolicyRow, PositionalEngine
from authz.served_model import PolicyEffect

ALICE = {"Name": "alice", "Age": 30, "Roles": ["admin", "dev"]}


def model(matcher, *, request="sub, obj, act", policy="sub, obj, act", effect="some(where (p.eft == allow))", roles=""):
    role_section = ["[role_definition]", roles] if roles else []
    return "\n".join(
        [
            *["[request_definition]", f"r = {request}", "[policy_definition]", f"p = {policy}", *role_section],
            *["[policy_effect]", f"e = {effect}", "[matchers]", f"m = {matcher}"],
        ]
    )


def rows_of(*rows):
    return [PolicyRow(kind, tuple(values), f"p.csv:{n}") for n, (kind, *values) in enumerate(rows, start=1)]


def decide(text, rows, request, **kwargs):
    """Answer with both engines, which must agree, and return ours."""
    answer = PositionalEngine(parse_model(text), rows, **kwargs).decide(request)
    assert isinstance(answer, Answer), answer
    assert CasbinOracle(text, rows).ask(request).decision is answer.decision
    return answer


@pytest.mark.parametrize(
    ("matcher", "policy", "row", "request_", "decision"),
    [
        ("r.sub.Age > 18 && r.obj == p.obj", "obj", ["data1"], (ALICE, "data1", "read"), True),
        ("r.sub.Age > 60 && r.obj == p.obj", "obj", ["data1"], (ALICE, "data1", "read"), False),
        ("r.obj.Owner == r.sub", "sub", ["x"], ("alice", {"Owner": "alice"}, "read"), True),
        ("r.sub == r.obj.Owner && r.act == p.act", "act", ["read"], ("bob", {"Owner": "alice"}, "read"), False),
        (
            "eval(p.rule) && r.obj == p.obj",
            "rule, obj",
            ["r.sub.Age >= 18 && r.sub.Age < 60", "d"],
            (ALICE, "d", "x"),
            True,
        ),
        ("eval(p.rule) && r.obj == p.obj", "rule, obj", ["r.sub.Age < 18", "d"], (ALICE, "d", "x"), False),
        ("'admin' in r.sub.Roles && r.act == p.act", "act", ["read"], (ALICE, "d", "read"), True),
        ("p.role in r.sub.Roles", "role", ["dev"], (ALICE, "d", "read"), True),
        ("r.act in ('read', 'list') && r.obj == p.obj", "obj", ["d"], ("x", "d", "list"), True),
        ("ipMatch(r.sub, p.sub) && r.obj == p.obj", "sub, obj", ["10.0.0.0/8", "d"], ("10.9.8.7", "d", "x"), True),
        ("ipMatch(r.sub, p.sub)", "sub", ["10.0.0.0/8"], ("11.9.8.7", "d", "x"), False),
        ("keyMatch4(r.obj, p.obj)", "obj", ["/p/{id}/c/{id}"], ("x", "/p/1/c/2", "x"), False),
        ("globMatch(r.obj, p.obj)", "obj", ["/a/**"], ("x", "/a/b/c", "x"), True),
        ("r.sub == p.sub && !(r.act == 'delete')", "sub", ["x"], ("x", "d", "delete"), False),
        ("r.sub['Name'] == p.sub and r.sub.get('Nope', 1) == 1", "sub", ["alice"], (ALICE, "d", "x"), True),
        ("r.obj.startswith(p.obj)", "obj", ["/a"], ("x", "/abc", "x"), True),
        ("r.sub.Age * 1.0", "sub", ["x"], (ALICE, "d", "x"), True),
    ],
)
def test_models_of_many_kinds(matcher, policy, row, request_, decision):
    """Attributes, rules in cells, lists, networks, patterns: PyCasbin's answer, and the row that gave it."""
    answer = decide(model(matcher, policy=policy), rows_of(["p", *row]), request_)
    assert answer.decision is decision
    assert answer.rules == (("p.csv:1",) if decision else ())


BASIC = "r.sub == p.sub && r.obj == p.obj && r.act == p.act"
ALLOW_AND_DENY = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"


def test_all_matching_rows_determine():
    """All allows of an allow, all denies of a deny, nothing on a default deny."""
    rows = rows_of(
        ["p", "alice", "d", "read", "allow"],
        ["p", "alice", "d", "read", "allow"],
        ["p", "bob", "d", "read", "allow"],
        ["p", "bob", "d", "read", "deny"],
        ["p", "bob", "d", "read", "deny"],
    )
    text = model(BASIC, policy="sub, obj, act, eft", effect=ALLOW_AND_DENY)
    assert decide(text, rows, ("alice", "d", "read")) == Answer(decision=True, rules=("p.csv:1", "p.csv:2"))
    assert decide(text, rows, ("bob", "d", "read")) == Answer(decision=False, rules=("p.csv:4", "p.csv:5"))
    assert decide(text, rows, ("eve", "d", "read")) == Answer(decision=False)


def test_priority_goes_by_number_and_one_row_decides():
    """`10` comes after `9` and after `1`; equal priorities keep their order; one row determines."""
    rows = rows_of(
        ["p", "10", "alice", "d", "read", "deny"],
        ["p", "9", "alice", "d", "read", "allow"],
        ["p", "9", "alice", "d", "read", "deny"],
        ["p", "1", "alice", "d", "read", "indeterminate"],
    )
    text = model(BASIC, policy="priority, sub, obj, act, eft", effect="priority(p.eft) || deny")
    assert decide(text, rows, ("alice", "d", "read")) == Answer(decision=True, rules=("p.csv:2",))


def test_subject_priority_with_domains():
    """The rule of the lower subject in the hierarchy of its domain wins, wherever it stands."""
    rows = rows_of(
        ["p", "root", "d1", "d", "read", "deny"],
        ["p", "admin", "d1", "d", "read", "allow"],
        ["p", "alice", "d1", "d", "write", "deny"],
        ["p", "admin", "d1", "d", "write", "allow"],
        ["g", "admin", "root", "d1"],
        ["g", "alice", "admin", "d1"],
    )
    text = model(
        "g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.obj == p.obj && r.act == p.act",
        request="sub, obj, dom, act",
        policy="sub, dom, obj, act, eft",
        effect="subjectPriority(p.eft) || deny",
        roles="g = _, _, _",
    )
    assert decide(text, rows, ("alice", "d", "d1", "read")) == Answer(decision=True, rules=("p.csv:2",))
    assert decide(text, rows, ("alice", "d", "d1", "write")) == Answer(decision=False, rules=("p.csv:3",))


CONTEXTS = """[request_definition]
r = sub, obj, act
r2 = sub, obj
[policy_definition]
p = sub, obj, act
p2 = sub_rule, obj, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
e2 = some(where (p2.eft == allow))
[matchers]
m = g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act
m2 = eval(p2.sub_rule) && r2.obj == p2.obj
"""


def test_a_second_set_of_definitions():
    """`--context 2` asks r2, p2 and m2."""
    rows = rows_of(["p", "admin", "d", "read"], ["p2", "r2.sub.Age > 18", "d", "allow"], ["g", "alice", "admin"])
    parsed = parse_model(CONTEXTS)
    first, second = PositionalEngine(parsed, rows), PositionalEngine(parsed, rows, context="2")
    assert first.decide(("alice", "d", "read")) == Answer(decision=True, rules=("p.csv:1",))
    assert second.decide((ALICE, "d")) == Answer(decision=True, rules=("p.csv:2",))
    assert second.decide(({"Age": 3}, "d")) == Answer(decision=False)
    oracle = CasbinOracle(CONTEXTS, rows, context="2")
    assert oracle.ask((ALICE, "d")).decision is True
    assert oracle.ask(({"Age": 3}, "d")).decision is False


@pytest.mark.parametrize(
    ("start", "end", "decision"),
    [("_", "_", True), ("2026-01-01 00:00:00", "_", True), ("_", "2026-01-01 00:00:00", False), ("x", "_", None)],
)
def test_time_match(start, end, decision):
    """Local time strictly between two; bad times are errors."""
    engine = PositionalEngine(
        parse_model(model("timeMatch(p.sub, p.obj)", policy="sub, obj")),
        rows_of(["p", start, end]),
        clock=lambda: datetime(2026, 6, 1),  # noqa: DTZ001 - local, as PyCasbin's
    )
    answer = engine.decide(("x", "x", "x"))
    assert (answer.decision if isinstance(answer, Answer) else None) is decision


def test_an_error_counts_only_where_pycasbin_meets_it():
    """Rows behind the one that settles are not evaluated for the decision; rows before it are."""
    error = RowOutcome(0, error="broken")
    allow, deny = RowOutcome(1, RowEffect.ALLOW), RowOutcome(2, RowEffect.DENY)
    assert settle(PolicyEffect.ALLOW_OVERRIDE, [error, allow]) == Settled(allowed=False, error="broken")
    assert settle(PolicyEffect.ALLOW_OVERRIDE, [allow, error]) == Settled(allowed=True, determining=(1,))
    assert settle(PolicyEffect.ALLOW_AND_DENY, [allow, error]).error == "broken"
    assert settle(PolicyEffect.ALLOW_AND_DENY, [deny, error]) == Settled(allowed=False, determining=(2,))
    assert settle(PolicyEffect.PRIORITY, [deny, error, allow]) == Settled(allowed=False, determining=(2,))
    assert settle(PolicyEffect.DENY_OVERRIDE, [error]).error == "broken"


def test_an_error_to_the_left_of_an_index_key_is_met():
    """A row that the index would leave out raises in PyCasbin first; there is none that it would take."""
    rows = rows_of(["p", "10.0.0.0/8", "other"])
    for matcher in ("ipMatch(r.sub, p.sub) && r.obj == p.obj", "r.sub.Age > 18 && r.obj == p.obj"):
        text = model(matcher, policy="sub, obj")
        engine, oracle = PositionalEngine(parse_model(text), rows), CasbinOracle(text, rows)
        assert not isinstance(engine.decide(("nonsense", "d", "x")), Answer)
        assert oracle.ask(("nonsense", "d", "x")).decision is None


def test_the_oracle_forgets_what_it_was_asked():
    """Names and domains of requests neither stay in memory nor change later answers."""
    text = model("g(r.sub, p.sub, r.dom)", request="sub, dom", policy="sub", roles="g = _, _, _")
    oracle = CasbinOracle(text, rows_of(["p", "admin"], ["g", "alice", "admin", "d1"]))
    for number in range(50):
        assert oracle.ask((f"u{number}", f"d{number % 3}")).decision is False
    manager = oracle._enforcer.model["g"]["g"].rm._manager
    assert set(manager.rm_map) <= {"d1"}
    assert set(manager.rm_map["d1"].all_roles) == {"alice", "admin"}
    assert oracle.ask(("alice", "d1")).decision is True


@pytest.mark.parametrize("roles", ["g = _, _, _", "g = _, _"])
def test_the_oracle_takes_links_for_one_question(roles):
    """With them it answers as one that is loaded with them; afterwards it is as it was, also the links it had."""
    domain = ("d1",) if roles == "g = _, _, _" else ()
    matcher = "g(r.sub, p.sub, r.dom)" if domain else "g(r.sub, p.sub)"
    text = model(matcher, request="sub, dom", policy="sub", roles=roles)
    rows = rows_of(["p", "admin"], ["p", "boss"], ["g", "lead", "admin", *domain], ["g", "carol", "lead", *domain])
    oracle = CasbinOracle(text, rows)
    own = [*rows_of(["g", "bob", "lead", *domain]), *rows_of(["g", "carol", "lead", *domain])]
    loaded = CasbinOracle(text, [*rows, *own])
    for _ in range(2):
        for name in ("bob", "carol", "lead", "dave"):
            for links, other in (((), CasbinOracle(text, rows)), (own, loaded)):
                assert oracle.ask((name, "d1"), links) == other.ask((name, "d1"))
    outer = oracle._enforcer.model["g"]["g"].rm._manager
    manager = outer.rm_map["d1"] if domain else outer
    assert set(manager.all_roles) == {"admin", "lead", "carol"}
    assert len(manager.all_links) == 2
    assert not manager.all_roles["admin"].roles


def test_a_second_policy_that_is_asked_with_the_first_request():
    """`--context 2` with p2 and m2 alone uses `r`; a name of the other policy is an error where it is reached."""
    text = (
        model("g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act", roles="g = _, _")
        .replace("p = sub, obj, act", "p = sub, obj, act\np2 = role, action")
        .replace("[matchers]", "[matchers]\nm2 = g(r.sub, p2.role) && r.act == p.act")
    )
    rows = rows_of(["p", "admin", "d", "read"], ["p2", "admin", "read"], ["g", "alice", "admin"])
    engine, oracle = PositionalEngine(parse_model(text), rows, context="2"), CasbinOracle(text, rows, context="2")
    assert engine.decide(("bob", "d", "read")) == Answer(decision=False)
    assert oracle.ask(("bob", "d", "read")).decision is False
    assert not isinstance(engine.decide(("alice", "d", "read")), Answer)
    assert oracle.ask(("alice", "d", "read")).decision is None
