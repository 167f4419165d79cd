"""`ANY /v1/forward-auth`: gateways ask, and paths are judged in one spelling only."""

from dataclasses import replace
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from yarl import URL as URL_OF

from authn.sessions import Acr, make_token
from authz.errors import AuthzError, StaleError, StorageUnavailableError
from service.http.forward_auth import RefusedError, parse_host, parse_method, parse_path
from service.http_settings import ForwardAuthSettings, HttpSettings
from tests.support.edge import Edge
from tests.support.sign_ins import SessionsInMemory, demanding

POLICY = """
p role:reader url:app.example/reports/* GET
p role:reader url:app.example/ GET
p role:reader url:app.example/grüße GET
p user:alice url:app.example/* POST
p user:* url:app.example/reports/secret* GET deny
g user:alice role:reader
"""
URL = "/v1/forward-auth"


@pytest.fixture
async def edge():
    made = Edge()
    made.acme = made.tenant("acme", POLICY)
    made.key_check = made.key(made.acme, "decision:check")
    async with made.serving():
        yield made


def nginx(edge, uri="/reports/1", method="GET", host="app.example", subject="alice", **more):
    """Return what nginx sends."""
    sent = {
        "X-Kasbah-Key": edge.key_check,
        "X-Kasbah-Subject": subject,
        "X-Original-Method": method,
        "X-Original-Host": host,
        "X-Original-URI": uri,
    }
    return {name: value for name, value in (sent | more).items() if value is not None}


async def test_nginx_asks_with_its_headers(edge):
    """200 or 403; the query is no part of the resource."""
    assert (await edge.get(URL, headers=nginx(edge))).status == 200
    assert (await edge.get(URL, headers=nginx(edge, uri="/reports/1?x=/../..//;y"))).status == 200
    assert (await edge.get(URL, headers=nginx(edge, uri="/reports/secret"))).status == 403
    assert (await edge.get(URL, headers=nginx(edge, uri="/other"))).status == 403
    assert (await edge.get(URL, headers=nginx(edge, method="POST", uri="/other"))).status == 200
    assert (await edge.get(URL, headers=nginx(edge, subject="bob"))).status == 403
    assert (await edge.get(URL, headers=nginx(edge, host="other.example"))).status == 403
    assert (await edge.get(URL, headers=nginx(edge, host="APP.example:8443"))).status == 200
    answer = await edge.get(URL, headers=nginx(edge, uri="/gr%C3%BC%c3%9fe"))
    assert (answer.status, answer.headers["Kasbah-Revision"]) == (200, "7")


async def test_traefik_asks_with_its_headers(edge):
    """The same, by other names."""
    sent = {"X-Kasbah-Key": edge.key_check, "X-Kasbah-Subject": "alice", "X-Forwarded-Method": "GET"}
    sent |= {"X-Forwarded-Host": "app.example", "X-Forwarded-Uri": "/reports/1?a=b"}
    assert (await edge.get(URL, headers=sent)).status == 200
    assert (await edge.get(URL, headers=sent | {"X-Forwarded-Uri": "/reports/secret"})).status == 403


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_envoy_asks_with_the_original_path_method_and_host(edge, method):
    """`/v1/forward-auth` before the path."""
    headers = {"X-Kasbah-Key": edge.key_check, "X-Kasbah-Subject": "alice", "Host": "app.example"}
    expected = {"GET": 200, "POST": 200}.get(method, 403)
    async with edge.client.request(method, f"{URL}/reports/1?tenant=other&x=y", headers=headers) as response:
        assert response.status == expected
    async with edge.client.request(method, f"{URL}/", headers=headers) as response:
        assert response.status == expected


@pytest.mark.parametrize("path", ["a%0Ab", "a%0d", "%E2%80%A8", "a//b", "a/%2e%2e/b", "a%2fb", "a;b", "a%00"])
async def test_envoys_path_is_judged_as_it_was_sent(edge, path):
    """Before any framework decodes or tidies it."""
    headers = {"X-Kasbah-Key": edge.key_check, "X-Kasbah-Subject": "alice", "Host": "app.example"}
    async with edge.client.post(URL_OF(f"{edge.url}{URL}/{path}", encoded=True), headers=headers) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    "spoofed",
    [
        {"X-Forwarded-Uri": "/reports/1"},
        {"X-Forwarded-Method": "GET", "X-Forwarded-Host": "app.example", "X-Forwarded-Uri": "/reports/1"},
    ],
)
async def test_headers_that_disagree_are_refused(edge, spoofed):
    """What the gateway did not overwrite can only make an answer worse, never better."""
    assert (await edge.get(URL, headers=nginx(edge, uri="/reports/secret", **spoofed))).status == 403
    assert (await edge.get(URL, headers=nginx(edge, host="other.example", **spoofed))).status == 403
    headers = {"X-Kasbah-Key": edge.key_check, "X-Kasbah-Subject": "alice", "Host": "app.example"} | spoofed
    async with edge.client.get(f"{URL}/reports/secret", headers=headers) as response:
        assert response.status == 403


