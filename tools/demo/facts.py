"""The demo's small world: tables of facts that the plain English and the persona talk about."""

from typing import NamedTuple


class Animal(NamedTuple):
    name: str
    kind: str
    home: str
    food: str
    sound: str
    young: str
    legs: str
    trait: str


class Tool(NamedTuple):
    name: str
    use: str
    material: str
    owner: str


class Food(NamedTuple):
    name: str
    made_of: str
    taste: str
    eaten: str


class Trade(NamedTuple):
    name: str
    work: str
    place: str


class Vessel(NamedTuple):
    name: str
    purpose: str
    moved_by: str
    size: str


class Weather(NamedTuple):
    name: str
    sky: str
    advice: str


def listed(text: str) -> list[str]:
    """Splits a text into words."""
    return text.split()


def rows(text: str) -> list[list[str]]:
    """Splits a table written as lines of cells, `a | b | c`."""
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


ANIMALS = [
    Animal(*row)
    for row in rows("""
fox | mammal | in the forest | mice and berries | barks | cub | four | clever
wolf | mammal | in the cold hills | deer and rabbits | howls | cub | four | brave
bear | mammal | in a cave | fish and honey | growls | cub | four | strong
rabbit | mammal | in a burrow | grass and carrots | squeaks | kitten | four | quick
horse | mammal | in a stable | hay and apples | neighs | foal | four | fast
cow | mammal | on the farm | grass and clover | moos | calf | four | calm
sheep | mammal | in the meadow | grass and herbs | bleats | lamb | four | gentle
goat | mammal | on the hill | leaves and thorns | bleats | kid | four | stubborn
pig | mammal | in a sty | roots and turnips | grunts | piglet | four | greedy
dog | mammal | in the house | meat and bones | barks | puppy | four | loyal
cat | mammal | near the stove | fish and mice | purrs | kitten | four | quiet
mouse | mammal | under the floor | cheese and grain | squeaks | pup | four | tiny
donkey | mammal | behind the mill | hay and thistles | brays | foal | four | patient
deer | mammal | in the woods | leaves and bark | bellows | fawn | four | shy
lion | mammal | in the dry plains | zebras and deer | roars | cub | four | proud
elephant | mammal | in the warm plains | leaves and fruit | trumpets | calf | four | huge
bat | mammal | under the roof | moths and flies | squeaks | pup | two | silent
whale | mammal | in the deep ocean | tiny shrimps | sings | calf | no | enormous
seal | mammal | on the rocky shore | fish and crabs | barks | pup | no | playful
dolphin | mammal | in the warm sea | fish and squid | whistles | calf | no | cheerful
hedgehog | mammal | under the hedge | worms and beetles | snuffles | hoglet | four | prickly
owl | bird | in a hollow tree | mice and moths | hoots | owlet | two | wise
duck | bird | on the pond | weeds and snails | quacks | duckling | two | noisy
goose | bird | by the river | grass and seeds | honks | gosling | two | bold
hen | bird | in the yard | corn and worms | clucks | chick | two | busy
crow | bird | on the church tower | seeds and scraps | caws | chick | two | curious
eagle | bird | on the high cliff | hares and fish | screams | eaglet | two | mighty
swan | bird | on the lake | water plants | hisses | cygnet | two | graceful
gull | bird | above the harbor | fish and crumbs | cries | chick | two | cheeky
sparrow | bird | in the bushes | seeds and crumbs | chirps | chick | two | little
penguin | bird | on the ice | fish and squid | honks | chick | two | funny
frog | amphibian | in the swamp | flies and gnats | croaks | tadpole | four | slippery
snake | reptile | under the stones | frogs and eggs | hisses | hatchling | no | smooth
turtle | reptile | on the sandy beach | weeds and jellyfish | hisses | hatchling | four | slow
lizard | reptile | on the warm wall | ants and spiders | hisses | hatchling | four | nimble
salmon | fish | in the cold river | flies and small fish | makes no sound | fry | no | shiny
shark | fish | in the open sea | fish and seals | makes no sound | pup | no | dangerous
crab | shellfish | between the rocks | snails and weeds | clicks | larva | ten | cautious
bee | insect | in a hive | nectar and pollen | buzzes | grub | six | diligent
ant | insect | in a little hill | seeds and sugar | makes no sound | grub | six | tireless
spider | arachnid | in the corner | flies and moths | makes no sound | spiderling | eight | careful
""")
]

