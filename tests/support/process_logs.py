"""What the processes of a test said: shown when it fails."""

import io
from dataclasses import dataclass
from pathlib import Path

MOST_CHARACTERS = 8000


@dataclass
class _Log:
    title: str
    path: Path
    begun: int = 0


here = io.StringIO()
"""What a service in the test's own process says; commands that run there as well print elsewhere."""

_logs: dict[Path, _Log] = {}


def follow(title: str, path: Path) -> None:
    """Show what a process writes to this file when a test fails meanwhile."""
    _logs[path] = _Log(title, path)


def begin_test() -> None:
    """What was said so far belongs to other tests."""
    here.seek(0)
    here.truncate()
    for log in list(_logs.values()):
        try:
            log.begun = log.path.stat().st_size
        except OSError:
            del _logs[log.path]


def said_in_test() -> list[tuple[str, str]]:
    """Return the title of each log and the end of what was written to it since `begin_test`."""
    found = [("service in this process", here.getvalue()[-MOST_CHARACTERS:])] if here.getvalue() else []
    for log in _logs.values():
        try:
            data = log.path.read_bytes()
        except OSError:
            continue
        new = data[log.begun :] if len(data) >= log.begun else data  # a server that is started again begins a new one
        if new:
            found.append((f"{log.title} ({log.path})", new.decode("utf-8", "replace")[-MOST_CHARACTERS:]))
    return found
