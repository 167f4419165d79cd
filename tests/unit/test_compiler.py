"""Served models: what the index decides, what stays to be evaluated, and what is not fit to be served."""

import pytest

from authz.casbin_oracle import parse_model
from authz.compiler import compile_served
from authz.errors import ModelError
from authz.served_model import ColumnMatch, PolicyEffect

DEFAULT = (
    "(g(r.sub, p.sub, r.dom) || keyMatch(r.sub, p.sub)) && (p.dom == r.dom || p.dom == '*') "
    "&& keyMatch(r.obj, p.obj) && (p.act == '*' || r.act == p.act)"
)
ALLOW = "some(where (p.eft == allow))"
ALLOW_AND_DENY = f"{ALLOW} && !some(where (p.eft == deny))"
PRIORITY = "priority(p.eft) || deny"


def model(
    matcher=DEFAULT,
    *,
    request="sub, dom, obj, act",
    policy="sub, dom, obj, act, eft, cond",
    roles="g = _, _, _",
    effect=ALLOW_AND_DENY,
    extra="",
):
    return "\n".join(
        [
            *["[request_definition]", f"r = {request}", "[policy_definition]", f"p = {policy}"],
            *["[role_definition]", roles, "[policy_effect]", f"e = {effect}", "[matchers]", f"m = {matcher}", extra],
        ]
    )


def served(*args, **kwargs):
    return compile_served(parse_model(model(*args, **kwargs)), "digest")


def test_the_default_model_is_decided_by_its_index():
    """Nothing is left to evaluate for each candidate."""
    found = served()
    assert found.effect is PolicyEffect.ALLOW_AND_DENY
    assert found.columns == ("sub", "dom", "obj", "act", "eft", "cond")
    assert found.subject == ColumnMatch(prefix=True, roles="g")
    assert found.resource == ColumnMatch(prefix=True)
    assert found.action == ColumnMatch(exact=True, star=True)
    assert found.residual is None
    assert found.notes == ()
    assert found.digest == "digest"


@pytest.mark.parametrize(
    ("kwargs", "resource", "action"),
    [
        ({"effect": ALLOW}, ColumnMatch(prefix=True), ColumnMatch(exact=True, star=True)),
        ({"effect": PRIORITY, "policy": "priority, sub, dom, obj, act, eft"}, ColumnMatch(prefix=True), None),
        ({"matcher": DEFAULT.replace("keyMatch(r.obj, p.obj)", "r.obj == p.obj")}, ColumnMatch(exact=True), None),
        (
            {
                "matcher": DEFAULT.replace("keyMatch(r.obj, p.obj)", "g2(r.obj, p.obj)"),
                "roles": "g = _, _, _\ng2 = _, _",
            },
            ColumnMatch(roles="g2"),
            None,
        ),
        (
            {"matcher": DEFAULT.replace(" && (p.dom == r.dom || p.dom == '*')", ""), "policy": "sub, obj, act"},
            ColumnMatch(prefix=True),
            None,
        ),
        (
            {"matcher": DEFAULT.replace("keyMatch(r.obj, p.obj)", "(p.obj == r.obj || p.obj == '*')")},
            ColumnMatch(exact=True, star=True),
            None,
        ),
        (
            {"matcher": DEFAULT.replace("(p.act == '*' || r.act == p.act)", "p.act == r.act")},
            None,
            ColumnMatch(exact=True),
        ),
    ],
)
def test_relatives_of_the_default_model(kwargs, resource, action):
    """Other effects, exact resources, resource roles, no column for the tenant: all by index alone."""
    found = served(**kwargs)
    assert found.residual is None
    assert resource is None or found.resource == resource
    assert action is None or found.action == action


def test_what_cannot_be_indexed_is_evaluated():
    """And said in the notes, for lint."""
    found = served(
        DEFAULT.replace("keyMatch(r.obj, p.obj)", "keyMatch3(r.obj, p.obj)").replace(
            "(p.act == '*' || r.act == p.act)", "regexMatch(r.act, p.act)"
        )
    )
    assert not found.resource.indexed
    assert not found.action.indexed
    assert len(found.notes) == 2
    assert found.residual is not None
    row = ("user:a", "acme", "doc:/{id}", "(read|write)$")
    assert found.residual("user:a", "acme", "doc:/7", "read", *row) is True
    assert found.residual("user:a", "acme", "doc:/7/x", "read", *row) is False
    with pytest.raises(ValueError, match="pattern"):
        found.residual("user:a", "acme", "doc:/7", "read", "user:a", "acme", "doc:[", "read")


