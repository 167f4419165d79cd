"""The description of every route: packaged with the service, and `docs/openapi.yaml` in a checkout."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

METHODS = ("get", "head", "options", "post", "put", "patch", "delete")


@cache
def read_openapi() -> dict[str, Any]:
    """Return the document; raises `FileNotFoundError` when neither is there."""
    packaged = files("service") / "openapi.yaml"
    checkout = Path(__file__).parent.parent / "docs" / "openapi.yaml"
    text = packaged.read_text("utf-8") if packaged.is_file() else checkout.read_text("utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document
