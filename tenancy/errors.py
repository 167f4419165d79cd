"""Failures of the tenancy package."""


class TenancyError(Exception):
    """Base of all failures of this package."""


class DatabaseUnavailableError(TenancyError):
    """PostgreSQL did not answer in time: nothing is known. A write may or may not have happened."""


class AuditUnavailableError(TenancyError):
    """The audit must not be written now, so what it would record was not done."""


class UnsafeDatabaseRoleError(TenancyError):
    """The service's database role could bypass row-level security, or the schema lacks it: it must not start."""


class SlugTakenError(TenancyError):
    """The slug names a tenant, or named one: slugs are never used again."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"the slug `{slug}` is taken")
        self.slug = slug


class IdempotencyConflictError(TenancyError):
    """The request was answered before, and the answer cannot be given again."""


class IdempotencyKeyReusedError(TenancyError):
    """The same idempotency key came with another request."""


class InvalidSettingsError(TenancyError):
    """A setting that no tenant can have. `pointer` is an RFC 6901 pointer to it."""

    def __init__(self, message: str, pointer: str) -> None:
        super().__init__(message)
        self.pointer = pointer


class SettingsOutOfBoundsError(InvalidSettingsError):
    """A setting that is laxer than the platform allows."""


class TenantGoneError(TenancyError):
    """There is no such tenant, or no longer."""


class TenantStatusError(TenancyError):
    """What was asked does not fit the tenant's status."""


class TenantMovedOnError(TenancyError):
    """The tenant is at another revision than the one that was to be changed."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"the tenant is at revision {revision}")
        self.revision = revision


class UnsealError(TenancyError):
    """A sealed value does not open here. SECURITY: always this one sentence, so that nobody learns why."""

    def __init__(self) -> None:
        super().__init__("a sealed value does not open")


class EncryptionUnavailableError(TenancyError):
    """What wraps data keys did not answer, or refused: this operation cannot be done now."""


class UnknownKeyError(EncryptionUnavailableError):
    """A data key is wrapped by a key-encryption key that this node was not given."""


class WrappedKeyRefusedError(EncryptionUnavailableError):
    """A data key does not open with the key-encryption key that it names: damaged, moved, or another of that name."""


class KeyNotEverywhereError(TenancyError):
    """Nodes that run lack the key-encryption key that a rotation should go over to."""

    def __init__(self, kek_id: str, lacking: int, nodes: int) -> None:
        super().__init__(f"{lacking} of {nodes} nodes were not given the key `{kek_id}`, or another under this name")


class RotationUnderWayError(TenancyError):
    """Keys are being rotated already."""

    def __init__(self) -> None:
        super().__init__("keys are being rotated already")
