"""Short stories with one hero, one trouble and one way out."""

from random import Random

from tools.demo import facts, names

_TIMES = ["One morning", "Last winter", "On a warm evening", "Long ago", "One day in spring", "Late at night"]
_ANIMAL_TROUBLES = [
    ("could not find anything to eat", "searched all day and found {food}"),
    ("got lost in the fog", "followed the sound of the church bell and came home"),
    ("fell into a deep hole", "climbed out with the help of {friend}"),
    ("met a hungry wolf", "hid under a bush until the wolf went away"),
    ("wanted to cross the river", "waited for {friend} and crossed it together with it"),
    ("hurt its foot on a stone", "rested for a week until the foot was well again"),
    ("was afraid of the thunder", "stayed with {friend} until the sky was blue again"),
]
_PERSON_TROUBLES = [
    ("lost a purse at the market", "found it again under a basket of apples"),
    ("wanted to sell an old boat", "sold it to a kind ferryman for ten coins"),
    ("heard a strange noise in the cellar", "found a little cat behind the barrels"),
    ("had no wood for the stove", "got some logs from a friendly neighbor"),
    ("could not cross the flooded road", "built a small bridge from planks and rope"),
    ("forgot the key of the house", "climbed in through the kitchen window"),
    ("saw smoke above the mill", "called the neighbors and put out the fire with them"),
    ("found a letter in a bottle", "brought it to the woman who had waited for it"),
    ("sailed into a heavy storm", "held the wheel firmly and reached the harbor"),
    ("broke the handle of a hammer", "carved a better one from ash wood"),
]
_ENDINGS = [
    "After that, everybody was happy.",
    "That night they slept well.",
    "Since then, nobody has been afraid.",
    "It was a good day.",
    "In the end, all was well.",
    "They laughed about it for years.",
]


def animal_story(rng: Random, animal: facts.Animal) -> str:
    """Three sentences about one animal."""
    friend = names.with_article(rng.choice([other for other in facts.ANIMALS if other != animal]).name)
    trouble, way_out = rng.choice(_ANIMAL_TROUBLES)
    return (
        f"{rng.choice(_TIMES)}, {names.with_article(animal.trait)} {animal.name} {trouble}. "
        f"The {animal.name} {way_out.format(food=animal.food, friend=friend)}. {rng.choice(_ENDINGS)}"
    )


def person_story(rng: Random, trade: facts.Trade) -> str:
    """Three sentences about one person and a trade."""
    name, village = names.person(rng), names.village(rng)
    trouble, way_out = rng.choice(_PERSON_TROUBLES)
    return (
        f"{rng.choice(_TIMES)}, {name}, {names.with_article(trade.name)} from {village}, {trouble}. "
        f"{name} {way_out}. {rng.choice(_ENDINGS)}"
    )
