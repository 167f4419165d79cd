"""Where Kasbah answers otherwise than PyCasbin: every line of ADR 0002, tried on both.

Each case first shows what PyCasbin does, so that a corner that it closes one day is noticed here.
"""

import casbin
import pytest

from authz.casbin_oracle import CasbinOracle, parse_model
from authz.errors import ModelError
from authz.positional import Answer, PolicyRow, PositionalEngine, RoleFunction, Unanswered

ALLOW = "some(where (p.eft == allow))"
DENY_OVERRIDE = "!some(where (p.eft == deny))"
ALLOW_AND_DENY = f"{ALLOW} && !some(where (p.eft == deny))"
PRIORITY = "priority(p.eft) || deny"


class Both:
    """One model and policy in both engines."""

    def __init__(
        self,
        matcher,
        rows,
        *,
        request="sub, obj, act",
        policy="sub, obj, act",
        effect=ALLOW,
        roles="g = _, _",
        functions=(),
        context="",
        extra="",
    ):
        text = "\n".join(
            [
                *["[request_definition]", f"r = {request}", "[policy_definition]", f"p = {policy}"],
                *[
                    "[role_definition]",
                    roles,
                    "[policy_effect]",
                    f"e = {effect}",
                    "[matchers]",
                    f"m = {matcher}",
                    extra,
                ],
            ]
        )
        self.text = text
        self.rows = [PolicyRow(kind, tuple(values), f"p.csv:{n}") for n, (kind, *values) in enumerate(rows, start=1)]
        self.engine = PositionalEngine(parse_model(text), self.rows, functions=functions, context=context)
        self.oracle = CasbinOracle(text, self.rows, functions=functions, context=context)

    def pycasbin(self, *request):
        return self.oracle.ask(request).decision

    def kasbah(self, *request):
        answer = self.engine.decide(request)
        return answer.decision if isinstance(answer, Answer) else None

    def error(self, *request):
        answer = self.engine.decide(request)
        assert isinstance(answer, Unanswered)
        return answer.error


BASIC = "r.sub == p.sub && r.obj == p.obj && r.act == p.act"


def test_an_empty_policy_allows_no_empty_request():
    """PyCasbin evaluates the matcher once with empty values, which empty parts of a request equal."""
    both = Both(BASIC, [])
    assert both.pycasbin("", "", "") is True
    assert both.kasbah("", "", "") is False
    assert both.pycasbin("alice", "data1", "read") is both.kasbah("alice", "data1", "read") is False


@pytest.mark.parametrize(
    "matcher", ["r.obj != p.obj", "!(r.sub == p.sub)", "regexMatch(r.sub, p.sub)", "p.sub in r.sub"]
)
def test_an_empty_policy_allows_nothing_by_a_clause_about_rules(matcher):
    """Negations and patterns hold for the empty values, too."""
    both = Both(matcher, [])
    assert both.pycasbin("alice", "data1", "read") is True
    assert both.kasbah("alice", "data1", "read") is False


def test_an_empty_policy_and_a_clause_that_no_rule_changes():
    """`r.sub == "root"` holds for every row, and without one, as in Casbin."""
    both = Both(f"{BASIC} || r.sub == 'root'", [])
    assert both.pycasbin("root", "data1", "read") is both.kasbah("root", "data1", "read") is True
    assert both.pycasbin("bob", "data1", "read") is both.kasbah("bob", "data1", "read") is False


def test_an_empty_policy_and_a_matcher_that_is_no_boolean():
    """PyCasbin checks the type of a matcher's value only where there are rows."""
    both = Both("r.sub", [])
    assert both.pycasbin("alice", "data1", "read") is True
    assert both.kasbah("alice", "data1", "read") is None


@pytest.mark.parametrize("word", ["Deny", "denied", "dney", "", "DENY"])
def test_a_misspelt_deny_denies(word):
    """PyCasbin takes any other word for no effect, so that the allow beside it wins."""
    rows = [("p", "alice", "data1", "read", "allow"), ("p", "alice", "data1", "read", word)]
    for effect in (ALLOW_AND_DENY, DENY_OVERRIDE):
        both = Both(BASIC, rows, policy="sub, obj, act, eft", effect=effect)
        assert both.pycasbin("alice", "data1", "read") is True
        assert both.kasbah("alice", "data1", "read") is False
        assert both.engine.warnings()
    both = Both(BASIC, rows[::-1], policy="sub, obj, act, eft", effect=PRIORITY)
    assert both.pycasbin("alice", "data1", "read") is True
    assert both.kasbah("alice", "data1", "read") is False


