"""From the platform's model, as it is stored, to the form that is served."""

from authz.casbin_oracle import parse_model
from authz.compiler import compile_served
from authz.ports import StoredModel
from authz.served_model import ServedModel


def compile_model(model: StoredModel) -> ServedModel:
    """Return the served form of a `model.conf`.

    Raises:
        ModelError: it cannot be read, or is not fit to be served; the message says why.
    """
    return compile_served(parse_model(model.text), model.digest)