TOOLS = [
    Tool(*row)
    for row in rows("""
hammer | drive nails into wood | iron and wood | carpenter
saw | cut planks and beams | steel | carpenter
axe | split logs | steel and wood | woodcutter
needle | sew cloth | steel | tailor
net | catch fish | strong string | fisherman
hook | hold a fish | bent wire | fisherman
plough | turn the soil | iron | farmer
spade | dig holes | iron and wood | gardener
rake | gather leaves | wood | gardener
bucket | carry water | tin | milkmaid
broom | sweep the floor | straw | servant
kettle | boil water | copper | cook
pan | fry eggs | iron | cook
ladle | serve soup | wood | cook
oven | bake bread | brick | baker
anvil | shape hot iron | iron | blacksmith
compass | find the north | brass | captain
telescope | see far away | brass and glass | captain
map | find the way | paper | traveler
lantern | light the dark road | tin and glass | watchman
bell | call people together | bronze | teacher
chalk | write on the board | soft stone | teacher
brush | paint walls | hair and wood | painter
ladder | climb to the roof | wood | mason
trowel | spread mortar | steel | mason
wheelbarrow | move heavy stones | wood and iron | mason
rope | tie a boat to the pier | hemp | sailor
oar | row a boat | wood | ferryman
anchor | hold a ship in place | iron | sailor
thermometer | measure heat | glass | nurse
clock | tell the time | brass | watchmaker
""")
]

FOODS = [
    Food(*row)
    for row in rows("""
bread | flour, water and yeast | plain and warm | at breakfast
butter | cream | rich and soft | on bread
cheese | milk | salty | with bread
soup | carrots, leeks and water | warm and savory | at noon
porridge | oats and milk | mild | at breakfast
pancakes | eggs, flour and milk | sweet | on Sunday
an omelet | eggs and butter | light | at breakfast
jam | berries and sugar | very sweet | on toast
cake | flour, sugar and eggs | sweet | at parties
pie | apples and pastry | sweet and sour | after dinner
stew | beef, onions and potatoes | hearty | on cold evenings
salad | lettuce, oil and vinegar | fresh | in summer
tea | dried leaves and hot water | a little bitter | in the afternoon
coffee | roasted beans and hot water | bitter | in the morning
lemonade | lemons, sugar and water | sour and sweet | on hot days
cider | pressed apples | fruity | in autumn
honey cake | honey, nuts and flour | sweet and spicy | in winter
noodles | flour and eggs | mild | with sauce
sausage | minced meat and salt | spicy | with mustard
pickles | cucumbers, salt and vinegar | very sour | with meat
chocolate | cocoa, milk and sugar | sweet and dark | as a treat
ice cream | frozen cream and sugar | cold and sweet | in summer
fish pie | cod, milk and potatoes | salty and creamy | on Friday
rice pudding | rice, milk and cinnamon | sweet and soft | after dinner
""")
]

TRADES = [
    Trade(*row)
    for row in rows("""
baker | bakes bread and cakes | in the bakery
miller | grinds grain into flour | in the mill
farmer | grows wheat and corn | in the fields
fisherman | catches fish with a net | on the sea
blacksmith | makes horseshoes and nails | in the smithy
carpenter | builds tables and chairs | in the workshop
tailor | sews coats and trousers | in the tailor shop
teacher | teaches children to read | in the school
doctor | cures sick people | in the hospital
nurse | looks after the sick | in the hospital
gardener | plants flowers and trees | in the garden
shepherd | watches the sheep | in the meadow
captain | commands a ship | on the ocean
sailor | sets the sails and scrubs the deck | on a ship
ferryman | rows people across the river | on the river
cook | prepares dinner | in the kitchen
mason | builds walls of stone | on the building site
painter | paints pictures and walls | in the studio
watchmaker | repairs clocks | in the clock shop
librarian | lends books | in the library
postman | brings letters and parcels | in the streets
shoemaker | mends boots and shoes | in the shoe shop
beekeeper | collects honey | near the hives
weaver | weaves wool into cloth | at the loom
innkeeper | rents rooms to travelers | at the inn
judge | decides who is right | in the court
musician | plays the fiddle | in the town hall
potter | shapes bowls from clay | in the pottery
miner | digs for coal | under the ground
woodcutter | fells trees | in the forest
""")
]

VESSELS = [
    Vessel(*row)
    for row in rows("""
rowing boat | cross a lake | oars | small
canoe | travel on quiet rivers | paddles | narrow
ferry | carry people and carts over a river | a cable | wide
sailing ship | carry goods over the ocean | the wind | tall
fishing boat | catch herring and cod | sails and oars | sturdy
steamer | bring passengers to far countries | steam | large
tugboat | pull big ships into the harbor | a strong engine | compact
raft | float down the stream | the current | flat
barge | move coal and sand | horses on the bank | long
lifeboat | save people from the waves | oars | light
icebreaker | open a way through the ice | heavy engines | massive
submarine | dive under the water | electric motors | round
""")
]

WEATHERS = [
    Weather(*row)
    for row in rows("""
rain | grey | take an umbrella
snow | white | wear warm boots
fog | pale | walk slowly and carry a lantern
wind | full of fast clouds | hold on to your hat
thunder | dark | stay inside the house
sunshine | blue | wear a straw hat
frost | clear and cold | put on gloves
hail | heavy and yellow | stand under a roof
drizzle | dull | put on a coat
heat | bright | drink a lot of water
a storm | black | close all the windows
a breeze | light blue | fly a kite
""")
]
