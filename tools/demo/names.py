"""Invented names of people, villages and ships, and small helpers for English words."""

from random import Random

from tools.demo.facts import listed

_STARTS = listed("""
    Bar Bel Cor Dor El Fen Gar Hal Is Jor Kel Lor Mar Nor Os Per Quin Ros Sel Tor Ul Vel Wil Yor Zel Arn Brin
    Clar Hett Ann Will
""")
_MIDDLES = ["", "", *listed("a e i o u ra le ri lo va be di ga mi ne sho")]
_PERSON_ENDS = listed("bert dan fred gar la lin mund na nor ric rra sa tta vin wen win zo ck kko ppi")
_VILLAGE_ENDS = listed("""
    bridge brook bury dale field ford gate ham hill mill mouth port stead ton wick wood haven by
""")
_SHIP_FIRST = listed("Silver Golden Northern Quiet Brave Blue Early White Happy Swift")
_SHIP_LAST = listed("Swan Star Gull Lady Wind Dolphin Morning Arrow Wave Lantern")
_PLURAL_FOODS = {"pancakes", "noodles", "pickles"}


def person(rng: Random) -> str:
    """An invented first name; there are about ten thousand of them, so that every pair of letters occurs."""
    return rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_PERSON_ENDS)


def village(rng: Random) -> str:
    """An invented village."""
    return rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_VILLAGE_ENDS)


def ship(rng: Random) -> str:
    """The name of a ship, with its article."""
    return f"the {rng.choice(_SHIP_FIRST)} {rng.choice(_SHIP_LAST)}"


def with_article(noun: str) -> str:
    """`owl` -> `an owl`."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def capital(sentence: str) -> str:
    """The sentence with a capital first letter."""
    return sentence[:1].upper() + sentence[1:]


def is_plural(food: str) -> bool:
    """Whether a dish takes a plural verb: `noodles are`, but `soup is`."""
    return food in _PLURAL_FOODS


def spelled(word: str) -> str:
    """`fox` -> `f-o-x`."""
    return "-".join(word.lower())
