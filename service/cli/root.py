"""`kasbah`: the tree of commands. A command's module is imported only when it is called or asked for its help."""

import difflib
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

import service


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command is, and what the listing says about it without importing it."""

    target: str
    help: str


POLICY_COMMANDS = {
    "lint": Lazy("service.cli.policy_files:lint", "Check the files of a policy directory; report every finding."),
    "test": Lazy("service.cli.policy_files:test", "Run the golden decisions of every cases.yaml."),
    "plan": Lazy("service.cli.policy_server:plan", "Show which rules and which answers a directory would change."),
    "apply": Lazy("service.cli.policy_server:apply", "Make the server's file-owned rules those of a directory."),
    "explain": Lazy("service.cli.policy_server:explain", "Say why a subject may or may not do something."),
    "history": Lazy("service.cli.policy_history:history", "List the changes of a tenant, or the rows of one."),
    "rollback": Lazy("service.cli.policy_server:rollback", "Restore an earlier revision as a new one."),
    "export": Lazy("service.cli.policy_server:export", "Write a tenant's policy from the server as files."),
    "eval": Lazy("service.cli.policy_eval:evaluate", "Answer positional Casbin requests from files, without a server."),
}
TENANT_COMMANDS = {
    "create": Lazy("service.cli.tenant:create", "Create a tenant."),
    "list": Lazy("service.cli.tenant:list_", "List tenants."),
    "show": Lazy("service.cli.tenant:show", "Show a tenant."),
    "update": Lazy("service.cli.tenant:update", "Change a tenant's name for people."),
    "suspend": Lazy("service.cli.tenant:suspend", "Suspend a tenant on every node."),
    "reactivate": Lazy("service.cli.tenant:reactivate", "Open a suspended tenant again."),
    "delete": Lazy("service.cli.tenant:delete", "Delete a tenant; it can be restored within its grace."),
    "restore": Lazy("service.cli.tenant:restore", "Take back the deletion of a tenant."),
    "settings": Lazy("service.cli.tenant_settings:settings", "Show or change a tenant's settings."),
}
AUDIT_COMMANDS = {
    "list": Lazy("service.cli.audit:list_", "List what happened in a tenant: who, what, on whom, why."),
    "export": Lazy("service.cli.audit:export", "Write a whole chain as JSON lines that anybody can verify."),
    "verify": Lazy("service.cli.audit_verify:verify", "Hold the audit against its hashes; name rows that do not fit."),
    "retain": Lazy("service.cli.audit_retain:retain", "Let the oldest months go, as the owner of the tables."),
    "key": Lazy("service.cli.audit_verify:key", "Show the public keys that signed checkpoints."),
}
KEY_COMMANDS = {
    "create": Lazy("service.cli.keys:create", "Create an API key; its token is shown once."),
    "list": Lazy("service.cli.keys:list_", "List API keys, without their tokens."),
    "update": Lazy("service.cli.keys:update", "Change a key's name or limit."),
    "rotate": Lazy("service.cli.keys:rotate", "Put a new key in the place of another one, with an overlap."),
    "revoke": Lazy("service.cli.keys:revoke", "Revoke an API key on every node."),
}
SERVICE_ACCOUNT_COMMANDS = {
    "create": Lazy("service.cli.service_account:create", "Make a service account."),
    "list": Lazy("service.cli.service_account:list_", "List service accounts."),
    "show": Lazy("service.cli.service_account:show", "Show a service account with its roles and keys."),
    "update": Lazy("service.cli.service_account:update", "Change a service account's name or description."),
    "disable": Lazy("service.cli.service_account:disable", "Disable a service account and its keys."),
    "enable": Lazy("service.cli.service_account:enable", "Enable a disabled service account and its keys."),
    "delete": Lazy("service.cli.service_account:delete", "Delete a service account and end its keys."),
}
INVITATION_COMMANDS = {
    "create": Lazy("service.cli.invitation:create", "Invite a person by mail."),
    "list": Lazy("service.cli.invitation:list_", "List invitations."),
    "resend": Lazy("service.cli.invitation:resend", "Send an invitation anew."),
    "revoke": Lazy("service.cli.invitation:revoke", "Revoke an invitation."),
}
USER_COMMANDS = {
    "create": Lazy("service.cli.user:create", "Create an account."),
    "list": Lazy("service.cli.user:list_", "List accounts, or those whose names begin with something."),
    "show": Lazy("service.cli.user:show", "Show an account with its roles."),
    "update": Lazy("service.cli.user:update", "Change an account's names, address or demands."),
    "disable": Lazy("service.cli.user:disable", "Disable an account: it may do nothing from now on."),
    "enable": Lazy("service.cli.user:enable", "Enable a disabled account."),
    "delete": Lazy("service.cli.user:delete", "Delete an account and erase what is personal in it."),
    "verify": Lazy("service.cli.invitation:verify", "Mail a link that verifies the account's address."),
    "reset-password": Lazy("service.cli.invitation:reset_password", "Mail a link to choose a new password."),
    "factors": Lazy("service.cli.user_factors:factors", "List an account's second factors."),
    "revoke-factor": Lazy("service.cli.user_factors:revoke", "End one second factor of an account."),
    "reset-factors": Lazy("service.cli.user_factors:reset", "Take all of them away, and mail a ticket for new ones."),
    "import": Lazy("service.cli.user_import:import_", "Import accounts from CSV or JSON lines."),
    "export": Lazy("service.cli.user_import:export", "Write all accounts as JSON lines, without secrets."),
}
SESSION_COMMANDS = {
    "list": Lazy("service.cli.session:list_", "List where somebody is signed in."),
    "revoke": Lazy("service.cli.session:revoke", "End a session on every node."),
    "revoke-all": Lazy("service.cli.session:revoke_all", "End every sign-in of somebody, and their personal keys."),
}
AUTH_COMMANDS = {
    "login": Lazy("service.cli.auth:login", "Sign in with a password and a code; print the session."),
    "code": Lazy("service.cli.auth_code:code", "Show the code of a demonstration account's authenticator."),
}
FAILURE_COMMANDS = {
    "show": Lazy("service.cli.auth:show_failures", "Show failed sign-ins of an account, or of the tenant."),
    "clear": Lazy("service.cli.auth:clear_failures", "Clear failed sign-ins, so that the next try is judged."),
}
DEVICE_COMMANDS = {
    "list": Lazy("service.cli.devices:list_", "List the devices that one's own account knows."),
    "forget": Lazy("service.cli.devices:forget", "Forget a device, or all that an account knows."),
}
PASSWORD_COMMANDS = {
    "build-list": Lazy("service.cli.passwords:build_list", "Make the list of breached passwords that a server reads."),
}
ENCRYPTION_COMMANDS = {
    "list": Lazy("service.cli.encryption:list_", "List the keys that wrap the tenants' data keys."),
    "rotate": Lazy("service.cli.encryption:rotate", "Give every tenant a new data key and seal what is stored anew."),
    "retire": Lazy("service.cli.encryption:retire", "Remove data keys that nothing uses any more."),
}
ROOT_COMMANDS = {
    "dev": Lazy("service.cli.dev:dev", "Run everything on this machine: PostgreSQL, Valkey, samples, server."),
    "serve": Lazy("service.cli.serve:serve", "Run the server on a PostgreSQL and a Valkey of your own."),
    "migrate": Lazy("service.cli.database:migrate", "Bring the database schema to this version."),
    "bootstrap": Lazy("service.cli.bootstrap:bootstrap", "Create the first platform key, in the database."),
    "isolation-check": Lazy(
        "service.cli.isolation:isolation_check", "Ask a server whether one tenant reaches another."
    ),
}


EXIT_CODES = """\b
Exit codes:
  0  nothing to do, or done
  1  findings, failing cases, differences, an interruption, or a start that did not work
  2  the command line or a setting is wrong; a directory cannot be read or holds no tenant
  3  no server answered
  4  changes are pending (plan --detailed-exitcode, migrate --check)
  5  refused: conflict, stale plan, unknown tenant, missing right"""


class LazyGroup(click.Group):
    """A group whose commands are named in a table and imported on use."""

    def __init__(self, name: str, lazy: Mapping[str, Lazy], help_text: str) -> None:
        super().__init__(name=name, help=help_text, epilog=EXIT_CODES)
        self._lazy = lazy

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; without colour where the person asked for none (https://no-color.org)."""
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the names, in the order of the table, then of the groups that were added."""
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None for an unknown name."""
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = lazy.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{lazy.target} is no click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but a misspelt name is answered with the nearest one, and a command keeps its name here."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            ctx.fail(f"no such command `{name}`.{hint}")
        if command is None:
            return super().resolve_command(ctx, args)
        return name, command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing nothing."""
        rows = [(name, lazy.help) for name, lazy in self._lazy.items()]
        rows += [
            (name, command.get_short_help_str(limit=100))
            for name in self.commands
            if (command := super(LazyGroup, self).get_command(ctx, name)) is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


ROOT_HELP = """Multi-tenant authorization: who may do what, decided from Casbin policy files.

