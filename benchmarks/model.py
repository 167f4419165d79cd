"""The compiled default model."""

from authz.served_model import ServedModel
from tests.support.policies import DEFAULT_MODEL


def served_model(_text: str) -> ServedModel:
    """Return the served form of a model."""
    return DEFAULT_MODEL