@pytest.mark.parametrize("missing", ["X-Original-Method", "X-Original-Host", "X-Original-URI"])
async def test_a_gateway_that_leaves_something_out_is_refused(edge, missing):
    """So a wrong configuration shows at once."""
    assert (await edge.get(URL, headers=nginx(edge, **{missing: None}))).status == 403


async def test_without_a_key_or_a_subject_it_is_401(edge):
    """The key comes in the gateway's own header only."""
    for headers in (
        nginx(edge, **{"X-Kasbah-Key": None}),
        nginx(edge, **{"X-Kasbah-Key": "kasbah_00000000_" + "x" * 43}),
        nginx(edge, **{"X-Kasbah-Key": None, "Authorization": f"Bearer {edge.key_check}"}),
        nginx(edge, subject=""),
        nginx(edge, subject=None),
    ):
        answer = await edge.get(URL, headers=headers)
        assert answer.status == 401
        assert "WWW-Authenticate" in answer.headers


async def test_repeated_headers_are_refused(edge):
    """Gateways and backends take different ones."""
    for name in ("X-Kasbah-Key", "X-Kasbah-Subject", "X-Original-URI", "X-Original-Host", "X-Original-Method"):
        headers = [*nginx(edge).items(), (name, nginx(edge)[name])]
        async with edge.client.get(URL, headers=headers) as response:
            assert response.status == 403


async def test_a_subject_header_cannot_name_a_role(edge):
    """Its text is an id, whatever it looks like."""
    for subject in ("role:reader", "user:alice", "alice\u2028", "x" * 3000):
        assert (await edge.get(URL, headers=nginx(edge, subject=subject))).status == 403


async def test_a_key_without_the_scope_or_of_another_tenant_is_403(edge):
    """And a platform key must name a tenant, in its header."""
    assert (
        await edge.get(URL, headers=nginx(edge, **{"X-Kasbah-Key": edge.key(edge.acme, "policy:read")}))
    ).status == 403
    assert (await edge.get(URL, headers=nginx(edge, **{"X-Tenant-ID": "other"}))).status == 403
    platform = edge.key(None)
    assert (await edge.get(URL, headers=nginx(edge, **{"X-Kasbah-Key": platform}))).status == 403
    assert (await edge.get(URL, headers=nginx(edge, **{"X-Kasbah-Key": platform, "X-Tenant-ID": "none"}))).status == 403
    assert (await edge.get(URL, headers=nginx(edge, **{"X-Kasbah-Key": platform, "X-Tenant-ID": "acme"}))).status == 200


@pytest.mark.parametrize("failure", [StaleError("x"), StorageUnavailableError("x"), RuntimeError("x"), ValueError("x")])
async def test_every_failure_is_503(edge, failure):
    """Never 500, which a gateway could read as its own, and never 200."""
    edge.node.failure = failure
    with capture_logs() as logs:
        answer = await edge.get(URL, headers=nginx(edge))
    assert answer.status == 503
    (told,) = [entry for entry in logs if entry["event"] == "forward_auth.failed"]
    known = isinstance(failure, AuthzError)  # an outage is no bug: one line each, no traceback
    assert (told["log_level"], "exc_info" in told) == (("warning", False) if known else ("error", True))
    edge.node.failure = None
    edge.keys.failure = failure
    other = nginx(edge, **{"X-Kasbah-Key": "kasbah_00000000_" + "y" * 43})
    assert (await edge.get(URL, headers=other)).status == 503


async def test_a_suspended_tenant_is_403(edge):
    """Fail closed."""
    edge.suspend(edge.acme)
    assert (await edge.get(URL, headers=nginx(edge))).status == 403


async def test_header_names_are_settings():
    """A deployment names its own, and then others count for nothing."""
    own = ForwardAuthSettings(subject_header="X-User", uri_headers=("X-Path",), subject_type="account")
    made = Edge(HttpSettings(forward_auth=own))
    made.acme = made.tenant("acme", "p account:alice url:app.example/a GET")
    made.key_check = made.key(made.acme)
    async with made.serving() as edge:
        good = {"X-User": "alice", "X-Path": "/a", "X-Kasbah-Subject": "bob", "X-Original-URI": "/b"}
        assert (await edge.get(URL, headers=nginx(edge, **good))).status == 200
        assert (await edge.get(URL, headers=nginx(edge, **good | {"X-User": "bob"}))).status == 403


PATHS = [
    ("/", "/"),
    ("/a/b", "/a/b"),
    ("/a/b/", "/a/b/"),
    ("/a?b", "/a"),
    ("/a?", "/a"),
    ("/a%20b", "/a b"),
    ("/%61", "/a"),
    ("/a.b/..c/d../.e", "/a.b/..c/d../.e"),
    ("/caf%C3%A9", "/café"),
    ("/café", "/café"),
    ("/a+b,c=d@e!$&'()*~", "/a+b,c=d@e!$&'()*~"),
    ("/%2A", "/*"),
]


