"""The role that the service becomes on every connection: it owns nothing and cannot bypass row-level security."""

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

SERVICE_ROLE = "kasbah_service"

CREATE_ROLE_SQL = f"CREATE ROLE {SERVICE_ROLE} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"


class ServiceRoleError(Exception):
    """The service role cannot be made, granted or trusted; the message holds the SQL an administrator must run."""


def ensure_service_role(connection: Connection) -> None:
    """Create the role where it is missing and make the current user a member.

    Roles belong to the whole cluster, so another database's migration may have made it already, or make it now.

    Raises:
        ServiceRoleError: rights are missing, or an existing role is too powerful.
    """
    if not _role_exists(connection):
        _try(connection, CREATE_ROLE_SQL)
    if not _role_exists(connection):
        user = connection.scalar(text("SELECT quote_ident(current_user)"))
        raise ServiceRoleError(
            f"this database user may not create the role `{SERVICE_ROLE}`; let an administrator run: "
            f"{CREATE_ROLE_SQL}; GRANT {SERVICE_ROLE} TO {user};"
        )
    _require_harmless(connection)
    if not _is_member(connection):
        _try(connection, f"GRANT {SERVICE_ROLE} TO CURRENT_USER")
    if not _is_member(connection):
        user = connection.scalar(text("SELECT quote_ident(current_user)"))
        raise ServiceRoleError(
            f"this database user is no member of `{SERVICE_ROLE}`; let an administrator run: "
            f"GRANT {SERVICE_ROLE} TO {user};"
        )


def _role_exists(connection: Connection) -> bool:
    return connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": SERVICE_ROLE}) is not None


def _is_member(connection: Connection) -> bool:
    return bool(connection.scalar(text("SELECT pg_has_role(current_user, :role, 'MEMBER')"), {"role": SERVICE_ROLE}))


def _require_harmless(connection: Connection) -> None:
    powerful = connection.scalar(
        text("SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = :role"),
        {"role": SERVICE_ROLE},
    )
    if powerful:
        raise ServiceRoleError(
            f"the role `{SERVICE_ROLE}` could bypass row-level security; let an administrator run: "
            f"ALTER ROLE {SERVICE_ROLE} NOSUPERUSER NOBYPASSRLS NOCREATEROLE;"
        )


def _try(connection: Connection, statement: str) -> None:
    """Run a statement; that it failed (missing rights, another migrator was first) shows in the check after it."""
    try:
        with connection.begin_nested():
            connection.execute(text(statement))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in {"42501", "42710", "23505", "XX000"}:
            raise
