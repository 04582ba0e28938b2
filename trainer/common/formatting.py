"""Formatting of numbers, the same on the page, the command line and in reports.

Sizes, of files and of memory alike, are in powers of 1000 (kB, MB, GB), with three significant digits, as are counts
(`1.23 M`) and measured learning rates (`7.81e-5`). Losses have LOSS_DECIMALS decimals, since selections often differ
only in the third. Numbers that must be exact, such as a run's trainable parameters in a sentence, are written as
`{:,}`. Unknown values are `UNKNOWN`.
"""

from __future__ import annotations

import math
import time

UNKNOWN = "–"
LOSS_DECIMALS = 4


def number_text(value: float | None) -> str:
    """A setting's exact value: 0.00001 is `1e-5`; None is empty."""
    if value is None:
        return ""
    text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def rate_text(value: float) -> str:
    """A learning rate's exact value, as usually written: 0.0002 is `2e-4`, 0.01 stays."""
    plain = number_text(value)
    digits, _, exponent = f"{value:e}".partition("e")
    short = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return short if len(short) < len(plain) and float(short) == value else plain


def learning_rate(value: float | None) -> str:
    """A learning rate at some step, rounded: `7.81e-5`."""
    return UNKNOWN if value is None or not math.isfinite(value) else rate_text(float(f"{value:.3g}"))


def count(number: float | None) -> str:
    """A number of parameters, tokens or examples: 1234567 is `1.23 M`."""
    return UNKNOWN if number is None else _scaled(number, ("T", "B", "M", "k"))


def plural(number: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(number: float | None) -> str:
    """Bytes: 1234567 is `1.23 MB`."""
    return UNKNOWN if number is None else _scaled(number, ("TB", "GB", "MB", "kB"), "B")


def percent(share: float) -> str:
    """A share: 0.0123 is `1.23 %`, 0.714 is `71 %`, 0.996 is `99.6 %`."""
    value = 100 * share
    if not value:
        return "0 %"
    if value < 0.005:
        return "< 0.01 %"
    digits = 2 if value < 9.995 else 1 if 99 < value < 99.95 else 0
    return f"{value:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """A time span: 0.42 is `0.4 s`, 95 is `1 min 35 s`, 3725 is `1 h 2 min`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if 0.05 <= seconds < 0.95:
        return f"{seconds:.1f} s"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def loss(value: float | None) -> str:
    """A loss, or its standard deviation over seeds: `1.9480`."""
    return decimals(value, LOSS_DECIMALS)


def decimals(value: float | None, places: int = 2) -> str:
    """Another measured figure (perplexity, gradient norm), with fewer digits if it is large."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value and abs(value) < 10**-places:
        return learning_rate(value)
    return f"{value:.{places}f}" if abs(value) < 1000 else f"{value:,.0f}"


def moment(stamp: float) -> str:
    """Seconds since 1970 as local time: `2026-01-31 14:05`."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp))


def since(stamp: float) -> str:
    """A moment of the past as local time: `14:05`; `2026-01-31 14:05` if it was on another day."""
    text = moment(stamp)
    return text[-5:] if text[:10] == moment(time.time())[:10] else text


def about(seconds: float) -> str:
    """An estimated time span, in minutes: `less than a minute`, `about 12 min`, `about 1 h 2 min`."""
    minutes = math.ceil(seconds / 60)
    if minutes <= 1:
        return "less than a minute"
    return f"about {minutes} min" if minutes < 60 else f"about {duration(60 * minutes)}"


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `11th`."""
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def _scaled(number: float, units: tuple[str, str, str, str], one: str = "") -> str:
    """Three significant digits, in the largest of `units` (powers of 1000) that gives at least 1."""
    for unit, step in zip(units, (1e12, 1e9, 1e6, 1e3), strict=True):
        if abs(number) >= step * 0.9995:
            scaled = number / step
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{number:,.0f} {one}".rstrip()
