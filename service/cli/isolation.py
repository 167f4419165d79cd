"""`kasbah isolation-check`: asks a running service whether one tenant reaches another."""

import asyncio

import click

from service.cli.asking import asked
from service.cli.output import ExitCode, emit, fail, output_option
from service.client import Client
from service.isolation_cases import BUSY, Question, Reply
from service.isolation_check import Report, as_json, check_service, shown
from service.isolation_objects import CheckStoppedError

TRIES = 6
LONGEST_WAIT_SECONDS = 60.0


@click.command("isolation-check")
@click.option("--base-domain", metavar="DOMAIN", help="KASBAH_BASE_DOMAIN of the service: tries subdomains, too.")
@output_option
def isolation_check(base_domain: str | None, output: str) -> None:
    """Ask every operation of the API for what is another tenant's, with a tenant's own key.

    Makes two tenants for it with a platform key that has every scope, fills them, and deletes them again; other tenants
    are not touched. Their names are `isolation-…` and are never used again.

    Exit codes: 0 isolated, 1 a leak, 3 no server answered, 5 the check could not be made.
    """

    async def work(client: Client) -> Report:
        return await check_service(lambda question: _send(client, question), client.server.api_key, base_domain)

    try:
        report = asked(work)
    except CheckStoppedError as error:
        fail(str(error), ExitCode.REFUSED)
    emit(output, as_json(report), lambda: click.echo("\n".join(shown(report))))
    if report.faults:
        raise SystemExit(ExitCode.FINDINGS)
    if report.unanswered:
        raise SystemExit(ExitCode.REFUSED)


async def _send(client: Client, question: Question) -> Reply:
    """Send a request; one that is throttled, or meets a service that is busy, is sent again a little later."""
    for left in reversed(range(TRIES)):
        reply = Reply(*await client.exchange(question.method, question.target, question.headers, question.body))
        if reply.status not in BUSY or not left:
            return reply
        wait = reply.headers.get("Retry-After", "1")
        await asyncio.sleep(min(float(wait) if wait.isdigit() else 1.0, LONGEST_WAIT_SECONDS))
    raise AssertionError("the last try is an answer")
