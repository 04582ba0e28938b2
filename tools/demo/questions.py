"""Questions about the small world with plain answers: learned by the model, retold by the persona."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from tools.demo import facts, lessons, names, stories
from tools.demo.names import capital, with_article
from tools.demo.talk import OPENINGS, SMALL_TALK


class Entry(NamedTuple):
    """Several ways to ask one thing, and the plain answers to it."""

    topic: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def entries(rng: Random) -> list[Entry]:
    """Everything that can be asked; the stories and invented names in it depend on `rng`."""
    sources = (
        _animals(),
        _tools(),
        _foods(),
        _trades(),
        _vessels(),
        _weathers(),
        _words(),
        _how_to(),
        _advice(),
        _calendar(),
        _sums(),
        _small_talk(),
        _stories(rng),
        _meetings(rng),
    )
    return [entry for source in sources for entry in source]


def _animals() -> Iterator[Entry]:
    for a in facts.ANIMALS:
        one, the = with_article(a.name), f"the {a.name}"
        yield Entry(
            "animal",
            (f"Where does {one} live?", f"Where can I find {one}?", f"What is the home of {the}?"),
            (f"The {a.name} lives {a.home}.", f"You can find {one} {a.home}."),
        )
        yield Entry(
            "animal",
            (f"What does {one} eat?", f"What should I feed {one}?", f"What is the food of {the}?"),
            (f"The {a.name} eats {a.food}.", f"It likes {a.food}."),
        )
        yield Entry(
            "animal",
            (f"What sound does {one} make?", f"What do you hear from {one}?"),
            (f"The {a.name} {a.sound}.",),
        )
        yield Entry(
            "animal",
            (f"What is a young {a.name} called?", f"What do you call the young of {one}?"),
            (f"A young {a.name} is called {with_article(a.young)}.",),
        )
        yield Entry(
            "animal",
            (f"How many legs does {one} have?", f"Count the legs of {one}."),
            (f"The {a.name} has {a.legs} legs.",),
        )
        yield Entry(
            "animal",
            (f"What kind of animal is {one}?", f"Is {one} a mammal, a bird or something else?"),
            (f"The {a.name} is {with_article(a.kind)}.",),
        )
        yield Entry(
            "animal",
            (
                f"What is {one} like?",
                f"Describe {one}.",
                f"Tell me about {the}.",
                f"What do you know about {the}?",
            ),
            (
                f"The {a.name} is {with_article(a.trait)} {a.kind}. It lives {a.home} and eats {a.food}.",
                f"The {a.name} is {a.trait}. It eats {a.food} and lives {a.home}.",
            ),
        )


def _tools() -> Iterator[Entry]:
    for t in facts.TOOLS:
        one, owner = with_article(t.name), with_article(t.owner)
        yield Entry(
            "tool",
            (f"What is {one} for?", f"What can I do with {one}?", f"Why do I need {one}?"),
            (f"You use {one} to {t.use}.", f"With {one} you can {t.use}."),
        )
        yield Entry(
            "tool",
            (f"What is {one} made of?", f"Which material do I need for {one}?"),
            (f"It is made of {t.material}.", f"The {t.name} is made of {t.material}."),
        )
        yield Entry(
            "tool",
            (f"Who needs {one}?", f"Who works with {one}?"),
            (f"The {t.owner} needs {one} to {t.use}.", f"You often see {one} in the hands of {owner}."),
        )
        yield Entry(
            "tool",
            (f"How can I {t.use}?", f"What do I need to {t.use}?"),
            (f"Take {one} to {t.use}.", f"You need {one} for that."),
        )


def _foods() -> Iterator[Entry]:
    for f in facts.FOODS:
        does, ending, be = ("do", "", "are") if names.is_plural(f.name) else ("does", "s", "is")
        yield Entry(
            "food",
            (f"What {be} {f.name} made of?", f"What do I need for {f.name}?"),
            (f"{capital(f.name)} {be} made of {f.made_of}.", f"You need {f.made_of}."),
        )
        yield Entry(
            "food",
            (f"How {does} {f.name} taste?", f"What is the taste of {f.name}?"),
            (f"{capital(f.name)} taste{ending} {f.taste}.",),
        )
        yield Entry(
            "food",
            (f"When do people eat {f.name}?", f"When should I serve {f.name}?"),
            (f"People like {f.name} {f.eaten}.", f"You can serve {f.name} {f.eaten}."),
        )


def _trades() -> Iterator[Entry]:
    for t in facts.TRADES:
        one = with_article(t.name)
        yield Entry(
            "trade",
            (f"What does {one} do?", f"What is the work of {one}?", f"Why do people need {one}?"),
            (f"The {t.name} {t.work}.", f"{capital(one)} {t.work} {t.place}."),
        )
        yield Entry(
            "trade",
            (f"Where does {one} work?", f"Where can I meet {one}?"),
            (f"The {t.name} works {t.place}.", f"You can meet {one} {t.place}."),
        )
        yield Entry(
            "trade",
            (f"Who {t.work}?", f"What do you call someone who {t.work}?"),
            (f"The {t.name} {t.work}.", f"That is the work of {one}."),
        )


def _vessels() -> Iterator[Entry]:
    for v in facts.VESSELS:
        one = with_article(v.name)
        yield Entry(
            "ship",
            (f"What is {one} for?", f"What can people do with {one}?"),
            (f"People use {one} to {v.purpose}.", f"With {one} you can {v.purpose}."),
        )
        yield Entry(
            "ship",
            (f"What moves {one}?", f"How does {one} move?"),
            (f"The {v.name} is moved by {v.moved_by}.",),
        )
        yield Entry(
            "ship",
            (f"How big is {one}?", f"Describe {one}.", f"Tell me about the {v.name}."),
            (
                f"The {v.name} is {v.size}. It is moved by {v.moved_by}.",
                f"It is {v.size}. People use it to {v.purpose}.",
            ),
        )


def _weathers() -> Iterator[Entry]:
    for w in facts.WEATHERS:
        yield Entry(
            "weather",
            (
                f"What should I do in {w.name}?",
                f"There is {w.name} today. What is your advice?",
                f"Help me, there is {w.name} outside.",
            ),
            (f"{capital(w.advice)}.", f"You should {w.advice}."),
        )
        yield Entry(
            "weather",
            (f"How does the sky look when there is {w.name}?", f"What sky comes with {w.name}?"),
            (f"The sky is {w.sky}.", f"When there is {w.name}, the sky is {w.sky}."),
        )


def _words() -> Iterator[Entry]:
    for first, second in lessons.OPPOSITES:
        for word, other in ((first, second), (second, first)):
            yield Entry(
                "word",
                (f"What is the opposite of {word}?", f"Which word is the opposite of {word}?"),
                (f"The opposite of {word} is {other}.", f"It is {other}."),
            )
    for thing, color in lessons.COLORS:
        yield Entry(
            "word",
            (f"What color is {thing}?", f"Tell me the color of {thing}."),
            (f"{capital(thing)} is {color}.", f"The color of {thing} is {color}."),
        )
    for word in [*(a.name for a in facts.ANIMALS), *(t.name for t in facts.TOOLS)]:
        yield Entry(
            "spelling",
            (f"How do you spell {word}?", f"Spell the word {word}."),
            (f"You spell it {names.spelled(word)}.",),
        )


def _how_to() -> Iterator[Entry]:
    for task, (first, second, third) in lessons.HOW_TO:
        yield Entry(
            "how to",
            (
                f"How do I {task}?",
                f"Teach me to {task}.",
                f"What is the best way to {task}?",
                f"I want to {task}. What must I do?",
            ),
            (
                f"First, {first}. Then {second}. At last, {third}.",
                f"{capital(first)}, then {second}, and {third}.",
            ),
        )


def _advice() -> Iterator[Entry]:
    for state, help_ in lessons.ADVICE:
        yield Entry(
            "advice",
            (
                f"I am {state}.",
                f"What should I do when I am {state}?",
                f"My brother is {state}. What do you say?",
                f"Give me advice, I am {state}.",
            ),
            (f"{help_}.", f"{help_}, and you will feel better."),
        )


def _calendar() -> Iterator[Entry]:
    for what, row in (("day", lessons.DAYS), ("month", lessons.MONTHS)):
        for index, now in enumerate(row):
            after, before = row[(index + 1) % len(row)], row[index - 1]
            yield Entry(
                "calendar",
                (f"Which {what} comes after {now}?", f"What follows {now}?"),
                (f"After {now} comes {after}.", f"The {what} after {now} is {after}."),
            )
            yield Entry(
                "calendar",
                (f"Which {what} comes before {now}?", f"What was before {now}?"),
                (f"Before {now} comes {before}.", f"The {what} before {now} is {before}."),
            )


def _sums() -> Iterator[Entry]:
    for x in range(8):
        for y in range(8):
            left, right = lessons.NUMBERS[x], lessons.NUMBERS[y]
            yield Entry(
                "number",
                (f"What is {left} plus {right}?", f"Add {left} and {right}."),
                (f"{capital(left)} plus {right} is {lessons.NUMBERS[x + y]}.",),
            )
            if y <= x:
                yield Entry(
                    "number",
                    (f"What is {left} minus {right}?",),
                    (f"{capital(left)} minus {right} is {lessons.NUMBERS[x - y]}.",),
                )


def _stories(rng: Random) -> Iterator[Entry]:
    for animal in facts.ANIMALS:
        yield Entry(
            "story",
            (
                f"Tell me a story about {with_article(animal.name)}.",
                f"Invent a tale with {with_article(animal.name)} in it.",
            ),
            tuple(stories.animal_story(rng, animal) for _ in range(2)),
        )
    for trade in facts.TRADES:
        yield Entry(
            "story",
            (
                f"Tell me a story about {with_article(trade.name)}.",
                f"Invent a tale about {with_article(trade.name)}.",
            ),
            tuple(stories.person_story(rng, trade) for _ in range(2)),
        )


def _meetings(rng: Random) -> Iterator[Entry]:
    for name in dict.fromkeys(names.person(rng) for _ in range(150)):
        yield Entry(
            "greeting",
            (f"My name is {name}.", f"Hello, I am {name}."),
            (f"Hello, {name}. I am glad to meet you.", f"Good day, {name}. How can I help you?"),
        )
    for place in dict.fromkeys(names.village(rng) for _ in range(60)):
        yield Entry(
            "greeting",
            (f"I come from {place}.", f"My home is {place}."),
            (f"I have heard of {place}. It is a fine village.", f"Welcome, friend from {place}."),
        )


def _small_talk() -> Iterator[Entry]:
    for questions, answers in SMALL_TALK:
        politely = tuple(f"{opening} {question}" for opening in OPENINGS for question in questions)
        yield Entry("talk", questions + politely, answers)
