"""The command line, asked while the service runs in the test's own loop."""

import asyncio

from click.testing import CliRunner, Result

from service.cli.root import root


async def kasbah(url: str, key: str, *arguments: str, typed: str | None = None) -> Result:
    """Run one command in a thread, against a service and with a key, and return its result."""
    environment = {"KASBAH_URL": url, "KASBAH_API_KEY": key}
    return await asyncio.to_thread(CliRunner().invoke, root, arguments, input=typed, env=environment)