def test_a_misspelt_allow_does_not_allow():
    """In neither."""
    both = Both(BASIC, [("p", "alice", "data1", "read", "Allow")], policy="sub, obj, act, eft")
    assert both.pycasbin("alice", "data1", "read") is both.kasbah("alice", "data1", "read") is False


@pytest.mark.parametrize("cell", ["True) || (True", "r.sub == 'alice') or (False", "1 == 1) || (r.nope"])
def test_a_cell_does_not_break_out_of_eval(cell):
    """PyCasbin pastes the cell into the matcher's text, so that a closing parenthesis ends the clause."""
    rows = [("p", cell, "data1", "read")]
    both = Both("eval(p.rule) && r.obj == p.obj && r.act == p.act", rows, policy="rule, obj, act")
    assert both.pycasbin("alice", "data1", "write") is True
    assert both.kasbah("alice", "data1", "write") is None
    assert "eval()" in both.error("alice", "data1", "write")


def test_an_empty_cell_of_eval_is_an_error():
    """PyCasbin pastes `()`, an empty tuple, which another clause may outvote."""
    rows = [("p", "", "data1", "read")]
    both = Both("eval(p.rule) || r.obj == p.obj", rows, policy="rule, obj, act")
    assert both.pycasbin("alice", "data1", "read") is True
    assert both.kasbah("alice", "data1", "read") is None


def test_a_comment_in_a_cell_of_eval_is_an_error_in_both():
    """It would swallow the rest of the matcher."""
    both = Both("eval(p.rule) && r.obj == p.obj", [("p", "True # x", "data1", "read")], policy="rule, obj, act")
    assert both.pycasbin("alice", "other", "read") is None
    assert both.kasbah("alice", "other", "read") is None


def test_long_chains_of_roles_are_followed():
    """PyCasbin stops after nine links: what stands behind them is lost, denials included."""
    rows = [("g", f"n{place}", f"n{place + 1}") for place in range(10)] + [("p", "n10", "data1", "read")]
    both = Both("g(r.sub, p.sub) && r.obj == p.obj", rows)
    assert both.pycasbin("n0", "data1", "read") is False
    assert both.kasbah("n0", "data1", "read") is True
    assert both.pycasbin("n1", "data1", "read") is both.kasbah("n1", "data1", "read") is True


def test_patterns_that_need_backtracking_are_errors():
    """Back-references and look-behind are not regular; their time cannot be bounded."""
    both = Both("regexMatch(r.obj, p.obj)", [("p", "alice", r"(a)\1", "read")])
    assert both.pycasbin("alice", "aa", "read") is True
    assert both.kasbah("alice", "aa", "read") is None


def test_names_that_were_asked_about_change_nothing():
    """In PyCasbin a name of an earlier request stays as a role, and as a pattern for later ones."""
    functions = [RoleFunction("g", "role", "keyMatch")]
    both = Both("g(r.sub, p.sub)", [("g", "/a/*", "admin"), ("p", "admin", "x", "x")], functions=functions)
    for name in ("*", "/a/1", "/*", "/a/1", "/b"):
        assert both.pycasbin(name, "x", "x") is both.kasbah(name, "x", "x"), name


def test_an_unknown_name_is_an_error_where_it_is_reached_in_both():
    """Both get to it only when what stands before it does not decide; here one is warned."""
    both = Both(f"{BASIC} || p.nope == 1", [("p", "alice", "data1", "read")])
    assert both.pycasbin("alice", "data1", "read") is both.kasbah("alice", "data1", "read") is True
    assert both.pycasbin("bob", "data1", "read") is both.kasbah("bob", "data1", "read") is None
    assert "unknown name" in both.engine.warnings()[0]


@pytest.mark.parametrize("clause", ["unknown(r.sub)", "r.sub.__class__ == 1", "open(r.sub)", "r.sub.encode() == 1"])
def test_a_matchers_constructs_are_checked_before_it_runs(clause):
    """PyCasbin raises, or runs it, only when it gets there."""
    with pytest.raises(ModelError):
        Both(f"{BASIC} || {clause}", [("p", "alice", "data1", "read")])


def test_attributes_that_are_python_methods_are_errors():
    """PyCasbin's evaluator finds `dict.items` before the key `items`, so that `!=` holds whatever the value is."""
    both = Both("r.sub.items != 3", [("p", "x", "x", "x")])
    assert both.pycasbin({"items": 3}, "x", "x") is True
    assert both.kasbah({"items": 3}, "x", "x") is None


