"""The bare server that Kasbah is compared with: aiohttp, one route, the same JSON parsed, a constant answered."""

import argparse
import asyncio

import msgspec
import uvloop
from aiohttp import web

from benchmarks.wire import Evaluation

ANSWER = b'{"decision":true}'
_decode = msgspec.json.Decoder(Evaluation).decode


async def evaluation(request: web.Request) -> web.Response:
    """Parse the question and answer what is always answered."""
    _decode(await request.read())
    return web.Response(body=ANSWER, content_type="application/json")


async def serve(port: int) -> None:
    """Serve until cancelled."""
    app = web.Application()
    app.router.add_post("/access/v1/evaluation", evaluation)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve on the given port."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
