"""Draw the values of the sample data: names, places, dishes, messages, and words that exist nowhere.

The lists are short and the ways of joining them many, so that rows drawn with different seeds share few texts.
"""

from __future__ import annotations

import random


def seeded(seed: str) -> random.Random:
    """Start the random numbers that `seed` names: the same on every machine."""
    return random.Random(seed)


def _split(text: str) -> tuple[str, ...]:
    """Return the words of a text; those that are joined by a dash are one entry."""
    return tuple(word.replace("-", " ") for word in text.split())


_FIRST = _split(
    """
    Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Katrin Leo Mia Noah Olga Paul Rosa Simon Tina Viktor
    Wanda Yusuf Zoe Aisha Bruno Chloe Diego Elena Farid Gina Hana Ivan Jasmin Kofi Lena Marco Nadia Omar Priya
    Quentin Ravi Sofia Tariq Uma Vera Walter Xenia Yara Zane Amir Bella Cyrus Dora Elias Fiona Gustav Helga Igor
    Julia Kenji Lukas Marta Nils Oscar Petra Rita Stefan Thea Ursula Vince Wilma Ada Boris Carmen Dario Edith
    Frank Gloria Hector Irene Jakob Karla Luis Monika Nora Otto Paula Ramon Sara Tomas Valerie Wim Agnes Bilal
    Celine Dmitri Esther Fatima Gerd Hilde
    """
)
_LAST = _split(
    """
    Miller Weber Rossi Novak Silva Tanaka Okafor Jensen Kowalski Garcia Petrov Haddad Lindberg Moreau Fischer Kim
    Patel Santos Brennan Keller Vargas Olsen Bauer Romano Dubois Horvat Yilmaz Nakamura Castillo Meyer
    """
)
_KIN = _split(
    """
    mom dad my-sister my-brother my-boss the-landlord my-neighbor grandma the-plumber my-wife my-husband the-team
    the-babysitter my-aunt my-uncle
    """
)
CITIES = _split(
    """
    Berlin Madrid Lisbon Vienna Prague Warsaw Oslo Dublin Athens Rome Paris Zurich Geneva Lyon Porto Seville
    Krakow Hamburg Munich Cologne Naples Turin Milan Bergen Malmo Tallinn Riga Vilnius Sofia Bucharest Budapest
    Belgrade Zagreb Split Cairo Tunis Nairobi Lagos Accra Dakar Tokyo Osaka Kyoto Seoul Busan Taipei Manila Hanoi
    Bangkok Jakarta Delhi Mumbai Sydney Perth Auckland Lima Quito Bogota Santiago Montevideo Havana Toronto
    Montreal Chicago Boston Seattle Denver Austin Dallas Houston Phoenix Portland Miami Atlanta Memphis Glasgow
    Leeds Bristol Cardiff Ghent Antwerp Utrecht Basel Graz Salzburg
    """
)
_GOODS = _split(
    """
    milk bread butter eggs cheese apples pears bananas lemons onions garlic carrots potatoes rice pasta flour
    sugar salt pepper coffee tea honey yogurt spinach tomatoes cucumbers olives beans lentils oats cereal
    chocolate cookies nuts raisins juice soap shampoo toothpaste sponges candles batteries matches napkins foil
    tape glue string nails screws paint brushes gloves socks boots towels pillows blankets tents ropes torches
    maps pens paper folders stamps envelopes cables chargers bulbs
    """
)
_KINDS = _split(
    """
    fresh organic frozen cheap big small red green white brown spare extra local dried smoked sweet plain soft
    strong new
    """
)
LISTS = _split(
    """
    shopping grocery camping party office garden holiday birthday hardware school picnic kitchen winter moving
    baby bathroom travel wedding barbecue christmas
    """
)
_DISHES = _split(
    """
    pasta eggs rice pizza bread cake cookies tea coffee soup stew lasagna chicken potatoes laundry dryer oven
    roast muffins salmon quiche pie beans lentils steak turkey noodles dumplings waffles pancakes curry chili
    pudding jam meeting nap workout plank bath game break
    """
)
_CHORES = _split("laundry dryer oven meeting nap workout plank bath game break")
_MEALS = tuple(dish for dish in _DISHES if dish not in _CHORES)
_ADJECTIVES = _split(
    """
    Golden Silver Crimson Silent Hungry Lucky Broken Velvet Electric Purple Wild Frozen Hidden Lonely Dancing
    Flying Burning Gentle Rusty Midnight Northern Southern Royal Paper Iron Wooden Crystal Bitter Happy Lazy
    """
)
_NOUNS = _split(
    """
    Lantern Garden Harbor Fox River Tiger Bridge Anchor Orchard Kettle Dragon Sparrow Oyster Barrel Mill Castle
    Falcon Rose Willow Lemon Owl Bear Cedar Mango Turtle Comet Mirror Engine Circus Shadow Horizon Garage Parrot
    Violin Desert Island Thunder Window Pocket Ribbon
    """
)
ROOMS = _split(
    """
    kitchen bedroom bathroom office hallway garage attic basement nursery studio library cellar lounge workshop
    """
)
MODES = ("car", "bike", "train", "bus", "ferry")
_MONEY = _split("dollars euros pounds yen francs pesos rupees kroner zloty lira rand won baht dinars forints reais")
_DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_MONTHS = _split("January February March April May June July August September October November December")
_SIGHTS = _split(
    """
    airport harbor museum stadium library hospital zoo market old-town university castle train-station cathedral
    town-hall botanical-garden
    """
)
_SUBJECTS = _split(
    """
    dinner lunch breakfast the-meeting the-train the-car the-package the-party the-movie the-game the-bus
    the-flight the-concert the-lesson the-dog the-heating the-door the-key the-rent the-printer the-cake the-baby
    the-delivery the-class
    """
)
_STATES = _split(
    """
    late ready early broken here gone canceled over fixed lost open closed cold safe paid outside upstairs perfect
    noisy delayed finished sold booked
    """
)
_ACTIONS = _split(
    """
    call pay visit thank email meet feed clean fix wash sell paint water pack collect return order renew print
    sign cancel check charge repair borrow
    """
)
_THINGS = _split(
    """
    the-dog the-cat the-car the-bike the-bill the-rent the-plants the-passport the-tickets the-fridge the-dentist
    the-bank the-landlord the-library-books the-contract the-fence the-laptop the-camera the-kitchen the-windows
    the-insurance the-keys the-parcel the-roof the-tent
    """
)
_COMMON = _split(
    """
    Here about after again ago alone along amount and any are around autumn bad bar bear become behind better
    bird blue bone bottle brain bro brush business card cast chain change cheap choice claim clean climb clock
    cloud collar complete convert cook cooking cool could course crank cross currency cuz damp date dear
    depend die discuss double drink during ear edge electric enough evening exchange face familiar farm fear
    feeling few fill fish float fly force form found free front gentle get gimme glad go gold gone group gun
    hammer happy have heat here hey hit holler honest hot human ice impulse interest into journey kick kinda
    knife know language law least leg lemme lift like line little look loud love make many market matter
    measure mind mins mix more motion much narrow needle next noise nose now number often once only oughta our
    outta own parallel pass past pen picture pin ping plane please polish possible present private produce
    public pure quick rain ran ray real recipe regret request rhythm right ring rn rock room row sad scale
    second seem serious shade she shirt shut simple sister skirt slope smash smooth soft soon source south
    speed square start steel stick stiff stomach story stretch stuff such sun system ta talk target tax than
    thick this throw tight tired tongue town tree true twist unit up use value vibes view walk waste way we
    wheel whip whole wide wine with woman word worth would write ya yeah yellow yo young
    """
)
_NUMBERS = tuple(map(str, range(121)))
LANGUAGE = (*_COMMON, *_MONEY, *_NUMBERS)
"""Words of the language: the base model learns to repeat them, whether or not its users' requests have them."""
ENGLISH = _split(
    """
    now today tonight tomorrow yesterday morning noon afternoon evening night midnight day week month year hour minute
    second early late soon later before after during until since always never often once twice again last next first
    spring summer autumn fall winter january february march april may june july august september october november
    december monday tuesday wednesday thursday friday saturday sunday weekend date time clock calendar schedule times
    start starts begin begins end ends finish current currently recent latest new old century decade season holiday
    here there where near nearby nearest close closest far away around inside outside above below between across
    home house room kitchen garden street road city town village country state world map place area neighborhood
    neighbourhood corner center centre north south east west station airport hotel shop store market bank school
    church hospital library museum park beach bridge river lake mountain island office building theatre theater
    theatres theaters cinema cinemas hall club bar cafe restaurant location local distance spatial relation
    i me my mine you your he him his she her it its we us our they them their who whose everyone somebody nobody
    man men woman women child children boy girl friend family mother father parent brother sister son daughter baby
    husband wife people person guest group party team player doctor teacher student writer author artist singer
    actor director owner name user
    book books novel novels textbook story stories chapter page series part saga chronicle essay poem letter paper
    newspaper magazine article text word sentence title picture photo painting image song songs music album track
    playlist tune sound voice radio television video movie movies film films show shows screen screening scene
    trailer program programme channel game games event ticket seat food bread meat fish soup rice egg fruit apple
    cake coffee tea water wine beer milk meal breakfast lunch dinner menu table chair door window bed lamp car bus
    train plane boat bike phone computer message mail list note plan idea problem question answer reason result
    object item type kind sort thing value values number amount unit units size weight price cost money point points
    star stars rating ratings rate rated score best worst grade level percent half quarter out zero one two three four
    five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
    thirty forty fifty sixty seventy eighty ninety hundred thousand
    be am is are was were been do does did done have has had can could will would shall should must let make makes
    made get gets got give gives gave take takes took put puts find finds found look looks see sees saw seen watch
    watching hear listen play plays playing played showing shown stop open turn go goes going went
    come comes came bring send sent keep hold tell tells told say says said ask asks speak talk call called
    know think want wants need needs like likes love hate hope wish try use used work help please thank buy sell pay
    order reserve eat drink cook read reads reading write wrote written select choose pick add remove change
    move set mark count check search meet visit stay leave live sleep walk run drive fly swim sing dance win lose
    a an the this that these those some any all both each every either other another such same different and or but
    if then because so than as at by for from in into of off on over to under up down with without about against
    through no not yes very much many more most less least few little lot only just also too even still yet already
    almost enough quite really maybe perhaps good better great nice fine bad poor big small large tiny long short
    tall high low wide deep full empty heavy light hard easy soft strong weak fast slow quick hot warm cool cold wet
    dry clean dirty bright dark loud quiet young rich cheap free busy ready right wrong true false left real whole
    happy sad funny angry afraid sorry sure famous popular favorite animated black white red green blue yellow
    brown gray
    """
)
"""Everyday words: a base model that is made from somebody's file knows them besides the words of the file."""
_SYLLABLES = tuple(
    onset + vowel + coda
    for onset, coda in zip(
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gl", "kr", "sl", "tr"],
        "nrlsxnrlsxnrlsxnrlsx",
        strict=True,
    )
    for vowel in "aeiou"
)
"""Few enough to be one token each, so that an invented word is two or three."""


