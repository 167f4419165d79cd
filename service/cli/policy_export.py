"""Writes what a server exported as a policy directory, so that reading it gives the same rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from authz.policy_files import UnwritableRowError, read_columns, write_entities, write_policy_csv
from authz.policy_files.values import ENTITIES_FILE, MODEL_FILE, POLICY_FILE
from authz.rules import BASE_SLUG, Owner, RoleLink, Row, Rule, StoredEntity
from service.cli.output import ExitCode, fail
from service.http.policy_wire import RowWire, from_wire
from tenancy.ids import InvalidSlugError, parse_slug


def write_export(directory: Path, exported: Sequence[dict[str, Any]], *, owner: str | None, force: bool) -> list[str]:
    """Write `model.conf` and the files of every exported tenant; return their paths.

    Args:
        directory: Made when it is missing.
        exported: Answers of the server.
        owner: Whose rows; None for all.
        force: Overwrite files that are there and say something else.
    """
    texts: dict[Path, str] = {}
    for tenant in exported:
        slug = _checked_slug(tenant["tenant"])
        texts[directory / MODEL_FILE] = tenant["model"]
        rows = [
            from_wire(msgspec.convert(row, RowWire), owner=Owner(row["owner"]), base=slug == BASE_SLUG)
            for row in tenant["rows"]
            if owner is None or row["owner"] == owner
        ]
        try:
            texts.update(_tenant_texts(directory / slug, slug, rows, tenant["model"]))
        except UnwritableRowError as error:
            fail(f"{slug} holds a row that policy files cannot say: {error}", ExitCode.REFUSED)
    there = [path for path, text in texts.items() if path.exists() and not _says(path, text)]
    if there and not force:
        fail(f"`{there[0]}` is there already: use --force, or another directory", ExitCode.REFUSED)
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        fail(f"`{error.filename}` cannot be written: {error.strerror}", ExitCode.REFUSED)
    return [str(path) for path in texts]


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _checked_slug(slug: str) -> str:
    """SECURITY: a server's answer must not choose where files are written."""
    if slug == BASE_SLUG:
        return slug
    try:
        return parse_slug(slug)
    except InvalidSlugError as error:
        fail(f"the server names a tenant strangely: {error}", ExitCode.REFUSED)


def _tenant_texts(place: Path, slug: str, rows: Sequence[Row], model: str) -> dict[Path, str]:
    rules = [row for row in rows if isinstance(row, Rule)]
    links = sorted((row for row in rows if isinstance(row, RoleLink)), key=_line)
    entities = sorted((row for row in rows if isinstance(row, StoredEntity)), key=lambda row: (row.kind, row.ref))
    texts = {place / POLICY_FILE: write_policy_csv(rules, links, slug=slug, columns=read_columns(model))}
    if entities:
        texts[place / ENTITIES_FILE] = write_entities(entities)
    return texts


def _line(link: RoleLink) -> tuple[int, str, str, str]:
    line = 2**31 if link.source is None else link.source.line
    return line, link.kind, link.member, link.role
