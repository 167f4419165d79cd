"""How pages look: the tenant's name, logo and colour, and what every page's headers say."""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tenancy.tenant_settings import BrandingSettings

ACCENT = "#1f4f8f"
_COLOUR = re.compile(r"#[0-9a-f]{6}\Z")
_DARK = 0.179
"""Relative luminance below which white is easier to read on a colour than black (WCAG 2.2, contrast ratio)."""


@dataclass(frozen=True, slots=True)
class Look:
    """A tenant's look; without one, Kasbah's own."""

    name: str = "Kasbah"
    logo_url: str | None = None
    support_url: str | None = None
    accent: str = ACCENT

    @property
    def on_accent(self) -> str:
        """What is read best on the accent colour."""
        return "#ffffff" if luminance(self.accent) < _DARK else "#000000"

    @property
    def logo_origin(self) -> str | None:
        """The only place that a page loads anything from."""
        return None if self.logo_url is None else "{0.scheme}://{0.netloc}".format(urlsplit(self.logo_url))


def look_of(tenant_name: str, branding: BrandingSettings) -> Look:
    """Return a tenant's look.

    SECURITY: what is no https address, or no colour, is left out, however it came into the settings.
    """
    logo, support = (
        url if url is not None and url.startswith("https://") and urlsplit(url).netloc else None
        for url in (branding.logo_url, branding.support_url)
    )
    accent = branding.accent_colour or ""
    return Look(branding.name or tenant_name, logo, support, accent if _COLOUR.match(accent) else ACCENT)


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)  # noqa: PLR2004
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def render(template: str, *, look: Look | None = None, status: int = 200, **values: Any) -> web.Response:
    """Return a page. It has no script, and nothing of it is kept or framed anywhere."""
    look = look or Look()
    style = _environment().get_template("style.css").render(look=look)
    # SECURITY: only this very style is taken; it holds nothing from outside but a colour of six digits.
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    body = _environment().get_template(template).render(look=look, style=style, **values)
    response = web.Response(status=status, text=body, content_type="text/html", charset="utf-8")
    sources = {
        "default-src": "'none'",
        "style-src": f"'sha256-{style_hash}'",
        "img-src": look.logo_origin or "'none'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    response.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in sources.items())
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
    return response


@lru_cache(maxsize=1)
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
