"""Numbers as people write them."""

from __future__ import annotations


def number_text(value: float | None) -> str:
    """0.00001 is `1e-5`, and so is every number that short; None is empty."""
    if value is None:
        return ""
    text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def rate_text(value: float) -> str:
    """A learning rate as it is usually written: 0.0002 is `2e-4`, 0.01 stays."""
    plain = number_text(value)
    digits, _, exponent = f"{value:e}".partition("e")
    short = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return short if len(short) < len(plain) and float(short) == value else plain


def size(count: float) -> str:
    """Bytes for people, in powers of 1000 as the page and file managers show them."""
    if count == 1:
        return "1 byte"
    for unit in ("bytes", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
