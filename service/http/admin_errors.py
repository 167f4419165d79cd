"""Failures of the administration's edge; `service/problems.py` says how each is answered."""

from service.edge_errors import EdgeError


class PlanMismatchError(EdgeError):
    """The rows to apply are not those of the plan whose digest came with them."""


class KeyScopeError(EdgeError):
    """A key that could do what its maker's key may not."""
