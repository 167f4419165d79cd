"""`kasbah auth code`: what the authenticator of somebody in a development server shows now."""

import json
import os
from pathlib import Path

import click

from service.cli.output import ExitCode, fail, printable
from service.demo import code_of
from service.which_server import DEFAULT_STATE_DIR, DEV_FILE


@click.command("code")
@click.argument("name")
def code(name: str) -> None:
    """Print the code that the authenticator of NAME shows now, for people of a running `kasbah dev`.

    Their secrets stand in `dev.json`. Other people look at their own authenticators.
    """
    path = Path(os.environ.get("KASBAH_STATE_DIR") or DEFAULT_STATE_DIR) / DEV_FILE
    try:
        tenants = json.loads(path.read_text("utf-8"))["tenants"]
        people = {who: person for tenant in tenants.values() for who, person in tenant.get("people", {}).items()}
    except FileNotFoundError:
        fail(f"`kasbah dev` does not run (there is no `{path}`)", ExitCode.USAGE)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        fail(f"`{path}` cannot be used: {error}", ExitCode.USAGE)
    held = people.get(name, {}).get("authenticator")
    if held is None:
        having = ", ".join(who for who, person in people.items() if person.get("authenticator")) or "nobody"
        fail(f"`{printable(name)}` has no authenticator in `{path}`: {having} has", ExitCode.USAGE)
    click.echo(code_of(held["secret"]))
