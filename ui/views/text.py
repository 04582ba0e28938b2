"""Numbers, times and foreign text, as the page writes them."""

from __future__ import annotations

import html
import math
import time


def escape(text: object) -> str:
    """Foreign text made safe for HTML, attributes included."""
    return html.escape(str(text), quote=True)


def count(number: float | None) -> str:
    """1234567 -> `1.23 M`."""
    if number is None:
        return "–"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size * 0.9995:
            return f"{_three(number / size)} {unit}"
    return f"{number:,.0f}"


def size(number: float | None) -> str:
    """Bytes -> `12.3 MB`, in powers of 1000 as file managers show them."""
    if number is None:
        return "–"
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= step * 0.9995:
            return f"{_three(number / step)} {unit}"
    return f"{number:,.0f} B"


def percent(share: float) -> str:
    """0.0123 -> `1.23 %`."""
    if 0 < share < 0.00005:
        return "< 0.01 %"
    return f"{_three(share * 100)} %"


def seconds(number: float | None) -> str:
    """3725 -> `1:02:05`."""
    if number is None or not math.isfinite(number):
        return "–"
    whole = max(0, round(number))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def figure(number: float | None, digits: int = 4) -> str:
    """A loss or a norm, with few but enough digits."""
    if number is None or not math.isfinite(number):
        return "–"
    if number and abs(number) < 10 ** -(digits - 1):
        return short(number)
    return f"{number:.{digits - 1}f}" if abs(number) < 1000 else f"{number:,.0f}"


def short(number: float | None) -> str:
    """A learning rate: three significant digits, small ones as `7.8e-5`."""
    if number is None or not math.isfinite(number):
        return "–"
    mantissa, exponent = f"{number:.2e}".split("e")
    small = number and abs(number) < 1e-3
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if small else f"{number:.3g}"


def moment(stamp: float) -> str:
    """Seconds since 1970 -> `2026-01-31 14:05`, local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp))


def _three(number: float) -> str:
    """Three significant digits, without a trailing point."""
    digits = 2 if abs(number) < 10 else 1 if abs(number) < 100 else 0
    return f"{number:.{digits}f}"
