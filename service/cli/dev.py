"""`kasbah dev`: everything on this machine, for trying Kasbah and for working on it."""

import contextlib
import json
import os
import shlex
import shutil
import sys
import time
import urllib.error
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.output import fail
from service.demo import PROOFS
from service.processes import StartError

if TYPE_CHECKING:
    from service.development import Development

DEFAULT_STATE_DIRECTORY = ".kasbah"


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="KASBAH_HOST",
    show_envvar=True,
    show_default=True,
    help="Address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8080,
    envvar="KASBAH_PORT",
    show_envvar=True,
    show_default=True,
    help="Port to listen on.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    envvar="KASBAH_WORKERS",
    show_envvar=True,
    show_default=True,
    help="Server processes.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=DEFAULT_STATE_DIRECTORY,
    envvar="KASBAH_STATE_DIR",
    show_envvar=True,
    show_default=True,
    help="Where data, secrets and logs are kept.",
)
@click.option(
    "--policies",
    type=click.Path(path_type=Path),
    envvar="KASBAH_POLICIES",
    show_envvar=True,
    help="Policies whose tenants the first start creates and applies (default policies/).",
)
def dev(host: str, port: int, workers: int, state_dir: Path, policies: Path | None) -> None:
    """Run everything on this machine: PostgreSQL, Valkey, sample tenants, server.

    Starts its own PostgreSQL and Valkey, unless KASBAH_DATABASE_URL or KASBAH_REDIS_URL name servers of yours. The
    first start loads the sample tenants; later ones keep all data. Ctrl-C ends everything it started.
    """
    from service.development import Development, DevelopmentSettings, StoppedError, stop_on_signals

    settings = DevelopmentSettings(
        host=host,
        port=port,
        workers=workers,
        state_directory=state_dir.absolute(),
        policies=(policies or default_policies()).absolute(),
        database_url=os.environ.get("KASBAH_DATABASE_URL") or None,
        redis_url=os.environ.get("KASBAH_REDIS_URL") or None,
    )
    running = Development(settings, Steps())
    with stop_on_signals():
        try:
            running.start()
            say_welcome(running)
            running.announce()
            ended = running.wait()
        except StoppedError:
            click.echo("\nstopping", err=True)
            return
        except StartError as error:
            fail(str(error))
        finally:
            running.stop()
    fail(ended)


def default_policies() -> Path:
    """Return `policies/` of the current directory, or that of the checkout this code is in."""
    here = Path("policies")
    return here if here.is_dir() else Path(__file__).resolve().parents[2] / "policies"


class Steps:
    """Shows steps on standard error, each with the time it took."""

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show `what` at once, and its end when it is done."""
        started = time.monotonic()
        click.echo(f"  {what} ... ", nl=False, err=True)
        try:
            yield
        except BaseException:
            click.echo("", err=True)
            raise
        click.echo(f"{time.monotonic() - started:.1f} s", err=True)

    def note(self, line: str) -> None:
        """Show a line."""
        click.echo(f"  {line}", err=True)


@dataclass(frozen=True, slots=True)
class Example:
    """A question of the README's tenant, with the answer it gets."""

    slug: str
    question: dict[str, Any]
    answer: bool


EXAMPLE_TENANT = "acme"
EXAMPLES = (
    Example(
        EXAMPLE_TENANT,
        {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "read"},
            "resource": {"type": "record", "id": "record-1"},
        },
        answer=True,
    ),
    Example(
        EXAMPLE_TENANT,
        {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "delete"},
            "resource": {"type": "record", "id": "record-1"},
            "options": {"explain": True},
        },
        answer=False,
    ),
)


