"""Reading a policy directory from disk: nothing outside of it, nothing too large, nothing but regular files."""

import difflib
import os
import stat
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz.default_model import DEFAULT_MODEL_TEXT
from authz.findings import Finding, Severity, in_order
from authz.policy_files.columns import PolicyColumns, read_columns
from authz.policy_files.documents import ParsedCases, ParsedEntities, parse_cases, parse_entities
from authz.policy_files.rows import ParsedPolicy, parse_policy
from authz.policy_files.values import (
    CASES_FILE,
    ENTITIES_FILE,
    MODEL_FILE,
    POLICY_FILE,
    PolicyDirectory,
    TenantFiles,
)
from authz.rules import BASE_SLUG
from tenancy.ids import InvalidSlugError, parse_slug

MAX_CSV_BYTES: Final = 64 * 1024 * 1024
MAX_YAML_BYTES: Final = 16 * 1024 * 1024
MAX_MODEL_BYTES: Final = 64 * 1024
_TENANT_FILES = (POLICY_FILE, ENTITIES_FILE, CASES_FILE)
_GIT_TIMEOUT_SECONDS = 10
_UTF_16_SHARE = 4
"""A file whose every fourth byte, or more of them, is NUL is UTF-16 without its mark."""


class DirectoryError(Exception):
    """The path is no directory that can be read."""


def read_directory(path: Path | str, *, tenants: Collection[str] | None = None) -> PolicyDirectory:
    """Read `model.conf`, `_base/` and every tenant's directory (or only those named in `tenants`).

    Without a `model.conf` rows are read under the default model.

    What is wrong inside becomes findings; rows that could not be read are left out, so a caller that means to change
    something must look at `has_errors` first.

    Raises:
        DirectoryError: `path` is missing, no directory, or cannot be listed.
    """
    try:
        root = Path(path).resolve(strict=True)
        names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    except (OSError, RuntimeError) as error:
        raise DirectoryError(f"`{path}` cannot be read: {getattr(error, 'strerror', None) or error}") from error
    reader = _DirectoryReader(root)
    model_present = MODEL_FILE in names
    model_text = reader.text(MODEL_FILE, MAX_MODEL_BYTES, required=True) or "" if model_present else DEFAULT_MODEL_TEXT
    columns = read_columns(model_text)
    base = TenantFiles(BASE_SLUG, present=False)
    found: dict[str, TenantFiles] = {}
    for name in names:
        if name == BASE_SLUG:
            base = reader.tenant(name, columns or PolicyColumns()) or base
        elif name != MODEL_FILE and (tenants is None or name in tenants) and reader.is_tenant(name):
            tenant = reader.tenant(name, columns or PolicyColumns())
            if tenant is not None:
                found[name] = tenant
    return PolicyDirectory(
        model_text,
        base,
        found,
        tuple(reader.findings),
        columns or PolicyColumns(),
        columns_known=columns is not None,
        model_present=model_present,
    )


def git_commit_of(path: Path | str) -> str | None:
    """Return the commit that the directory's Git work tree is at, with `-dirty` when files below differ from it.

    None outside a work tree, without commits, or without git.
    """
    head = _git(path, "rev-parse", "--verify", "--quiet", "HEAD")
    if not head:
        return None
    changed = _git(path, "status", "--porcelain", "--untracked-files=normal", "--", ".")
    return head if changed == "" else f"{head}-dirty"


def _git(path: Path | str, *arguments: str) -> str | None:
    # A repository's own configuration may name programs to run: none are wanted here.
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(path), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT_SECONDS,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class _Refused:
    message: str
    hint: str
    line: int = 1
    column: int = 1
    code: str = "unreadable"


