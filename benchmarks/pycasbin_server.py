"""PyCasbin behind aiohttp: one enforcer for each tenant, found by its key, warm before the first request.

It is the kindest arrangement for PyCasbin: an enforcer that held all tenants would go through the rules of all of them.
"""

import argparse
import asyncio
import json
from pathlib import Path

import casbin
import msgspec
import uvloop
from aiohttp import web

from benchmarks.pycasbin_policy import enforce, enforcer_of
from benchmarks.wire import Evaluation
from benchmarks.workload import MODEL, Workload

ANSWERS = {True: b'{"decision":true}', False: b'{"decision":false}'}
_decode = msgspec.json.Decoder(Evaluation).decode


class Tenants:
    """Enforcers by the `Authorization` header of their tenant."""

    def __init__(self, keys: dict[str, str], rules: int, users: int) -> None:
        self._held: dict[str, tuple[str, casbin.Enforcer]] = {}
        for slug, key in keys.items():
            workload = Workload(slug, rules, users)
            enforcer = enforcer_of([workload], MODEL, full_rows=True)
            enforce(enforcer, slug, workload.questions(2)[0])  # builds the domain's role links
            self._held[f"Bearer {key}"] = (slug, enforcer)

    async def evaluation(self, request: web.Request) -> web.Response:
        """Answer one question."""
        held = self._held.get(request.headers.get("Authorization", ""))
        if held is None:
            raise web.HTTPUnauthorized
        slug, enforcer = held
        asked = _decode(await request.read())
        subject = f"{asked.subject.type}:{asked.subject.id}"
        resource = f"{asked.resource.type}:{asked.resource.id}"
        allowed = bool(enforcer.enforce(subject, slug, resource, asked.action.name))
        return web.Response(body=ANSWERS[allowed], content_type="application/json")


async def serve(port: int, tenants: Tenants) -> None:
    """Serve until cancelled."""
    app = web.Application()
    app.router.add_post("/access/v1/evaluation", tenants.evaluation)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    """Load the policies, then serve on the given port."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pycasbin_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--keys", type=Path, required=True, help="JSON object: slug -> API key")
    parser.add_argument("--rules", type=int, default=1_000)
    parser.add_argument("--users", type=int, default=1_000)
    options = parser.parse_args()
    tenants = Tenants(json.loads(options.keys.read_text("utf-8")), options.rules, options.users)
    uvloop.run(serve(options.port, tenants))


if __name__ == "__main__":
    main()
