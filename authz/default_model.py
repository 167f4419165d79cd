"""The model of a new installation, and of policy directories that bring none."""

DEFAULT_MODEL_TEXT = """\
[request_definition]
r = sub, dom, obj, act

[policy_definition]
p = sub, dom, obj, act, eft, cond

[role_definition]
g = _, _, _

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = (g(r.sub, p.sub, r.dom) || keyMatch(r.sub, p.sub)) && (p.dom == r.dom || p.dom == "*") \
&& keyMatch(r.obj, p.obj) && (p.act == "*" || r.act == p.act)
"""
