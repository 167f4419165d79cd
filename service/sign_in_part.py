"""Opens what signing in needs: Valkey for challenges and sessions."""

from collections.abc import AsyncIterator

from aiohttp import web

from authn.challenge_storage import ChallengeStore
from authn.volatile_values import VolatileValues
from authz.settings import CacheSettings
from service.app import Part
from service.keys import CHALLENGES, NODE, VOLATILE


def volatile(settings: CacheSettings) -> Part:
    """Return the part; it opens after the node, whose time it uses."""

    async def part(app: web.Application) -> AsyncIterator[None]:
        values = app[VOLATILE] = VolatileValues(
            settings.url.get_secret_value(),
            settings.secret.get_secret_value().encode(),
            timeout_seconds=settings.timeout.total_seconds(),
        )
        app[CHALLENGES] = ChallengeStore(values, app[NODE].now)
        yield
        await values.close()

    return part