def say_welcome(running: "Development") -> None:
    """Print what a newcomer needs, having tried it."""
    base_url = running.settings.base_url
    echo = click.echo
    echo("")
    echo(click.style("Kasbah is ready.", bold=True) + " Ctrl-C stops it; the next start keeps all data.")
    echo("")
    echo(f"  base URL      {base_url}")
    if running.tenant_keys:
        slug = EXAMPLE_TENANT if EXAMPLE_TENANT in running.tenant_keys else next(iter(running.tenant_keys))
        echo(f"  API key       {running.tenant_keys[slug]}  (tenant {slug})")
    if running.administrator_token is not None:
        echo(
            f"  first admin   {running.administrator_token}  (of the platform: POST /v1/bootstrap, once, within a day)"
        )
    for name, account in running.people.items():
        echo(f"  {name:<12}  {account['role']} of {running.people_of}; {proofs_of(account)}")
    echo(f"  all keys      {running.state.path / 'dev.json'}")
    if running.outbox.is_dir():
        echo(f"  mails         {running.outbox}")
    echo(f"  server log    {running.state.path / 'serve.log'}")
    for example in EXAMPLES:
        if example.slug in running.tenant_keys:
            say_example(running, example)
    say_sign_in(running)
    say_renewal(running)
    echo("")
    sys.stdout.flush()


def proofs_of(account: Mapping[str, Any]) -> str:
    """Return what of an account's proofs `dev.json` holds, and what ended since the first start."""
    if account.get("status", "active") != "active":
        return f"{account['status']} by now"
    held = [name for proof, name in PROOFS.items() if account.get(proof)]
    told = f"{', '.join(held[:-1])} and {held[-1]}" if len(held) > 1 else "".join(held) or "nothing"
    ended = [PROOFS[proof] for proof in account.get("ended", ())]
    return f"{told} in dev.json" + (f" ({' and '.join(ended)} ended since)" if ended else "")


def say_renewal(running: "Development") -> None:
    """Print how to get anew what ended."""
    where, kasbah = running.people_of, program()
    ways = {
        "password": f"{kasbah} user reset-password NAME --tenant {where} --reason lost    # mails a link",
        "authenticator": f"{kasbah} user reset-factors NAME --tenant {where} --reason lost --yes    # docs/sign-in.md",
        "api_key": f"KASBAH_API_KEY=SESSION {kasbah} key create --own 'development key'    # with a session's token",
    }
    ended = {proof for account in running.people.values() for proof in account.get("ended", ())}
    if not ended:
        return
    click.echo("\n  # anew what ended, or everything: stop this, and remove the directory of dev.json")
    for proof in PROOFS:
        if proof in ended:
            click.echo(f"  {ways[proof]}")


def say_sign_in(running: "Development") -> None:
    """Print how somebody with a second factor signs in."""
    able = [
        name
        for name, account in running.people.items()
        if account.get("authenticator") and account.get("password") and account.get("status", "active") == "active"
    ]
    if not able:
        return
    name, kasbah = able[0], program()
    click.echo(f"\n  # signs {name} in: the password, then the code that {name}'s authenticator shows now")
    click.echo(
        f"  printf '%s\\n' {shlex.quote(running.people[name]['password'])} \"$({kasbah} auth code {name})\" | "
        f"{kasbah} auth login {name} --tenant {running.people_of} --password-stdin"
    )


def program() -> str:
    """Return how a shell calls the command line of this installation."""
    beside = Path(sys.executable).with_name("kasbah")
    if shutil.which("kasbah") == str(beside) or not beside.exists():
        return "kasbah"
    with contextlib.suppress(ValueError):
        beside = beside.relative_to(Path.cwd())
    return shlex.quote(str(beside))


def say_example(running: "Development", example: Example) -> None:
    """Print a curl and what it answers now; data that was changed since may have changed the answer."""
    try:
        decision = running.ask(example.slug, example.question).get("decision")
    except (urllib.error.URLError, ValueError, OSError) as error:
        click.echo(f"\n  the server did not answer an example: {error}", err=True)
        return
    if not isinstance(decision, bool):
        return
    explained = ", and why" if "options" in example.question else ""
    click.echo(f'\n  # answers "decision":{json.dumps(decision)}{explained}')
    click.echo("  " + curl(running.settings.base_url, running.tenant_keys[example.slug], example.question))


def curl(base_url: str, key: str, question: dict[str, Any]) -> str:
    """Return a command that asks a question, as a shell takes it."""
    return (
        f"curl -s {base_url}/access/v1/evaluation -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(question, separators=(',', ':')))}"
    )
