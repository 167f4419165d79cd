"""`kasbah policy apply` that ends half-way: it says what was applied, what was not, and what nobody knows."""

import json

import pytest
from click.testing import CliRunner

from service.cli.policy_plan import PLAN_FORMAT
from service.cli.root import root
from service.client import RefusedError, UnavailableError, UnreachableError

EMPTY = {"count": 0, "rows": []}
SHOWN = {
    "revision": 3,
    "digest": "d",
    "pending": True,
    "moved": 0,
    "flips": [],
    "added": {"count": 1, "rows": []},
    **dict.fromkeys(("removed", "changed", "conflicts", "patterns"), EMPTY),
}


class Server:
    """Applies to every tenant but one, where it fails as it is told."""

    def __init__(self, tenant, failure):
        self.tenant = tenant
        self.failure = failure

    async def post(self, path, body):
        """Answer an apply."""
        if f"/{self.tenant}/" in path:
            raise self.failure
        return {"revision": json.loads(body)["revision"] + 1, "added": 1, "removed": 0}


@pytest.fixture
def apply(tmp_path, monkeypatch):
    """Apply a plan for two tenants to such a server."""
    plan = tmp_path / "plan.json"
    parts = [{"tenant": slug, "plan": {"tenant": slug, **SHOWN}, "rows": []} for slug in ("acme", "globex")]
    head = {"format": PLAN_FORMAT, "git_commit": None, "model": None, "skipped": [], "unknown": []}
    plan.write_text(json.dumps({**head, "parts": parts}))

    def run(tenant, failure):
        monkeypatch.setattr("service.cli.asking.ask", lambda work, _server=None: drive(work(Server(tenant, failure))))
        return CliRunner().invoke(root, ["policy", "apply", str(plan), "--yes"])

    return run


def test_a_tenant_that_is_too_large_is_named(tmp_path, monkeypatch):
    """The server speaks of bytes of a body; whoever wrote files thinks in rows."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "policy.csv").write_text("p, user:ann, acme, record:1, read\n" * 2)

    class Narrow:
        async def get(self, _path):
            return {"tenant": "acme"}

        async def post(self, _path, _body):
            raise RefusedError(413, "body-too-large", "the body is larger than 9 bytes")

    monkeypatch.setattr("service.cli.asking.ask", lambda work, _server=None: drive(work(Narrow())))
    result = CliRunner().invoke(root, ["policy", "plan", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (
        5,
        (
            "error: acme: 2 rows are 0 MiB as they are sent, more than the server takes at once "
            "(the body is larger than 9 bytes)\n"
        ),
    )


def drive(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


UNKNOWN = "whether globex was applied is not known: `kasbah policy plan` shows what is left"


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (UnreachableError("gone"), 3, f"error: gone; applied: acme before that; {UNKNOWN}\n"),
        (UnavailableError("later"), 3, f"error: later; applied: acme before that; {UNKNOWN}\n"),
        (UnreachableError("never there", sent=False), 3, "error: never there; applied: acme\n"),
        (RefusedError(409, "conflict", "stale"), 5, "error: stale; applied before that: acme\n"),
        (KeyboardInterrupt(), 1, f"error: interrupted; applied: acme before that; {UNKNOWN}\n"),
    ],
)
def test_what_is_known_is_said(apply, failure, code, said):
    """The server goes on with what it got, whether or not somebody waits for its answer."""
    result = apply("globex", failure)
    assert (result.exit_code, result.stderr) == (code, said)


def test_nothing_is_said_to_be_nothing(apply):
    """The first tenant failed before anything was sent."""
    assert apply("acme", UnreachableError("never there", sent=False)).stderr == (
        "error: never there; nothing was applied\n"
    )
    assert apply("acme", KeyboardInterrupt()).stderr == (
        "error: interrupted; whether acme was applied is not known: `kasbah policy plan` shows what is left\n"
    )
