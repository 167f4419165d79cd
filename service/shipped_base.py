"""The base that comes with Kasbah: `policies/_base/policy.csv`, packaged beside the engine."""

from importlib import resources
from pathlib import Path

from authz.default_model import DEFAULT_MODEL_TEXT
from authz.policy_files import parse_policy, read_columns
from authz.rules import BASE_SLUG, Row

_PACKAGED = "base_policy.csv"


def shipped_base() -> list[Row]:
    """Return the rows of the shipped base, as its file says them.

    Raises:
        ValueError: the file is not as it was shipped.
    """
    columns = read_columns(DEFAULT_MODEL_TEXT)
    if columns is None:
        raise ValueError("the default model has no policy definition")
    parsed = parse_policy(_text(), BASE_SLUG, columns)
    if parsed.findings or not parsed.rules:
        raise ValueError(f"the shipped base is damaged: {parsed.findings[:1]}")
    return [*parsed.rules, *parsed.links]


def _text() -> str:
    """Return the packaged copy; in a checkout, which has none, the file itself."""
    packaged = resources.files("authz").joinpath(_PACKAGED)
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(__file__).resolve().parents[1] / "policies" / BASE_SLUG / "policy.csv").read_text("utf-8")
