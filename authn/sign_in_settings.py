"""What limits sign-ins beside a tenant's own settings: bounds of the platform."""

from pydantic import BaseModel, ConfigDict, Field


class SignInLimits(BaseModel):
    """Failed sign-ins of one network, and of a whole tenant; and how long a device stays known.

    A known device is asked about neither: nobody else's failures are its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network_failures: int = Field(default=20, ge=1, le=100_000)
    """Failures in a row that one network (an IPv4 address, or 64 bits of IPv6) has without a wait, in each tenant."""
    network_first_wait_seconds: int = Field(default=30, ge=1, le=3600)
    """The wait after the next one; it doubles with each that follows."""
    network_longest_wait_seconds: int = Field(default=900, ge=1, le=86_400)
    """The longest one."""
    network_forget_seconds: int = Field(default=3600, ge=1, le=30 * 86_400)
    """A network whose last failure is so long ago begins anew."""
    tenant_failures: int = Field(default=1000, ge=1, le=10_000_000)
    """Failures of a whole tenant in `tenant_window_seconds` before it counts as attacked."""
    tenant_window_seconds: int = Field(default=600, ge=1, le=86_400)
    """How long failures of a whole tenant are counted together."""
    attacked_network_failures: int = Field(default=2, ge=1, le=100_000)
    """Takes the place of `network_failures` while a tenant is attacked."""
    device_days: int = Field(default=180, ge=1, le=3650)
    """How long a device stays known that nobody signs in from."""
