"""How values are written on a page.

Guarantees: text has no sign that can't be seen or that turns the direction of others around: such
signs are shown as their code. Epsilons are rounded up.
"""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup


def mark(template: str, *values: Any, **named: Any) -> Markup:
    """Markup with values in it, escaped and `shown`."""
    plain = {name: shown(value) for name, value in named.items()}
    return Markup(template).format(*map(shown, values), **plain)  # noqa: S704 - our own templates


def shown(value: Any) -> Any:
    """A value as a page may have it: text without signs that can't be seen."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else _code(c) for c in value)


def epsilon(value: float | None, digits: int = 3) -> str:
    """An epsilon, rounded up; what isn't claimed says so."""
    if value is None:
        return "not claimed"
    if not math.isfinite(value):
        return "unbounded"
    scale = 10**digits
    return f"{math.ceil(value * scale - 1e-9) / scale:.{digits}f}"


def short(value: str, length: int = 12) -> str:
    """The beginning of a digest."""
    return value if len(value) <= length else value[:length]


def at(value: str | None) -> str:
    """A time in UTC, without what leaves don't say."""
    if not value:
        return ""
    return re.sub(r":00Z$", "", str(value).replace("T", " ")).removesuffix("Z")


def url(path: str, **given: Any) -> str:
    """A link within the dashboard; what is None is left out."""
    query = urlencode({k: v for k, v in given.items() if v is not None}, quote_via=quote)
    return f"{path}?{query}" if query else path


def percent(value: float) -> str:
    """A part of a whole."""
    return f"{100 * value:.1f} %"


def _code(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"