`kasbah dev` runs everything on this machine. `kasbah policy` works on policy directories, alone or against a server,
which is found by KASBAH_URL and KASBAH_API_KEY, or by the `.kasbah/dev.json` of a running `kasbah dev`."""

root = click.version_option(service.__version__, prog_name="kasbah")(LazyGroup("kasbah", ROOT_COMMANDS, ROOT_HELP))
root.add_command(LazyGroup("tenant", TENANT_COMMANDS, "Create, list, change, suspend and delete tenants."))
root.add_command(LazyGroup("policy", POLICY_COMMANDS, "Check, try, apply and explain policies."))
root.add_command(LazyGroup("user", USER_COMMANDS, "Accounts of people."))
root.add_command(LazyGroup("invitation", INVITATION_COMMANDS, "Invite people to accounts."))
root.add_command(LazyGroup("service-account", SERVICE_ACCOUNT_COMMANDS, "Programs, and what they may."))
root.add_command(LazyGroup("key", KEY_COMMANDS, "Create, list, rotate and revoke API keys."))
auth = LazyGroup("auth", AUTH_COMMANDS, "Sign in; failed sign-ins, and known devices.")
auth.add_command(LazyGroup("failures", FAILURE_COMMANDS, "See and clear failed sign-ins."))
auth.add_command(LazyGroup("devices", DEVICE_COMMANDS, "Devices that an account knows, whose failures count apart."))
root.add_command(auth)
root.add_command(LazyGroup("session", SESSION_COMMANDS, "Sign-ins: one's own, and those of accounts."))
root.add_command(LazyGroup("audit", AUDIT_COMMANDS, "Read, export and verify the audit."))
root.add_command(LazyGroup("passwords", PASSWORD_COMMANDS, "Lists of breached passwords."))
root.add_command(
    LazyGroup("keys", ENCRYPTION_COMMANDS, "List, rotate and retire the keys that encrypt what is stored.")
)
