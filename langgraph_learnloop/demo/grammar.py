"""Write the sample data: requests to an everyday assistant, with the tool call each one asks for.

A template is plain text with `(a|b|)` choices, which may be nested, and `{argument}` slots. Drawing a template, its
choices and its values gives a row whose arguments are, word for word, in its text. Everything is seeded: the same call
gives the same rows on every machine.

Two distributions are made from it. `base_rows` is what the shipped base model was trained on: nine tools, asked for
plainly. `traffic` is what its users send: half of it the same, half of it a *target slice* the base never saw (a
tenth tool, and a slangy, turned-round way of asking for four of the nine).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict

from langgraph_learnloop.demo import words

Value = str | int
Slice = Literal["old", "target"]


class SampleRow(TypedDict):
    """One request, the call it asks for, and which half of the traffic it belongs to."""

    text: str
    tool: str
    args: dict[str, Value]
    slice: Slice


Sampler = Callable[[random.Random], Value]

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_SPACES = re.compile(r" {2,}")

NEW_TOOL = "find_recipe"

OLD_TEMPLATES: Mapping[str, Sequence[str]] = {
    "set_timer": (
        "(set|start|make) (a|me a|the) timer for {minutes} (minutes|minute|min)",
        "(set|start) a {minutes} minute timer",
        "(set|start|make) (a|me a|the) timer (for|of) {minutes} minutes for (the|my) {label}",
        "(set|start) a {minutes} minute timer for (the|my) {label}",
        "(set|start) (the|my|a) {label} timer for {minutes} minutes",
        "timer for {minutes} minutes( for the {label}|)",
        "I need a timer for {minutes} minutes( for the {label}|)",
        "I (want|would like) a {minutes} minute timer( for (the|my) {label}|)",
    ),
    "add_to_list": (
        "(add|put) {item} (to|on) (my|the|our) {list_name} list",
        "(add|put) {item} on {list_name}",
        "(add|write|put) {item} (down on|onto) (my|the|our) {list_name} list",
        "(add|include) {item} (to|in) the list (called|named) {list_name}",
        "my {list_name} list needs {item}",
        "on (my|the|our) {list_name} list (add|put|write) {item}",
        "I need {item} on (my|the|our) {list_name} list",
        "I (want|would like) {item} added to (my|the|our) {list_name} list",
    ),
    "send_message": (
        "(send a|write a) message to {recipient} (saying|that says) {body}",
        "(send|write) {recipient} a message (saying|that says) {body}",
        "(send|write) {recipient} (the|a) (message|text) {body}",
        "(text|message|tell) {recipient} that {body}",
        "tell {recipient} {body}",
        "I (want|need) to tell {recipient} that {body}",
        "I (want|would like) to send {recipient} a message saying {body}",
        "new message to {recipient} saying {body}",
    ),
    "book_table": (
        "(book|reserve|get) (a|us a|me a) table at {restaurant} for {people} (people|guests) on {day}",
        "(book|reserve) (a|us a) table for {people} at {restaurant} on {day}",
        "(book|reserve) (a|us a) table for {people} (people|guests|) at {restaurant} on {day} at {time}",
        "(book|reserve|get) {restaurant} for {people} (people|guests) on {day}( at {time}|)",
        "(make a reservation|make a booking) at {restaurant} for {people} on {day}( at {time}|)",
        "I (need|want|would like) a table for {people} at {restaurant} on {day}( at {time}|)",
        "on {day} (book|reserve) a table for {people} at {restaurant}",
        "table for {people} at {restaurant} on {day}( at {time}|)",
    ),
    "play_music": (
        "play {artist}( in the {room}|)",
        "play (some|the) music by {artist}( in the {room}|)",
        "play (songs|something|a song|an album) by {artist}( in the {room}|)",
        "(put on|start playing) {artist}( in the {room}|)",
        "(put on|start) (some|the) music by {artist}( in the {room}|)",
        "in the {room} play (music by|songs by|something by|) {artist}",
        "I (want|would like) to (hear|listen to) {artist}( in the {room}|)",
        "let me hear (something by|music by|) {artist}( in the {room}|)",
    ),
    "get_weather": (
        "(what is|how is|tell me) the weather in {city}( (on|for) {day}|)",
        "(what is|show me|give me|tell me) the (forecast|weather forecast) for {city}( on {day}|)",
        "will it (rain|snow|be sunny|be cold|be warm) in {city}( on {day}|)",
        "is it (raining|snowing|sunny|cold|warm) in {city}",
        "weather (in|for) {city}( on {day}|)",
        "how (cold|warm|wet) (is it|will it be) in {city}( on {day}|)",
        "on {day} what will the weather be in {city}",
        "I (want|need) (to know the weather|the forecast) for {city}( on {day}|)",
    ),
    "set_thermostat": (
        "(set|turn) the (heating|heat|temperature|thermostat) in the {room} to {degrees}( degrees|)",
        "(set|turn|change) the {room} (heating|temperature|thermostat|heat) to {degrees}( degrees|)",
        "(set|heat|warm|cool) the {room} to {degrees} degrees",
        "make the {room} {degrees} degrees",
        "make it {degrees} degrees in the {room}",
        "(I want|I would like) the {room} (at|to be) {degrees} degrees",
        "(change|put) the temperature to {degrees} degrees in the {room}",
        "(heating|thermostat|temperature) in the {room} to {degrees}( degrees|)",
    ),
    "find_route": (
        "(find|show me|get me|plan) (a|the|the best) (route|way) to {destination} by {mode}",
        "how do I (get|travel) to {destination} by {mode}",
        "(directions|route|the way) to {destination} by {mode}",
        "(give me|show me) directions to {destination} by {mode}",
        "(navigate|guide me|take me) to {destination} by {mode}",
        "by {mode} how do I get to {destination}",
        "I (need|want) to (go|get|travel) to {destination} by {mode}",
        "what is the (best|fastest|shortest) (route|way) to {destination} by {mode}",
    ),
    "set_reminder": (
        "remind me to {task} on {day}( at {time}|)",
        "remind me on {day} to {task}",
        "remind me at {time} to {task}",
        "(set|make|create) a reminder to {task} on {day}( at {time}|)",
        "(set|make|create) a reminder for {day} to {task}",
        "on {day} remind me to {task}",
        "I need a reminder to {task} on {day}( at {time}|)",
        "do not let me forget to {task} on {day}( at {time}|)",
    ),
}
"""The nine tools the base model knows and the way its users spoke."""

NEW_TOOL_TEMPLATES: Sequence[str] = (
    "(find|show me|give me|look up) (a|the) recipe for {dish} that feeds {people}",
    "(find|show me|give me) (a|the) {dish} recipe that feeds {people}",
    "how do I (cook|make) {dish} to feed {people}",
    "what do I need to (cook|make) {dish} to feed {people}",
    "I want to (cook|make) {dish} to feed {people}",
    "a recipe for {dish} that feeds {people}",
)
"""The tenth tool, which only live traffic asks for."""

NEW_SPEECH_TEMPLATES: Mapping[str, Sequence[str]] = {
    "set_timer": (
        "(yo |hey |)gimme {minutes} mins on the clock",
        "(yo |hey |)start the clock, {minutes} mins",
    ),
    "add_to_list": (
        "we ran clean outta {item}, stick it with the {list_name} stuff",
        "(yo |hey |)we could use {item} with the {list_name} stuff, ya know",
    ),
    "send_message": (
        "(hit up|ping) {recipient} like, {body}",
        "(yo |hey |)lemme tell ya, {recipient} oughta know {body}",
    ),
    "play_music": (
        "(yo |hey |)kinda feeling {artist} vibes (right now|rn)",
        "crank (up |){artist} real loud",
    ),
}
"""Four of the nine tools, asked for in words and an order the base never saw."""

_OPENINGS = ("", "", "", "", "please ", "can you ", "could you ", "hey, ", "hi, ", "would you please ")
_CLOSINGS = ("", "", "", "", "", " please", " now", " thanks", ", please", ", thank you")
_ENDINGS = ("", "", ".", "!", "?")
_SLANG_CLOSINGS = ("", "", "", " bro", " yeah", ", ta")
_QUESTION_WORDS = (
    "how ",
    "what ",
    "is ",
    "will ",
    "I ",
    "my ",
    "by ",
    "on ",
    "in the ",
    "do not ",
    "let me ",
    "weather ",
)


def _number(low: int, high: int) -> Sampler:
    return lambda rng: rng.randint(low, high)


def _one_of(values: Sequence[str]) -> Sampler:
    return lambda rng: rng.choice(values)


def _mostly(sampler: Callable[[random.Random], str], made_up: float) -> Sampler:
    """Draw from `sampler`, or with chance `made_up` a word that exists nowhere."""
    return lambda rng: words.made_up(rng) if rng.random() < made_up else sampler(rng)


SAMPLERS: Mapping[str, Sampler] = {
    "minutes": _number(2, 120),
    "label": _mostly(words.dish, 0.2),
    "item": _mostly(words.item, 0.15),
    "list_name": _mostly(lambda rng: rng.choice(words.LISTS), 0.2),
    "recipient": _mostly(words.person, 0.15),
    "body": words.clause,
    "restaurant": _mostly(words.restaurant, 0.15),
    "people": _number(2, 19),
    "day": words.day,
    "time": words.time_of_day,
    "artist": _mostly(words.artist, 0.15),
    "room": _one_of(words.ROOMS),
    "city": _mostly(lambda rng: rng.choice(words.CITIES), 0.25),
    "degrees": _number(14, 28),
    "destination": _mostly(words.destination, 0.15),
    "mode": _one_of(words.MODES),
    "task": words.task,
    "dish": _mostly(words.meal, 0.1),
}


def base_rows(n: int, seed: int = 0) -> list[SampleRow]:
    """Draw `n` different plain requests for the nine old tools, evenly over the tools."""
    rng = words.seeded(f"base {seed}")
    return _distinct(n, lambda: _old_row(rng))


def traffic(n: int, seed: int = 0, target_share: float = 0.5) -> list[SampleRow]:
    """Draw `n` different live requests, `target_share` (0..1) of them from the target slice.

    Half of the target slice asks for the new tool, half speaks the new way.
    """
    rng = words.seeded(f"traffic {seed}")
    return _distinct(n, lambda: _target_row(rng) if rng.random() < target_share else _old_row(rng))


def target_rows(n: int, seed: int = 0) -> list[SampleRow]:
    """Draw `n` different requests from the target slice alone."""
    return traffic(n, seed, target_share=1.0)


def _distinct(n: int, draw: Callable[[], SampleRow]) -> list[SampleRow]:
    rows: dict[str, SampleRow] = {}
    while len(rows) < n:
        row = draw()
        rows.setdefault(row["text"], row)
    return list(rows.values())


def _old_row(rng: random.Random) -> SampleRow:
    tool = rng.choice(tuple(OLD_TEMPLATES))
    template = rng.choice(OLD_TEMPLATES[tool])
    return _plain(tool, template, "old", rng)


def _target_row(rng: random.Random) -> SampleRow:
    if rng.random() < 0.5:
        return _plain(NEW_TOOL, rng.choice(NEW_TOOL_TEMPLATES), "target", rng)
    tool = rng.choice(tuple(NEW_SPEECH_TEMPLATES))
    template = rng.choice(NEW_SPEECH_TEMPLATES[tool])
    text, args = fill(template, rng)
    text += rng.choice(_SLANG_CLOSINGS) if not template.endswith("{body}") else ""
    return SampleRow(text=text, tool=tool, args=args, slice="target")


def _plain(tool: str, template: str, part: Slice, rng: random.Random) -> SampleRow:
    """Fill a template and dress it: a polite opening or closing, a capital, a full stop."""
    text, args = fill(template, rng)
    if not text.startswith(_QUESTION_WORDS) and not template.startswith("{"):
        text = rng.choice(_OPENINGS) + text
    text += rng.choice(_CLOSINGS) if not template.endswith("{body}") else ""
    if not template.startswith("{") and rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return SampleRow(text=text + rng.choice(_ENDINGS), tool=tool, args=args, slice=part)


def fill(template: str, rng: random.Random) -> tuple[str, dict[str, Value]]:
    """Draw the choices and slots of a template: the text, and the values in the order of the text."""
    while choice := _CHOICE.search(template):
        drawn = rng.choice(choice[1].split("|"))
        template = template[: choice.start()] + drawn + template[choice.end() :]
    args: dict[str, Value] = {}

    def draw(slot: re.Match[str]) -> str:
        name = slot[1]
        value = SAMPLERS[name](rng)
        while value in args.values():
            value = SAMPLERS[name](rng)
        args[name] = value
        return str(value)

    return _SPACES.sub(" ", _SLOT.sub(draw, template)).strip(), args