def made_up(rng: random.Random) -> str:
    """Invent a pronounceable word of two or three syllables, capitalised half of the time."""
    word = "".join(rng.choices(_SYLLABLES, k=rng.choice((2, 2, 2, 3))))
    return word.capitalize() if rng.random() < 0.5 else word


def person(rng: random.Random) -> str:
    """Draw a first name, a full name, or somebody known by their role."""
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(_KIN)
    return rng.choice(_FIRST) + (f" {rng.choice(_LAST)}" if kind < 0.4 else "")


def item(rng: random.Random) -> str:
    """Draw something to buy or pack, sometimes of a kind."""
    goods = rng.choice(_GOODS)
    return f"{rng.choice(_KINDS)} {goods}" if rng.random() < 0.4 else goods


def dish(rng: random.Random) -> str:
    """Draw something worth a timer."""
    return rng.choice(_DISHES)


def meal(rng: random.Random) -> str:
    """Draw something to cook."""
    return rng.choice(_MEALS)


def restaurant(rng: random.Random) -> str:
    """Compose the name of a restaurant of one or two words."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(_FIRST) + "'s"
    if kind < 0.6:
        return f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"
    return f"The {rng.choice(_NOUNS)}" if kind < 0.8 else f"{rng.choice(_FIRST)}'s {rng.choice(_NOUNS)}"


def artist(rng: random.Random) -> str:
    """Compose the name of a singer or a band."""
    kind = rng.random()
    if kind < 0.35:
        return f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
    if kind < 0.7:
        return f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"
    return f"The {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}s" if kind < 0.85 else f"{rng.choice(_NOUNS)}s"


def destination(rng: random.Random) -> str:
    """Draw a city, a sight, or somebody's place."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(CITIES)
    return f"the {rng.choice(_SIGHTS)}" if kind < 0.8 else f"{rng.choice(_LAST)} Street"