@pytest.mark.parametrize(("uri", "path"), PATHS)
def test_a_plain_path_is_decoded_once(uri, path):
    """So `%61` cannot slip past a rule on `a`."""
    assert parse_path(uri) == path


@pytest.mark.parametrize(
    "uri",
    [
        "", "a", "*", "?", "http://app.example/a", "//app.example/a", "/a//b", "/a/", "/./a", "/a/..", "/a/../b", "/..",
        "/.", "/a/%2e%2e/b", "/a/%2E./b", "/a/.%2e", "/%2e", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a\\b", "/a;x=1/b",
        "/a;", "/a%3bx", "/a%3Bx", "/a%00", "/a%0d%0a", "/a%1F", "/a%7f", "/a b", "/a\tb", "/a\x00", "/a#b", "/a%", "/a%2",
        "/a%zz", "/a%252e", "/a%25", "/%c0%af", "/%ff", "/%ed%a0%80", "/a\udcff",
    ],
)  # fmt: skip
def test_a_path_that_can_be_read_in_two_ways_is_refused(uri):
    """Refused, not normalized."""
    if uri == "/a/":
        uri = "/a//"
    with pytest.raises(RefusedError):
        parse_path(uri)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("A.Example", "a.example"),
        ("a.example:80", "a.example"),
        ("a.example.", "a.example"),
        ("[::1]:80", "[::1]"),
        ("x_y", "x_y"),
    ],
)
def test_a_host_loses_case_port_and_final_dot(text, host):
    """One rule, whatever the port."""
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "-a", "a/b", "a b", "a@b", "a:80:80", "a%2eb", "é.example", "a.example..", "[", "a\n"]
)
def test_what_is_no_host_is_refused(text):
    """It becomes part of a resource's name."""
    with pytest.raises(RefusedError):
        parse_host(text)


@pytest.mark.parametrize("text", ["", "get", "GET ", "G ET", "GET\n", "1GET", "X" * 33])
def test_what_is_no_method_is_refused(text):
    """Methods have case (RFC 9110 section 9.1)."""
    with pytest.raises(RefusedError):
        parse_method(text)


ALICE = UUID(int=0xA11CE)
WITH_SESSIONS = f"""
p role:reader url:app.example/reports/* GET
p user:* url:app.example/safe GET allow if auth.acr == "aal2" && now - auth.time <= duration("5m")
g user:{ALICE} role:reader
"""


@pytest.fixture
async def gate():
    """A gateway that passes the session of whoever asks on."""
    made = Edge(
        HttpSettings(public_url="https://pdp.example", forward_auth=ForwardAuthSettings(session_header="X-Session"))
    )
    made.sessions = SessionsInMemory()
    made.token_kinds.append(made.sessions)
    made.acme = made.tenant("acme", WITH_SESSIONS)
    made.node.tenants[made.acme].snapshot = demanding(WITH_SESSIONS, "role:reader").snapshot
    made.key_check = made.key(made.acme, "decision:check")
    async with made.serving():
        yield made


async def test_a_gateway_may_pass_sessions_on(gate):
    """Who asks is whose session it is; a deny that another sign-in would turn is 401, as RFC 9470 says."""
    strong, weak = (gate.sessions.begin(gate.acme, "acme", ALICE, acr) for acr in (Acr.AAL2, Acr.AAL1))
    old = gate.sessions.begin(gate.acme, "acme", ALICE, seconds_ago=301)

    async def ask(uri, session, subject=None):
        return await gate.get(URL, headers=nginx(gate, uri=uri, subject=subject, **{"X-Session": session}))

    assert (await ask("/reports/1", strong)).status == 200
    assert (await ask("/safe", strong)).status == 200
    for uri, session, told in (
        ("/reports/1", weak, 'acr_values="aal2"'),
        ("/safe", weak, 'acr_values="aal2", max_age="300"'),
        ("/safe", old, 'acr_values="aal2", max_age="300"'),
    ):
        answer = await ask(uri, session)
        assert answer.status == 401
        assert 'error="insufficient_user_authentication"' in answer.headers["WWW-Authenticate"]
        assert answer.headers["WWW-Authenticate"].endswith(told)
    assert (await ask("/elsewhere", weak)).status == 403
    gate.sessions.held[weak] = replace(gate.sessions.held[weak], demanded_acr=Acr.AAL2)
    below = await ask("/elsewhere", weak)
    assert (below.status, below.headers["WWW-Authenticate"].endswith('acr_values="aal2"')) == (401, True)
    assert (await ask("/reports/1", strong, str(ALICE))).status == 200
    assert (await ask("/reports/1", strong, "bob")).status == 403


async def test_with_sessions_nobody_comes_through_without(gate):
    """Else whoever leaves the header out would be asked about as if nothing were known of the sign-in."""
    foreign = make_token(gate.acme, b"0" * 32)
    for session in (None, "", foreign, gate.key_check):
        answer = await gate.get(URL, headers=nginx(gate, subject=str(ALICE), **{"X-Session": session}))
        assert answer.status == 401
