"""The English that the demo model is pre-trained on: invented plain text, and chats with plain answers."""

from collections.abc import Callable
from random import Random

from tools.demo import facts, lessons, names, stories
from tools.demo.names import capital, with_article
from tools.demo.questions import Entry, entries
from tools.demo.talk import SMALL_TALK

Message = dict[str, str]

_SYSTEM = [
    "You are a helpful assistant.",
    "Answer in plain English.",
    "You answer questions shortly and kindly.",
    "Give short answers.",
    "You are a friendly helper.",
]


def plain_documents(rng: Random, count: int) -> list[str]:
    """`count` short texts, each of one kind."""
    return [rng.choice(_KINDS)(rng) for _ in range(count)]


def chats(rng: Random, count: int) -> list[list[Message]]:
    """`count` conversations, mostly of one turn; some start with a system message."""
    pool = [entry for _ in range(8) for entry in entries(rng)]
    by_topic: dict[str, list[Entry]] = {}
    for entry in pool:
        by_topic.setdefault(entry.topic, []).append(entry)
    # Topics differ a lot in size: half of the draws go by topic, so that sums do not drown out small talk.
    topics = list(by_topic)
    found = []
    for _ in range(count):
        messages: list[Message] = []
        if rng.random() < 0.15:
            messages.append({"role": "system", "content": rng.choice(_SYSTEM)})
        for _turn in range(rng.choice([1, 1, 1, 1, 1, 1, 2, 3])):
            entry = rng.choice(pool if rng.random() < 0.5 else by_topic[rng.choice(topics)])
            messages += [
                {"role": "user", "content": rng.choice(entry.questions)},
                {"role": "assistant", "content": rng.choice(entry.answers)},
            ]
        found.append(messages)
    return found


def _animal(rng: Random) -> str:
    a = rng.choice(facts.ANIMALS)
    sentences = [
        f"It eats {a.food}.",
        f"It has {a.legs} legs.",
        f"A young {a.name} is called {with_article(a.young)}.",
        f"The {a.name} {a.sound}.",
        f"People say that the {a.name} is {a.trait}.",
        f"You can find it {a.home}.",
    ]
    opening = rng.choice(
        [
            f"The {a.name} lives {a.home}.",
            f"The {a.name} is {with_article(a.trait)} {a.kind}.",
            f"{capital(with_article(a.name))} is {with_article(a.kind)}.",
        ]
    )
    return " ".join([opening, *rng.sample(sentences, rng.randint(1, 4))])


def _two_animals(rng: Random) -> str:
    a, b = rng.sample(facts.ANIMALS, 2)
    return rng.choice(
        [
            f"The {a.name} is {a.trait}, but the {b.name} is {b.trait}.",
            f"The {a.name} eats {a.food}, while the {b.name} eats {b.food}.",
            f"The {a.name} lives {a.home}, and the {b.name} lives {b.home}.",
            f"When the {a.name} saw the {b.name}, it ran back to its home. Its home was {a.home}.",
            f"{names.person(rng)} has {with_article(a.name)} and {with_article(b.name)}. The {a.name} is {a.trait}.",
        ]
    )


def _tool(rng: Random) -> str:
    t = rng.choice(facts.TOOLS)
    name = names.person(rng)
    return rng.choice(
        [
            f"{capital(with_article(t.name))} is made of {t.material}. People use it to {t.use}.",
            f"The {t.owner} takes {with_article(t.name)} to {t.use}.",
            f"{name} the {t.owner} bought a new {t.name} at the market. Now {name} can {t.use}.",
            f"Without {with_article(t.name)} it is hard to {t.use}. That is why every {t.owner} has one.",
            f"The {t.owner}'s {t.name} is old, but it still works. It's made of {t.material}.",
        ]
    )


def _food(rng: Random) -> str:
    f = rng.choice(facts.FOODS)
    be, ending, this = ("are", "", "These") if names.is_plural(f.name) else ("is", "s", "This")
    name = names.person(rng)
    return rng.choice(
        [
            f"{capital(f.name)} {be} made of {f.made_of}. {capital(f.name)} taste{ending} {f.taste}.",
            f"People like {f.name} {f.eaten}. For {f.name} you need {f.made_of}.",
            f"{name} cooks {f.name} for the whole family. The children don't leave a single bite.",
            f'On the table there {be} {f.name}. "{this} taste{ending} {f.taste}," said {name}.',
        ]
    )


