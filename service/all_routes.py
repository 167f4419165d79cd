"""Everything that is served."""

from service import health
from service.http import authzen, forward_auth
from service.routes import Route


def all_routes() -> tuple[Route, ...]:
    """Return the whole route table."""
    return (*authzen.ROUTES, *forward_auth.ROUTES, *health.ROUTES)
