"""What `plan` and `apply` share: the desired rows of a directory, plans of them from a server, and plan files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from authz.findings import Finding
from authz.lint import lint
from authz.policy_files import PolicyDirectory, git_commit_of
from authz.policy_files.values import MODEL_FILE
from authz.ports import StoredModel
from authz.rules import BASE_SLUG, Row
from service.cli.directories import read_policies
from service.cli.output import ExitCode, fail, printable
from service.client import Client, RefusedError, UnreachableError, path_of
from service.http.policy_wire import sent_row

PLAN_FORMAT = "kasbah-plan-1"
MAX_PLAN_BYTES = 1 << 30
MAX_SHOWN_FINDINGS = 50


@dataclass(slots=True)
class Part:
    """One tenant, or the base: the rows that files should own there, and what the server said about them."""

    slug: str
    rows: bytes
    """JSON list of rows, as sent."""
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def pending(self) -> bool:
        """Whether an apply would change rows."""
        return bool(self.plan["pending"])

    @property
    def wanted(self) -> bool:
        """Whether an apply has something to write: rows, or only the lines where they stand."""
        return bool(self.plan["pending"] or self.plan["moved"])


@dataclass(slots=True)
class Planned:
    """A whole plan: parts in the order of their apply, and what keeps it from being applied.

    `model` is `{"text", "replaces"}` when the platform's model changes. `skipped` says what this key cannot change,
    `unknown` names directories without a tenant.
    """

    parts: list[Part]
    model: dict[str, str] | None = None
    git_commit: str | None = None
    skipped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def pending(self) -> bool:
        """Whether an apply would change anything that decides."""
        return self.model is not None or any(part.pending for part in self.parts)

    @property
    def wanted(self) -> bool:
        """Whether an apply has anything to write."""
        return self.model is not None or any(part.wanted for part in self.parts)

    @property
    def conflicts(self) -> int:
        """Rows that both owners want."""
        return sum(part.plan["conflicts"]["count"] for part in self.parts)


def read_checked(directory: Path, tenants: Sequence[str]) -> PolicyDirectory:
    """Return a directory without errors; one with errors ends the command with what lint found."""
    from authz.compile_model import compile_model  # PyCasbin takes as long to import as a whole `history` takes

    read = read_policies(directory, tenants)
    missing = sorted(set(tenants) - set(read.tenants))
    errors = [fault for fault in lint(read, now=datetime.now(UTC), compile_model=compile_model) if fault.is_error]
    if errors:
        for fault in errors[:MAX_SHOWN_FINDINGS]:
            click.echo(shown_finding(directory, fault), err=True)
        count = "1 error" if len(errors) == 1 else f"{len(errors):,} errors"
        fail(f"{count}: nothing was sent; `kasbah policy lint {directory}` has hints", ExitCode.FINDINGS)
    if missing:
        fail(f"`{directory}` has no directory for the tenant `{missing[0]}`", ExitCode.USAGE)
    return read


def shown_finding(directory: Path, fault: Finding) -> str:
    """Return a finding as one line with its place."""
    return printable(f"{directory / fault.file}:{fault.line}:{fault.column}: {fault.severity.value}: {fault.message}")


def encoded_rows(rows: Sequence[Row]) -> bytes:
    """Return rows as they are sent."""
    return msgspec.json.encode([sent_row(row) for row in rows])


async def plan_directory(
    client: Client,
    directory: PolicyDirectory,
    path: Path,
    *,
    step: Callable[[int], None],
    tenants_only: bool = False,
) -> Planned:
    """Ask the server what applying `directory` would do, tenant by tenant; changes nothing.

    With `tenants_only` the model and the base are left alone: somebody named the tenants that they mean. `step` is
    called for each tenant that is begun.
    """
    own = (await client.get("/v1/keys/self"))["tenant"]
    planned = Planned([], git_commit=git_commit_of(path))
    base_rows: bytes | None = None
    new_model = b""
    if tenants_only:
        pass
    elif own is None:
        current = await client.get("/v1/model")
        if current["digest"] != StoredModel.of(directory.model_text).digest:
            if not directory.model_present:
                fail(
                    f"`{path}` has no model.conf, and the server's is not the default one: put the server's beside the "
                    "tenants (`kasbah policy export`)",
                    ExitCode.REFUSED,
                )
            await client.post("/v1/model/plan", {"text": directory.model_text})
            planned.model = {"text": directory.model_text, "replaces": current["digest"]}
            new_model = b',"model":' + json.dumps(directory.model_text).encode()
        if directory.base.present:
            base_rows = encoded_rows(directory.base.rows)
            left_out = json.dumps(sorted(directory.tenants)).encode()
            body = b'{"rows":' + base_rows + b',"except_tenants":' + left_out + new_model + b"}"
            shown = await client.post(path_of("tenants", BASE_SLUG, "policy", "plan"), body)
            planned.parts.append(Part(BASE_SLUG, base_rows, shown))
    else:
        planned.skipped.append("model.conf and _base: they need a platform key")
    changed_base = base_rows if planned.parts and planned.parts[0].pending else None
    for slug, files in directory.tenants.items():
        step(1)
        if own not in (None, slug):
            planned.skipped.append(f"{slug}: this key is bound to the tenant {own}")
            continue
        rows = encoded_rows(files.rows)
        both = b',"base_rows":' + changed_base if changed_base is not None else b""
        body = b'{"rows":' + rows + both + new_model + b"}"
        try:
            shown = await client.post(path_of("tenants", slug, "policy", "plan"), body)
        except RefusedError as error:
            if error.slug == "body-too-large":
                size = f"{len(files.rows):,} rows are {len(body) / 2**20:.0f} MiB as they are sent"
                message = f"{slug}: {size}, more than the server takes at once ({error})"
                raise RefusedError(error.status, error.slug, message) from None
            if error.slug != "tenant-not-found":
                raise
            planned.unknown.append(slug)
            continue
        planned.parts.append(Part(slug, rows, shown))
    return planned


def write_plan(planned: Planned, path: Path) -> None:
    """Write a plan file; what stands in it is what `apply` sends."""
    said = {
        "format": PLAN_FORMAT,
        "created_at": datetime.now(UTC).isoformat(),
        "git_commit": planned.git_commit,
        "model": planned.model,
        "skipped": planned.skipped,
        "unknown": planned.unknown,
        "parts": [{"tenant": part.slug, "plan": part.plan, "rows": msgspec.Raw(part.rows)} for part in planned.parts],
    }
    try:
        path.write_bytes(msgspec.json.encode(said) + b"\n")
    except OSError as error:
        fail(f"`{path}` cannot be written: {error.strerror}", ExitCode.USAGE)


class _PlanPart(msgspec.Struct):
    tenant: str
    plan: dict[str, Any]
    rows: msgspec.Raw


class _PlanFile(msgspec.Struct):
    format: str
    git_commit: str | None
    model: dict[str, str] | None
    skipped: list[str]
    unknown: list[str]
    parts: list[_PlanPart]


def read_plan(path: Path) -> Planned:
    """Return the plan in a file that `plan -o` wrote."""
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            fail(f"`{path}` is too large for a plan", ExitCode.USAGE)
        found = msgspec.json.decode(path.read_bytes(), type=_PlanFile)
        parts = [Part(part.tenant, bytes(part.rows), part.plan) for part in found.parts]
        for part in parts:
            _check_shown(part.plan)
    except OSError as error:
        fail(f"`{path}` cannot be read: {error.strerror}", ExitCode.USAGE)
    except (ValueError, msgspec.MsgspecError, KeyError, TypeError) as error:
        fail(f"`{path}` is no plan: {error}", ExitCode.USAGE)
    if found.format != PLAN_FORMAT:
        fail(f"`{path}` is a plan of another version", ExitCode.USAGE)
    return Planned(parts, found.model, found.git_commit, found.skipped, found.unknown)


def _check_shown(plan: dict[str, Any]) -> None:
    """Look at every member that is shown or sent, so that a damaged file ends here."""
    if not isinstance(plan["revision"], int) or not isinstance(plan["digest"], str):
        raise TypeError("a revision or digest is missing")
    for name in ("added", "removed", "changed", "conflicts", "patterns"):
        plan[name]["count"], plan[name]["rows"]
    plan["pending"], plan["moved"], plan["flips"]


@dataclass(slots=True)
class Applying:
    """How far an apply has come: what the server confirmed, and the part that was sent last."""

    done: list[dict[str, Any]] = field(default_factory=list)
    sent: str | None = None

    def said(self) -> str:
        """Return what is applied and what is not known, for one who was interrupted."""
        names = ", ".join(entry["tenant"] or MODEL_FILE for entry in self.done)
        before = f"applied: {names}" if names else "nothing was applied"
        if self.sent is None:
            return before
        before = f"{before} before that" if names else ""
        unknown = f"whether {self.sent} was applied is not known: `kasbah policy plan` shows what is left"
        return f"{before}; {unknown}" if before else unknown


async def apply_planned(
    client: Client, planned: Planned, reason: str | None, applying: Applying, *, step: Callable[[int], None]
) -> None:
    """Apply a plan: the model, the base, then every tenant; each is all or nothing.

    The base and the model raise every tenant's revision by one each, so the revisions of the plan are moved on by what
    was applied here, and by nothing else: a change by someone else is still refused. `applying` is kept up to date, and
    `step` called for each part that is done.

    Raises:
        RefusedError: a part was refused; those before it are applied.
        UnreachableError: the server did not say whether it applied a part; those before it are applied.
    """
    done = applying.done
    moved = 0
    meta = {name: text for name, text in (("reason", reason), ("git_commit", planned.git_commit)) if text}
    try:
        if planned.model is not None:
            applying.sent = MODEL_FILE
            await client.put("/v1/model", {**planned.model, **meta})
            moved += 1
            done.append({"tenant": None, "model": True})
            applying.sent = None
            step(1)
        for part in planned.parts:
            if not part.wanted:
                continue
            planned_revision = part.plan["revision"] + moved
            front = {"revision": planned_revision, "digest": part.plan["digest"], **meta}
            body = json.dumps(front).encode()[:-1] + b', "rows": ' + part.rows + b"}"
            applying.sent = part.slug
            said = await client.post(path_of("tenants", part.slug, "policy", "apply"), body)
            if part.slug == BASE_SLUG:
                moved += said["revision"] - planned_revision
            done.append({"tenant": part.slug, **said})
            applying.sent = None
            step(1)
    except RefusedError as error:
        names = ", ".join(entry["tenant"] or "model.conf" for entry in done)
        before = f"; applied before that: {names}" if done else "; nothing was applied"
        raise RefusedError(error.status, error.slug, f"{error}{before}", error.pointer) from None
    except UnreachableError as error:
        if not error.sent:
            applying.sent = None
        raise UnreachableError(f"{error}; {applying.said()}") from None
