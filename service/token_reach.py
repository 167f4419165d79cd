"""What access tokens do not reach: whatever makes, changes or ends credentials, factors and sessions.

SECURITY: a token of minutes, at a client that its person may hardly know, must not become a key of a year or another
password. What people do about their own credentials says `interactive` already; here is what administration does.
"""

from service.routes import Needs

_SCOPES = frozenset({"account:write", "key:write"})
"""Everything that they stand for is about credentials."""

_ACTIONS = frozenset(
    {
        ("kasbah:key", "write"),
        ("kasbah:service-account", "keys"),
        ("kasbah:user", "clear-failures"),
        ("kasbah:user", "end-sessions"),
        ("kasbah:user", "import"),
        ("kasbah:user", "reset-factors"),
        ("kasbah:user", "reset-password"),
    }
)


def is_about_credentials(access: Needs) -> bool:
    """Return whether a route makes, changes or ends credentials, factors or sessions."""
    return access.interactive or access.scope in _SCOPES or (access.resource, access.action) in _ACTIONS
