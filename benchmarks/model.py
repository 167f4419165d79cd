"""The compiled default model."""

import hashlib

from authz.casbin_oracle import parse_model
from authz.compiler import compile_served
from authz.served_model import ServedModel


def served_model(text: str) -> ServedModel:
    """Return the served form of a model."""
    return compile_served(parse_model(text), hashlib.sha256(text.encode()).hexdigest())
