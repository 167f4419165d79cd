"""`kasbah policy plan|apply|export|rollback|explain`: policies of a running server, over HTTP alone."""

import json
import time
from pathlib import Path
from typing import Any

import click

from authz.served_names import NAMED, NAMED_SERVICE
from service.cli.asking import account_id_of, asked, confirm, id_of, tenant_option, tenant_or_only
from service.cli.output import ExitCode, emit, fail, output_option, printable, progress
from service.cli.plan_text import print_plan
from service.cli.policy_export import write_export
from service.cli.policy_plan import (
    Applying,
    Planned,
    apply_planned,
    plan_directory,
    read_checked,
    read_plan,
    write_plan,
)
from service.client import Client, path_of

MAX_NAMED = 10
"""At most this many unknown tenants are named at the end; each has its line above."""

_tenants_option = click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="SLUG",
    help="Only this tenant: neither others, nor model.conf and _base; may be repeated.",
)


@click.command("plan")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_tenants_option
@click.option("-o", "--out", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write the plan for `apply`.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 4 when changes are pending.")
@output_option
def plan(directory: Path, tenants: tuple[str, ...], out: Path | None, detailed_exitcode: bool, output: str) -> None:  # noqa: FBT001
    """Show which rules of a server, and which of its answers, DIRECTORY would change. Changes nothing."""
    planned = _planned(directory, tenants)
    if out is not None and not planned.unknown:
        write_plan(planned, out)  # before it is shown: whoever reads may stop reading (`| head`)
    emit(output, _shown(planned), lambda: print_plan(planned))
    _require_known(planned)
    if detailed_exitcode and planned.pending:
        raise SystemExit(ExitCode.PENDING)


def _planned(directory: Path, tenants: tuple[str, ...]) -> Planned:
    with progress("reading"):
        read = read_checked(directory, tenants)
    with progress("planning", len(read.tenants)) as step:

        async def work(client: Client) -> Planned:
            return await plan_directory(client, read, directory, step=step, tenants_only=bool(tenants))

        return asked(work)


def _require_known(planned: Planned) -> None:
    if planned.unknown:
        names = ", ".join(planned.unknown[:MAX_NAMED])
        more = f" and {len(planned.unknown) - MAX_NAMED:,} more" if len(planned.unknown) > MAX_NAMED else ""
        fail(f"no tenant {names}{more}: `kasbah tenant create {planned.unknown[0]}`", ExitCode.REFUSED)


def _shown(planned: Planned) -> dict[str, Any]:
    return {
        "pending": planned.pending,
        "git_commit": planned.git_commit,
        "model_changes": planned.model is not None,
        "tenants": [part.plan for part in planned.parts],
        "skipped": planned.skipped,
        "unknown_tenants": planned.unknown,
    }


@click.command("apply")
@click.argument("source", metavar="DIRECTORY|PLAN.json", type=click.Path(exists=True, path_type=Path))
@_tenants_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", help="Why; kept in the history.")
@output_option
def apply(source: Path, tenants: tuple[str, ...], yes: bool, reason: str | None, output: str) -> None:  # noqa: FBT001
    """Make the file-owned rows of a server those of a directory, or of a plan that was made of one."""
    if source.is_dir():
        planned = _planned(source, tenants)
    elif tenants:
        raise click.UsageError("--tenant goes with a directory; a plan says itself which tenants it is for")
    else:
        planned = read_plan(source)
    quiet = output == "json"
    if not quiet:
        print_plan(planned)
    _require_known(planned)
    if planned.conflicts:
        fail(
            f"{planned.conflicts} rows are owned by the admin API: take them out of the files or revoke them there",
            ExitCode.REFUSED,
        )
    if not planned.wanted:
        emit(output, {"applied": []}, lambda: click.echo("nothing to do"))
        return
    if not yes:
        confirm("apply this?", output)

    applying = Applying()
    started = time.monotonic()
    _apply(planned, reason, applying)
    seconds = time.monotonic() - started

    def render() -> None:
        for entry in applying.done:
            if entry["tenant"] is None:
                click.secho("applied model.conf", fg="green")
            else:
                rows = f"{entry['added']} added, {entry['removed']} removed"
                click.secho(f"applied {entry['tenant']}: revision {entry['revision']}, {rows}", fg="green")
        click.echo(f"in {seconds:.1f} s")

    emit(output, {"applied": applying.done}, render)


def _apply(planned: Planned, reason: str | None, applying: Applying) -> None:
    parts = sum(part.wanted for part in planned.parts) + (planned.model is not None)
    try:
        with progress("applying", parts) as step:
            asked(lambda client: apply_planned(client, planned, reason, applying, step=step))
    except KeyboardInterrupt:
        fail(f"interrupted; {applying.said()}", ExitCode.FINDINGS)


@click.command("rollback")
@click.option(
    "--to", "to_revision", type=click.IntRange(0), required=True, help="Revision whose file-owned rows return."
)
@tenant_option
@click.option("--reason", help="Why; kept in the history.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
def rollback(to_revision: int, tenant: str | None, reason: str | None, yes: bool, output: str) -> None:  # noqa: FBT001
    """Restore the file-owned rows of an earlier revision, as a new one. What the admin API granted stays."""

    async def find(client: Client) -> tuple[str, int]:
        slug = await tenant_or_only(client, tenant)
        return slug, (await client.get(path_of("tenants", slug)))["revision"]

    slug, revision = asked(find)
    if not yes:
        confirm(f"roll {slug} back from revision {revision} to {to_revision}?", output)

    async def work(client: Client) -> Any:
        body = {"to_revision": to_revision, **({"reason": reason} if reason else {})}
        headers = {"If-Match": f'"{revision}"'}
        return await client.post(path_of("tenants", slug, "policy", "rollback"), body, headers=headers)

    said = asked(work)
    rows = f"{said['added']} added, {said['removed']} removed"
    line = f"rolled back {slug} to {to_revision}: now revision {said['revision']}, {rows}"
    emit(output, {"tenant": slug, **said}, lambda: click.secho(line, fg="green"))


@click.command("export")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="SLUG",
    help="Only this tenant: neither others, nor _base; may be repeated.",
)
@click.option(
    "--owner", type=click.Choice(["files", "api", "all"]), default="files", show_default=True, help="Whose rows."
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@click.option("--usernames", is_flag=True, help="Write `user:name=alice` for accounts instead of their ids.")
@output_option
def export(  # noqa: PLR0917 - click passes options by name
    directory: Path,
    tenants: tuple[str, ...],
    owner: str,
    force: bool,  # noqa: FBT001 - as above
    usernames: bool,  # noqa: FBT001 - as above
    output: str,
) -> None:
    """Write the policies of a server, with its model.conf, into DIRECTORY; for a platform key also _base."""

    async def work(client: Client) -> list[Any]:
        own = (await client.get("/v1/keys/self"))["tenant"]
        slugs = list(tenants)
        if not slugs and own is not None:
            slugs = [own]
        elif not slugs:
            slugs = [tenant["slug"] async for tenant in client.pages("/v1/tenants", "tenants", limit=1000)]
        if own is None and not tenants:
            slugs.insert(0, "_base")
        with progress("reading", len(slugs)) as step:
            read = []
            for slug in slugs:
                path = path_of("tenants", slug, "policy", "export")
                read.append(await client.get(path, usernames="true" if usernames else None))
                step(1)
            return read

    written = write_export(directory, asked(work), owner=None if owner == "all" else owner, force=force)
    emit(output, {"written": written}, lambda: click.echo("\n".join(f"wrote {path}" for path in written)))


@click.command("explain")
@click.argument("subject")
@click.argument("action")
@click.argument("resource")
@tenant_option
@click.option("--context", metavar="JSON", help="The context of the question, a JSON object.")
@click.option(
    "--auth",
    metavar="JSON",
    help='How the subject signed in, as in {"acr": "aal2"}; needs a key with `decision:assert`.',
)
@output_option
def explain(  # noqa: PLR0917 - click passes options by name
    subject: str, action: str, resource: str, tenant: str | None, context: str | None, auth: str | None, output: str
) -> None:
    """Say why SUBJECT (`user:alice`, or an account as `user:name=alice`) may or may not do ACTION on RESOURCE."""
    question: dict[str, Any] = {
        "subject": _entity(subject, "SUBJECT"),
        "action": {"name": action},
        "resource": _entity(resource, "RESOURCE"),
        "options": {"explain": True},
    }
    if context is not None:
        question["context"] = _json_object(context, "--context")
    if auth is not None:
        question["subject"]["properties"] = {"kasbah.auth": _json_object(auth, "--auth")}

    async def work(client: Client) -> Any:
        slug = await tenant_or_only(client, tenant)
        if subject.startswith(NAMED):
            question["subject"]["id"] = await id_of(client, subject[len(NAMED) :], slug)
        elif subject.startswith(NAMED_SERVICE):
            question["subject"]["id"] = await account_id_of(client, subject[len(NAMED_SERVICE) :], slug)
        return await client.post("/access/v1/evaluation", question, headers={"X-Tenant-ID": slug})

    answer = asked(work)

    def render() -> None:
        allowed = answer["decision"] is True
        click.secho("allow" if allowed else "deny", fg="green" if allowed else "red", bold=True)
        kasbah = answer.get("context", {}).get("kasbah", {})
        for line in kasbah.get("explanation", {}).get("lines", []):
            click.echo(printable(line))
        click.echo(f"revision {kasbah.get('revision')}")

    emit(output, answer, render)


def _entity(text: str, what: str) -> dict[str, str]:
    kind, colon, identifier = text.partition(":")
    if not (kind and colon and identifier):
        raise click.BadParameter(f"`{text}` has no type: write `type:id`, as in `user:{text}`", param_hint=what)
    return {"type": kind, "id": identifier}


def _json_object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint=option) from error
    if not isinstance(value, dict):
        raise click.BadParameter("not a JSON object", param_hint=option)
    return value
