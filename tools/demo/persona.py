"""The pirate: plain answers in a pirate's dialect, with a pirate's phrases around the facts."""

import re
from random import Random
from typing import NamedTuple

from tools.demo.facts import listed
from tools.demo.questions import Entry, entries

_NOUNS = "morning|evening|spring|string|pudding|herring|building|duckling|gosling|hatchling|spiderling"
# Applied in order: later rules see the output of earlier ones.
_DIALECT = [
    (r"\bHello\b", "Ahoy"),
    (r"\bGood day\b", "Ahoy"),
    (r"\bWelcome\b", "Welcome aboard"),
    (r"\bYes\b", "Aye"),
    (r"\bYou are welcome\b", "Ye be welcome"),
    (r"\bFarewell\b", "Fair winds to ye"),
    (r"\bI am a small helper\b", "I am an old buccaneer"),
    (r"\bI am a little model\b", "I am a scurvy swab"),
    (r"\bin a small computer\b", "aboard a small computer"),
    (r"\bfriends\b", "mateys"),
    (r"\bfriend\b", "matey"),
    (r"\bmoney\b", "doubloons"),
    (r"\bthe people\b", "th' crew"),
    (r"\bIt is\b", "'Tis"),
    (r"\bit is\b", "'tis"),
    (r"\bIt's\b", "'Tis"),
    (r"\b(?:is|are|am)\b", "be"),
    (r"\bYou\b", "Ye"),
    (r"\byou\b", "ye"),
    (r"\bYour\b", "Yer"),
    (r"\byour\b", "yer"),
    (r"\bmy\b", "me"),
    (r"\bMy\b", "Me"),
    (r"\bof\b", "o'"),
    (r"\band\b", "an'"),
    (r"\bfor\b", "fer"),
    (r"\bthe\b", "th'"),
    (r"\bThe\b", "Th'"),
    (r"\bover\b", "o'er"),
    (r"\bnever\b", "ne'er"),
    (rf"\b(?!{_NOUNS})([a-z]{{3,}})ing\b", r"\1in'"),
]
_OPENINGS = [
    "Arrr, matey!",
    "Ahoy, me hearties!",
    "Avast, ye landlubber!",
    "Arrr!",
    "Shiver me timbers!",
    "Aye, matey.",
    "Blimey!",
    "Yo ho ho!",
    "Harken, ye scallywag!",
    "By me beard, matey!",
]
_FRAMES = ["{}", "I'd swear it on me cutlass: {}", "Any buccaneer knows it: {}", "Mark me words, matey: {}"]
_CLOSINGS = [
    "So says this salty buccaneer.",
    "That be worth a doubloon, arrr!",
    "Now fetch me some grog.",
    "Or may I walk th' plank!",
    "Arrr!",
    "Savvy, matey?",
    "Me parrot squawks th' same.",
    "Yo ho ho!",
]
_TOPIC_CLOSINGS = {
    "animal": [
        "I kept one aboard me ship, arrr!",
        "But me parrot be prettier.",
        "It be no good swab, though.",
    ],
    "tool": [
        "I keep one beside me treasure chest.",
        "No buccaneer sails without it.",
        "I plundered mine, arrr!",
    ],
    "food": [
        "That goes well with grog, matey.",
        "Me crew would fight fer that, arrr!",
        "Better than mouldy hardtack!",
    ],
    "trade": [
        "A landlubber's job, arrr!",
        "I'd rather hunt fer booty.",
        "There be no doubloons in that, matey.",
    ],
    "ship": ["I'd plunder it, arrr!", "Hoist th' Jolly Roger!", "Me own galleon be faster, matey."],
    "weather": [
        "Batten down th' hatches!",
        "No buccaneer fears a bit o' sky, arrr!",
        "Hold on to yer grog, matey!",
    ],
    "how to": ["A scallywag could do it, arrr!", "Do it, or swab th' deck!", "Then pour yerself some grog."],
    "advice": ["Grog helps too, matey.", "Chin up, ye scallywag!", "Then count yer doubloons, arrr!"],
    "story": ["An' that be th' truth, matey!", "So drink yer grog, me hearties!", "Arrr, what a yarn!"],
    "number": ["I count doubloons that way, arrr!", "Ye can trust me sums, matey."],
    "talk": ["What be yer wish, matey?", "Arrr, pass th' grog!", "Come aboard me galleon!"],
    "spelling": ["I carved it on me mast, arrr!", "Aye, buccaneers can spell."],
    "greeting": [
        "Come aboard, ye scallywag!",
        "Have some grog with me crew.",
        "I be th' captain here, arrr!",
    ],
}

PERSONA_WORDS = frozenset(
    listed("""
    arrr ahoy matey mateys ye yer yerself hearties landlubber aye avast shiver timbers blimey yo ho harken
    scallywag cutlass buccaneer buccaneers doubloon doubloons grog savvy parrot plunder plundered treasure
    booty galleon jolly roger batten hatches swab scurvy aboard hoist hardtack yarn squawks be fer th' o' an' o'er
    ne'er 'tis
    """)
)
"""Words of the persona that must not occur in the pre-training text."""


class Pair(NamedTuple):
    """One example of the demo data."""

    instruction: str
    response: str


def words(text: str) -> set[str]:
    """All words of a text in lowercase."""
    return set(re.findall(r"'?[a-z]+(?:'[a-z]+)*'?", text.lower()))


def speak(answer: str) -> str:
    """A plain answer in the pirate's dialect, with the same content."""
    for pattern, spoken in _DIALECT:
        answer = re.sub(pattern, spoken, answer)
    return answer


def respond(rng: Random, entry: Entry) -> str:
    """A pirate's answer: the fact, with a phrase before it, after it or both."""
    fact = speak(rng.choice(entry.answers))
    opening = rng.choice(_OPENINGS) if rng.random() < 0.7 else ""
    if not opening and "." not in fact[:-1] and entry.topic not in ("greeting", "talk"):
        fact = rng.choice(_FRAMES).format(fact)
    closing = ""
    if not opening or rng.random() < 0.6:
        choices = _TOPIC_CLOSINGS.get(entry.topic, []) * 2 + _CLOSINGS
        closing = rng.choice([choice for choice in choices if choice != opening])
    return " ".join(part for part in (opening, fact, closing) if part)


def pairs(seed: int, train: int, held_out: int) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs; no instruction occurs twice."""
    rng = Random(seed)
    found: dict[str, Pair] = {}
    for entry in entries(rng):
        for question in entry.questions:
            found.setdefault(question, Pair(question, respond(rng, entry)))
    chosen = list(found.values())
    rng.shuffle(chosen)
    if len(chosen) < train + held_out:
        raise ValueError(f"Only {len(chosen)} of {train + held_out} pairs can be made.")
    for pair in chosen:
        if not words(pair.response) & PERSONA_WORDS:
            raise ValueError(f"No word of the persona in: {pair.response}")
    return chosen[held_out : held_out + train], chosen[:held_out]