def day(rng: random.Random) -> str:
    """Draw a weekday, a date, or "next" and a weekday."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(_DAYS)
    if kind < 0.7:
        return f"next {rng.choice(_DAYS)}"
    return f"{rng.choice(_MONTHS)} {rng.randint(1, 28)}"


def time_of_day(rng: random.Random) -> str:
    """Draw a time: "7 pm", "noon" or "19:30"."""
    kind = rng.random()
    if kind < 0.6:
        return f"{rng.randint(1, 11)} {rng.choice(('am', 'pm'))}"
    return rng.choice(("noon", "midnight")) if kind < 0.7 else f"{rng.randint(6, 22)}:{rng.choice((15, 30, 45))}"


def clause(rng: random.Random) -> str:
    """Compose the body of a message: a short sentence about oneself or a thing."""
    kind = rng.random()
    if kind < 0.3:
        return f"I am {rng.choice(_STATES)}"
    if kind < 0.8:
        return f"{rng.choice(_SUBJECTS)} is {rng.choice(_STATES)}"
    return f"I will {rng.choice(_ACTIONS)} {rng.choice(_THINGS)}"


def task(rng: random.Random) -> str:
    """Compose something to do: an action and its object."""
    thing = rng.choice(_FIRST) if rng.random() < 0.25 else rng.choice(_THINGS)
    return f"{rng.choice(_ACTIONS)} {thing}"
