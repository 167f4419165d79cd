"""Settings of security keys and passkeys (WebAuthn); `service/settings.py` composes them with the other parts."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from authn.relying_party import RelyingParty, UserVerification, host_of, origin_at, origin_fault, rp_id_fault

MAX_ORIGINS = 16


class WebauthnSettings(BaseModel):
    """For which domain keys are made, and on which pages they work."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_enum_values=False)

    rp_id: str | None = None
    """Domain that keys are made for; they work on its subdomains, too. By default the host of the first origin. Another
    one later makes every key useless."""
    rp_name: str = Field(default="Kasbah", min_length=1, max_length=64)
    """What browsers show while they ask for a key."""
    origins: tuple[str, ...] = ()
    """Origins (`["https://login.example"]`) of the pages that may use keys. By default that of `KASBAH_PUBLIC_URL`; a
    loopback address there stands for `localhost`."""
    user_verification: UserVerification = UserVerification.PREFERRED
    """`required`: only keys that ask for a PIN or a fingerprint; `preferred`: where they can; `discouraged`: a touch is
    enough. The password stays the other factor in any case."""

    @field_validator("origins")
    @classmethod
    def _usable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            fault = origin_fault(origin)
            if fault is not None:
                raise ValueError(f"`{origin}` {fault}")
        if len(value) > MAX_ORIGINS or len(set(value)) != len(value):
            raise ValueError(f"at most {MAX_ORIGINS} origins, each once")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        fault = None if self.rp_id is None else rp_id_fault(self.rp_id, self.origins)
        if fault is not None:
            raise ValueError(f"`RP_ID`: {fault}")
        if self.rp_id is None and self.origins:
            fault = rp_id_fault(host_of(self.origins[0]), self.origins)
            if fault is not None:
                raise ValueError(f"`RP_ID` is the first origin's host where it is not set: {fault}")
        return self

    def relying_party(self, public_url: str) -> RelyingParty | None:
        """Return what keys are bound to, or None where the public URL alone is known and no browser offers keys on it.

        Raises:
            ValueError: the RP id that is set fits not to the public URL.
        """
        origins = self.origins
        if not origins:
            derived = origin_of(public_url)
            fault = origin_fault(derived)
            if fault is not None:
                if self.rp_id is not None:
                    raise ValueError(f"`ORIGINS` must be set: the public URL's `{derived}` {fault}")
                return None
            origins = (derived,)
        rp_id = self.rp_id or host_of(origins[0])
        fault = rp_id_fault(rp_id, origins)
        if fault is not None:
            raise ValueError(f"`RP_ID`: {fault}")
        return RelyingParty(rp_id, self.rp_name, origins, self.user_verification)


def origin_of(url: str) -> str:
    """Return the origin of a URL."""
    parts = urlsplit(url)
    return origin_at(parts.scheme, parts.hostname or "", parts.port)
