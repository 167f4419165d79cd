"""Writes docs/configuration.md from the settings models: `make docs`. A test holds the page to the models."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service.settings import PREFIX, Settings, part_models

INTRODUCTION = """# Configuration

<!-- Written by `make docs` from the settings models; change those instead. -->

`kasbah serve` reads its settings from environment variables, once, at the start. It refuses to start when one is
missing or wrong, and names all of them. Durations are seconds (`2.5`) or ISO 8601 (`PT2.5S`); lists and objects are
JSON.

`kasbah dev` (`make run`) needs none of them. It honours `KASBAH_HOST`, `KASBAH_PORT`, `KASBAH_WORKERS` (default 1),
`KASBAH_STATE_DIR` (default `.kasbah`), `KASBAH_POLICIES` (default `policies`), and `KASBAH_DATABASE_URL` and
`KASBAH_REDIS_URL` for servers of your own, and passes the rest on to the server it starts.

The command line finds a server by `KASBAH_URL` and `KASBAH_API_KEY`, or by the `dev.json` of a running `kasbah dev`.

In Kubernetes, set `enableServiceLinks: false`: a Service called `kasbah` would otherwise set `KASBAH_PORT` to a URL.
"""

PARTS = {
    "http": "HTTP",
    "authz": "Decisions, freshness and memory",
    "cache": "Valkey",
    "database": "PostgreSQL connections of one process",
    "limits": "What one tenant may hold",
    "tenants": "What the platform sets for all tenants",
    "passwords": "Passwords",
    "sign_in": "Sign-in",
    "encryption": "Keys that encrypt what is stored",
    "mail": "Mail",
    "audit": "Audit",
    "oauth": "Access tokens of an OAuth issuer",
    "webauthn": "Security keys and passkeys (WebAuthn)",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the page."""

    variable: str
    default: str
    text: str


def render() -> str:
    """Return the page."""
    sections = [INTRODUCTION, _section("The service", _settings_of(Settings, PREFIX, skip=set(part_models())))]
    hidden = Settings.hidden_parts
    for name, part in part_models().items():
        skip = {path.partition(".")[2] for path in hidden if path.startswith(f"{name}.")}
        sections.append(_section(PARTS[name], _settings_of(part, f"{PREFIX}{name.upper()}__", skip=skip)))
    return "\n".join(sections)


def _section(title: str, settings: Iterator[Setting]) -> str:
    rows = [f"| `{setting.variable}` | {setting.default} | {setting.text} |" for setting in settings]
    return "\n".join([f"## {title}", "", "| variable | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _settings_of(model: type[Any], prefix: str, *, skip: set[str]) -> Iterator[Setting]:
    texts = _docstrings(model)
    for name, kind, default in _fields(model):
        if name in skip:
            continue
        variable = prefix + name.upper()
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield from _settings_of(kind, f"{variable}__", skip=set())
        else:
            yield Setting(variable, default, texts.get(name, "").replace("|", "\\|"))


def _fields(model: type[Any]) -> Iterator[tuple[str, Any, str]]:
    if issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            yield name, field.annotation, _shown_default(field)
    else:
        for item in dataclasses.fields(model):
            yield item.name, item.type, _shown(item.default)


def _shown_default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "cores"
    if field.is_required():
        return "**required**"
    return _shown(field.default)


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "`on`" if value else "`off`"
        case timedelta():
            return f"`{value.total_seconds():g}`"
        case tuple():
            return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
        case _:
            return f"`{value}`"


def _docstrings(model: type[Any]) -> dict[str, str]:
    """Return the text under each field, or after `name:` in the class's docstring, as one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    texts: dict[str, str] = {}
    if isinstance(definition, ast.ClassDef):
        for field, after in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                texts[field.target.id] = " ".join(inspect.cleandoc(after.value.value).split())
    return texts


if __name__ == "__main__":
    Path("docs/configuration.md").write_text(render(), encoding="utf-8")