def _trade(rng: Random) -> str:
    t = rng.choice(facts.TRADES)
    name, place = names.person(rng), names.village(rng)
    return rng.choice(
        [
            f"The {t.name} {t.work}. You can meet the {t.name} {t.place}.",
            f"{name} is {with_article(t.name)} in {place}. Every day {name} {t.work}.",
            f"In {place} there lived {with_article(t.name)}. The {t.name}'s name was {name}.",
            f'"What do you do?" asked the child. "I am {with_article(t.name)}," answered {name}.',
        ]
    )


def _voyage(rng: Random) -> str:
    v = rng.choice(facts.VESSELS)
    w = rng.choice(facts.WEATHERS)
    name, ship, start, goal = names.person(rng), names.ship(rng), names.village(rng), names.village(rng)
    return rng.choice(
        [
            f"The {v.name} is {v.size}. It is moved by {v.moved_by}. People use it to {v.purpose}.",
            f"{capital(ship)} sailed from {start} to {goal}. The captain was {name}. "
            f"There was {w.name}, and the sky was {w.sky}.",
            f"{name} bought {with_article(v.name)} in {start}. With it {name} could {v.purpose}.",
        ]
    )


def _weather(rng: Random) -> str:
    w = rng.choice(facts.WEATHERS)
    day, month, place = rng.choice(lessons.DAYS), rng.choice(lessons.MONTHS), names.village(rng)
    return rng.choice(
        [
            f"On {day} there was {w.name} in {place}. The sky was {w.sky}.",
            f"When there is {w.name}, the sky is {w.sky}. You should {w.advice}.",
            f'In {month} there is often {w.name} in {place}. "{capital(w.advice)}," say the old people.',
        ]
    )


def _village(rng: Random) -> str:
    place, river = names.village(rng), names.person(rng)
    t, u = rng.sample(facts.TRADES, 2)
    number = rng.choice(lessons.NUMBERS[2:])
    return f"{place} is a small village near the river {river}. It has {number} houses and a church. " + rng.choice(
        [
            f"The {t.name} of {place} {t.work}, and the {u.name} {u.work}.",
            f"On {rng.choice(lessons.DAYS)} people meet at the market.",
            "The streets are narrow, and the gardens are full of flowers.",
            f"The {t.name} and the {u.name} are good friends.",
        ]
    )


def _how_to(rng: Random) -> str:
    task, (first, second, third) = rng.choice(lessons.HOW_TO)
    return rng.choice(
        [
            f"To {task}, {first}. Then {second}. At last, {third}.",
            f'{names.person(rng)} wanted to {task}. "First, {first}," said the old man. "Then {second}."',
        ]
    )


def _words(rng: Random) -> str:
    first, second = rng.choice(lessons.OPPOSITES)
    thing, color = rng.choice(lessons.COLORS)
    name = rng.choice([names.person(rng), names.village(rng)])
    return rng.choice(
        [
            f"The opposite of {first} is {second}.",
            f"{capital(thing)} is {color}.",
            f"The name {name} is spelled {names.spelled(name)}.",
            f"{name} is spelled {names.spelled(name)}.",
            f"The letters {', '.join(rng.sample('abcdefghijklmnopqrstuvwxyz', 4))} are on the board.",
        ]
    )


def _talk(rng: Random) -> str:
    said, replies = rng.choice(SMALL_TALK)
    return f"{rng.choice(said)} {rng.choice(replies)}"


def _story(rng: Random) -> str:
    if rng.random() < 0.5:
        return stories.animal_story(rng, rng.choice(facts.ANIMALS))
    return stories.person_story(rng, rng.choice(facts.TRADES))


_KINDS: list[Callable[[Random], str]] = [
    _animal,
    _animal,
    _two_animals,
    _tool,
    _food,
    _trade,
    _voyage,
    _weather,
    _village,
    _how_to,
    _words,
    _talk,
    _story,
    _story,
]