class _DirectoryReader:
    """Reads files below one root and collects findings."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.findings: list[Finding] = []

    def is_tenant(self, name: str) -> bool:
        """Whether `name` is a tenant's directory; reports names that look like one but cannot be."""
        path = self._root / name
        if not path.is_dir():
            self._misplaced(name)
            return False
        if not any((path / file).exists() or (path / file).is_symlink() for file in _TENANT_FILES):
            message = f"`{name}` holds no {POLICY_FILE} and is left out"
            hint = f"write a {POLICY_FILE} there, or let its name begin with a dot"
            self._report(name, "not-a-tenant", message, hint, severity=Severity.WARNING)
            return False
        try:
            parse_slug(name)
        except InvalidSlugError as error:
            self._report(name, "bad-slug", str(error), "name the directory as the tenant's slug")
            return False
        return True

    def tenant(self, slug: str, columns: PolicyColumns) -> TenantFiles | None:
        """Return the files of one tenant, or None when its directory is not inside the root."""
        directory = self._root / slug
        if self._outside(directory):
            self._report(slug, "symlink", f"`{slug}` leads out of the policy directory", "copy the directory here")
            return None
        before = len(self.findings)
        policy = ParsedPolicy()
        entities = ParsedEntities()
        cases = ParsedCases()
        text = self.text(f"{slug}/{POLICY_FILE}", MAX_CSV_BYTES, required=True)
        if text is not None:
            policy = parse_policy(text, slug, columns)
        text = self.text(f"{slug}/{ENTITIES_FILE}", MAX_YAML_BYTES)
        if text is not None and slug == BASE_SLUG:
            hint = "attributes belong to a tenant: move the file into its directory"
            self._report(f"{slug}/{ENTITIES_FILE}", "base-entities", "`_base` has no entities of its own", hint)
        elif text is not None:
            entities = parse_entities(text, slug)
        text = self.text(f"{slug}/{CASES_FILE}", MAX_YAML_BYTES)
        if text is not None:
            cases = parse_cases(text, slug)
        self._unknown_files(slug)
        own = self.findings[before:]
        del self.findings[before:]
        return TenantFiles(
            slug,
            tuple(policy.rules),
            tuple(policy.links),
            tuple(entities.entities),
            tuple(cases.cases),
            tuple(in_order([*own, *policy.findings, *entities.findings, *cases.findings])),
            policy_lines=policy.lines,
            entity_columns=entities.columns,
        )

    def text(self, name: str, limit: int, *, required: bool = False) -> str | None:
        """Return the text of a file below the root, or None after reporting why not."""
        outcome = self._read(name, limit)
        if outcome is None:
            if required:
                hint = "an empty one gives nobody anything" if name.endswith(POLICY_FILE) else "write it"
                self._report(name, "missing-file", f"`{name}` is missing", hint)
            return None
        if isinstance(outcome, _Refused):
            severity = Severity.ERROR
            finding = Finding(name, outcome.line, outcome.column, outcome.code, severity, outcome.message, outcome.hint)
            self.findings.append(finding)
            return None
        return outcome

    def _read(self, name: str, limit: int) -> str | _Refused | None:
        path = self._root / name
        if not path.exists() and not path.is_symlink():
            return None
        if self._outside(path):
            return _Refused("leads out of the policy directory", "copy the file here", code="symlink")
        try:
            # O_NONBLOCK: opening a pipe that nobody writes to must not wait for ever.
            descriptor = os.open(path.resolve(strict=True), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return _Refused("not a regular file", "put a file there")
                data = file.read(limit + 1)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            return _Refused(f"cannot be read: {reason}", "put a file there that you may read")
        if len(data) > limit:
            return _Refused(f"larger than {limit // 1024:,} KiB", "keep less in one file", code="too-large")
        if data.count(0) * _UTF_16_SHARE > len(data):
            return _Refused("not UTF-8 but UTF-16, as it seems", "save the file as UTF-8", code="encoding")
        try:
            return data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            before = data[: error.start]
            line = before.count(b"\n") + 1
            column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
            return _Refused("not UTF-8", "save the file as UTF-8", line, column, "encoding")

    def _outside(self, path: Path) -> bool:
        try:
            return not path.resolve().is_relative_to(self._root)
        except (OSError, RuntimeError):
            return True

    def _misplaced(self, name: str) -> None:
        """Report what is no directory beside the tenants, where somebody may have meant it to count."""
        path = self._root / name
        if path.is_symlink() and not path.exists():
            self._report(name, "symlink", f"`{name}` leads nowhere", "mend the link, or remove it")
        elif name in _TENANT_FILES:
            message = f"`{name}` belongs to no tenant here and is not read"
            hint = "move it into the directory of its tenant"
            self._report(name, "unknown-file", message, hint, Severity.WARNING)
        elif difflib.get_close_matches(name.lower(), [MODEL_FILE], cutoff=0.8):
            message = f"`{name}` is no file of a policy directory and is not read"
            self._report(name, "unknown-file", message, f"did you mean `{MODEL_FILE}`?", Severity.WARNING)

    def _unknown_files(self, slug: str) -> None:
        for name in self._names(slug):
            near = difflib.get_close_matches(name.lower(), _TENANT_FILES, n=1, cutoff=0.75)
            if name not in _TENANT_FILES and near and name.lower().endswith((".csv", ".yaml", ".yml")):
                message = f"`{name}` is no file of a policy directory and is not read"
                hint = f"did you mean `{near[0]}`?"
                self._report(f"{slug}/{name}", "unknown-file", message, hint, Severity.WARNING)

    def _names(self, slug: str) -> list[str]:
        try:
            return sorted(path.name for path in (self._root / slug).iterdir())
        except OSError as error:
            hint = "make it a directory that you may read"
            self._report(slug, "unreadable", f"cannot be listed: {error.strerror or error}", hint)
            return []

    def _report(self, file: str, code: str, message: str, hint: str, severity: Severity = Severity.ERROR) -> None:
        self.findings.append(Finding(file, 1, 1, code, severity, message, hint))
