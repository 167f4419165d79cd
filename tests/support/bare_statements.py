"""Statements without the application's own filters, so that row-level security stands alone."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from tenancy import one_trip

FILTER = re.compile(r"(?<![a-z_.])(?:[a-z_]+\.)?tenant_id = %\(tenant_id\)s(?:::UUID|::uuid)?")
_REST = re.compile(r"tenant_id = %\(")


@dataclass
class Bare:
    """What was rewritten."""

    statements: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    """Statements that compare a tenant in another way."""

    def rewritten(self, statement: str) -> str:
        """Return a statement with every `tenant_id = :tenant_id` made true."""
        bare, count = FILTER.subn("true", statement)
        if count:
            self.statements.add(bare)
        if _REST.search(bare):
            self.left.add(bare)
        return bare


@contextlib.contextmanager
def bare_statements(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bare]:
    """Take the filters out of every statement of an engine, those of one trip included."""
    bare = Bare()

    def rewrite(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, _m: Any) -> tuple[str, Any]:
        return bare.rewritten(statement), parameters

    text_of = one_trip._text_of
    with monkeypatch.context() as patched:
        patched.setattr(one_trip, "_text_of", lambda statement: bare.rewritten(text_of(statement).decode()).encode())
        event.listen(engine.sync_engine, "before_cursor_execute", rewrite, retval=True)
        try:
            yield bare
        finally:
            event.remove(engine.sync_engine, "before_cursor_execute", rewrite)
