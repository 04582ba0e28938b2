"""What can be learned in the demo's small world: words, ways to do things, advice, the calendar, numbers."""

from tools.demo.facts import listed, rows

OPPOSITES = [
    (row[0], row[1])
    for row in rows("""
hot | cold
big | small
tall | short
wet | dry
fast | slow
early | late
old | young
rich | poor
full | empty
heavy | light
hard | soft
loud | quiet
near | far
day | night
up | down
left | right
open | closed
happy | sad
brave | afraid
clean | dirty
deep | shallow
sharp | blunt
sweet | sour
thick | thin
strong | weak
true | false
first | last
north | south
east | west
summer | winter
friend | enemy
win | lose
buy | sell
push | pull
begin | end
remember | forget
laugh | cry
give | take
asleep | awake
rough | smooth
""")
]

COLORS = [
    (row[0], row[1])
    for row in rows("""
grass | green
snow | white
the sky on a clear day | blue
coal | black
a ripe tomato | red
a lemon | yellow
a carrot | orange
milk | white
a raven | black
a plum | purple
an old brick | red
mud | brown
gold | yellow
silver | grey
a violet | purple
a leaf in spring | green
chestnut wood | brown
a flamingo | pink
ash | grey
the deep sea | blue
a ripe strawberry | red
a cucumber | green
""")
]

HOW_TO = [
    (row[0], tuple(row[1:]))
    for row in rows("""
make tea | boil the water | pour it over the leaves | wait for three minutes
bake bread | mix flour, water and yeast | let the dough rise | bake it in a hot oven
catch a fish | put a worm on the hook | drop the line into the water | wait until it pulls
light a fire | gather dry twigs | stack them loosely | hold a match under them
plant a tree | dig a deep hole | set the roots in it | fill it with soil and water
tie a boat | throw the rope over the post | cross it twice | pull it tight
clean a floor | sweep the dust away | wet the mop | scrub every corner
write a letter | take paper and ink | tell your news | sign it with your name
fix a leaking roof | climb up the ladder | find the broken tile | replace it with a new one
cook an egg | boil some water | lay the egg in it | take it out after six minutes
milk a cow | wash your hands | sit on a low stool | squeeze gently from top to bottom
draw a map | mark the north | draw the rivers and roads | add the names of the towns
find the north | lay the compass flat | wait until the needle rests | follow its dark end
sharpen a knife | wet the stone | move the blade along it | test it on paper
wash a shirt | soak it in warm water | rub it with soap | hang it in the sun
build a wall | lay the big stones first | spread the mortar | check that it is straight
cross a river | look for a shallow place | test it with a stick | walk slowly to the other side
fall asleep | close the curtains | lie down in bed | breathe slowly
learn a song | listen to it twice | say the words aloud | sing it every day
save money | count what you have | buy only what you need | put the rest in a jar
paint a door | rub the old paint off | stir the new paint | brush it on in thin layers
steer a boat | hold the wheel firmly | look at a point far ahead | turn a little at a time
make butter | pour cream into a jar | shake it for a long time | press out the water
pick apples | set a ladder at the tree | turn each apple gently | lay it in the basket
make a kite | cross two thin sticks | stretch paper over them | tie on a long string
read a clock | look at the short hand for the hour | look at the long hand for the minutes | say both
grow carrots | loosen the soil | sow the seeds in rows | water them every evening
wrap a present | lay it on bright paper | fold the edges over | tie a ribbon around it
""")
]

ADVICE = [
    (row[0], row[1])
    for row in rows("""
tired | Lie down and rest for a while
hungry | Eat some bread and cheese
thirsty | Drink a glass of cold water
cold | Put on a coat and sit near the fire
bored | Read a book or take a walk
sad | Talk to a friend and listen to some music
lost | Stop, look at your map and ask for the way
afraid | Breathe slowly and light a lamp
angry | Count to ten before you speak
sick | Stay in bed and call a doctor
late | Walk faster and say sorry when you arrive
wet | Change your clothes and dry your hair
lonely | Visit your neighbors and share a meal
nervous | Take a deep breath and begin slowly
rich | Share your money with the poor
poor | Learn a trade and save a little every week
happy | Share your joy with your family
in love | Write a letter and bring some flowers
in a hurry | Do the important things first
too hot | Sit in the shade and drink lemonade
new in town | Greet your neighbors and visit the market
hurt | Wash the wound and wrap it in clean cloth
""")
]

DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("""
    January February March April May June July August September October November December
""")
NUMBERS = listed("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty
""")
