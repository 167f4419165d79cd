"""The compiled default model."""

from authz.compile_model import compile_model
from authz.ports import StoredModel
from authz.served_model import ServedModel


def served_model(text: str) -> ServedModel:
    """Return the served form of a model."""
    return compile_model(StoredModel.of(text))