@pytest.mark.parametrize(
    ("matcher", "pycasbin"),
    [
        ("'%0200000d' % 1 != r.sub", True),
        ("2 ** 20000 > 1", True),
        ("'a' * 100000 + 'b' != r.sub", None),
        ("[x for x in r.sub] != 1", "refused"),
        ("r.sub.replace('a', 'b') == 'x'", "refused"),
        ("f'{r.sub}' == p.sub", "refused"),
    ],
)
def test_bounds_are_tighter(matcher, pycasbin):
    """Numbers, texts and constructs that PyCasbin evaluates are errors, or refuse the model."""
    rows = [("p", "alice", "x", "x")]
    if pycasbin == "refused":
        with pytest.raises(ModelError):
            Both(matcher, rows)
        return
    both = Both(matcher, rows)
    assert both.pycasbin("alice", "x", "x") is pycasbin
    assert both.kasbah("alice", "x", "x") is None


@pytest.mark.parametrize("priorities", [("-1", "-10"), ("b", "a"), ("1.5", "1.25")])
def test_priorities_are_whole_numbers(priorities):
    """PyCasbin sorts others as text: `-1` comes before `-10`."""
    first, second = priorities
    rows = [("p", first, "alice", "data1", "read", "allow"), ("p", second, "alice", "data1", "read", "deny")]
    both = Both(BASIC, rows, policy="priority, sub, obj, act, eft", effect=PRIORITY)
    assert both.pycasbin("alice", "data1", "read") is not None
    assert both.kasbah("alice", "data1", "read") is None


def test_a_second_effect_that_differs_is_refused():
    """PyCasbin ignores `e2`; Casbin for Go applies it."""
    extra = f"m2 = {BASIC}\n[policy_effect]\ne2 = {PRIORITY}"
    with pytest.raises(ModelError, match="e2"):
        Both(BASIC, [("p", "alice", "data1", "read")], context="2", extra=extra)


def test_a_comment_behind_a_definition_is_a_comment():
    """PyCasbin makes it part of the last name: `eft` is no longer seen, and a deny allows."""
    rows = [("p", "alice", "data1", "read", "deny")]
    both = Both(BASIC, rows, policy="sub, obj, act, eft # effect")
    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=both.text))
    enforcer.model["p"]["p"].policy = [list(row[1:]) for row in rows]
    assert enforcer.enforce("alice", "data1", "read") is True
    assert both.pycasbin("alice", "data1", "read") is both.kasbah("alice", "data1", "read") is False


def test_links_with_conditions_are_refused():
    """`(_, _)` needs functions that a file cannot give."""
    with pytest.raises(ModelError, match="conditions"):
        Both("g(r.sub, p.sub)", [], roles="g = _, _, (_, _)")


@pytest.mark.parametrize("effect", [ALLOW, ALLOW_AND_DENY, PRIORITY, DENY_OVERRIDE])
@pytest.mark.parametrize("short", [("p", "alice", "data1"), ("p", "alice", "data1", "read", "allow", "more")])
def test_rows_of_the_wrong_length_are_errors_in_both(effect, short):
    """When, and only when, the row is reached."""
    rows = [("p", "alice", "data1", "read", "allow"), short, ("p", "bob", "data1", "read", "allow")]
    both = Both(BASIC, rows, policy="sub, obj, act, eft", effect=effect)
    for name in ("alice", "bob", "eve"):
        assert both.pycasbin(name, "data1", "read") is both.kasbah(name, "data1", "read")
    assert both.kasbah("bob", "data1", "read") is None


def test_short_links_are_errors_in_both():
    """The whole policy is unusable."""
    both = Both("g(r.sub, p.sub)", [("g", "alice"), ("p", "alice", "x", "x")])
    assert both.pycasbin("alice", "x", "x") is both.kasbah("alice", "x", "x") is None


@pytest.mark.parametrize("request_", [("alice",), ("alice", "data1", "read", "more"), ()])
def test_requests_of_the_wrong_length_are_errors_in_both(request_):
    """Never filled up, never cut."""
    both = Both(BASIC, [("p", "alice", "data1", "read")])
    assert both.pycasbin(*request_) is both.kasbah(*request_) is None


def test_deny_override_allows_what_nothing_denies():
    """With and without rows, as Casbin defines it; which is why it is not served."""
    for rows in ([], [("p", "bob", "data1", "read", "deny")]):
        both = Both(BASIC, rows, policy="sub, obj, act, eft", effect=DENY_OVERRIDE)
        assert both.pycasbin("eve", "data1", "read") is both.kasbah("eve", "data1", "read") is True