def test_a_model_for_own_rows_only_leaves_the_base_out():
    """`p.dom == r.dom` alone never matches a row of domain `*`."""
    found = served(DEFAULT.replace("(p.dom == r.dom || p.dom == '*')", "r.dom == p.dom"))
    assert found.residual is not None
    assert found.residual("user:a", "acme", "o:1", "x", "user:a", "acme", "o:1", "x") is True
    assert found.residual("user:a", "acme", "o:1", "x", "user:a", "*", "o:1", "x") is False
    assert found.notes


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"effect": "!some(where (p.eft == deny))"}, "whatever no rule denies"),
        ({"effect": "subjectPriority(p.eft) || deny"}, "order in which links are loaded"),
        ({"effect": "some(where(p.eft == allow))"}, "unknown policy effect"),
        ({"matcher": "eval(p.cond) && " + DEFAULT}, "eval() is not served"),
        ({"matcher": DEFAULT.replace("keyMatch(r.obj", "keyMatch2(r.obj")}, "keyMatch2 reads `:`"),
        ({"matcher": DEFAULT + " || r.sub == 'user:root'"}, "only as a clause of one column"),
        ({"matcher": "r.sub == 'user:root'"}, "no clause binds r.sub"),
        ({"matcher": DEFAULT.replace("keyMatch(r.obj, p.obj) && ", "")}, "no clause binds r.obj"),
        ({"matcher": DEFAULT.replace(" && (p.dom == r.dom || p.dom == '*')", "")}, "binds p.dom to the tenant"),
        ({"matcher": DEFAULT.replace("p.dom == '*'", "p.dom == 'x'")}, "binds p.dom to the tenant"),
        ({"matcher": DEFAULT.replace("p.sub, r.dom", "p.sub")}, "served as g(r.sub, p.sub, r.dom) only"),
        ({"matcher": DEFAULT.replace("g(r.sub, p.sub, r.dom)", "g(p.sub, r.sub, r.dom)")}, "served as g("),
        ({"matcher": DEFAULT + " && !g(r.sub, p.sub, r.dom)"}, "only as a clause of one column"),
        ({"matcher": DEFAULT + " && p.eft == 'allow'"}, "does not look at p.eft"),
        ({"matcher": DEFAULT + " && timeMatch('_', '_')"}, "timeMatch is not served"),
        ({"matcher": DEFAULT + " && r.nope == 1"}, "unknown name"),
        ({"matcher": DEFAULT + " && r.sub.__class__ == 1"}, "not allowed"),
        ({"request": "sub, obj, act", "matcher": "r.sub == p.sub"}, "a served request is"),
        ({"policy": "sub, dom, obj, act, eft, owner"}, "do not have the columns: owner"),
        ({"policy": "sub, dom, obj, act, act"}, "comes twice"),
        ({"policy": "sub, dom, obj, eft"}, "lacks the columns: act"),
        ({"policy": "sub, dom, obj, act, eft x"}, "`eft x` in the definition `p` is not a name"),
        ({"roles": "g = _, _, (_, _)"}, "links with conditions"),
        ({"roles": "g = _, _, _, _"}, "links with conditions"),
        ({"roles": "g = _, _, _\ng2 = _, _\ng3 = _, _"}, "`g3` is not served"),
        ({"extra": "m2 = r.sub == p.sub"}, "one matcher definition"),
    ],
)
def test_what_is_not_fit_to_be_served(kwargs, reason):
    """Refused with the reason."""
    with pytest.raises(ModelError) as caught:
        served(**kwargs)
    assert reason in str(caught.value)


@pytest.mark.parametrize("comment", [" # effect", "  ; effect, and more", "#x"])
def test_comments_behind_definitions_are_comments(comment):
    """PyCasbin would make them part of the last name and no longer see `eft`."""
    found = served(policy=f"sub, dom, obj, act, eft{comment}", request=f"sub, dom, obj, act{comment}")
    assert found.columns == ("sub", "dom", "obj", "act", "eft")


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[matchers]\nm = r.sub == p.sub", model().replace("[matchers]", "[matcher]"), "x" * 100_000],
)
def test_models_that_cannot_be_read(text):
    """Missing sections and garbage are model errors."""
    with pytest.raises(ModelError):
        parse_model(text)
