"""Where things stand, relative to the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHARED_DATA = Path(os.environ.get("KASBAH_SHARED_DATA") or ROOT.parent / "shared" / "data")
"""Public policies, requests and expected decisions; stands beside the checkout, or where KASBAH_SHARED_DATA says."""


def require_shared_data(*parts: str) -> Path:
    """Return a path below `SHARED_DATA`, or skip the test (or module) that needs it, saying so."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no shared data at {path}: set KASBAH_SHARED_DATA", allow_module_level=True)
    return path
