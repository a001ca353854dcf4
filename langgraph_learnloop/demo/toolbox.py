"""Give the demo agent real tools: they check their arguments, act on a small state, and answer in a short sentence."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Any, Literal

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import Field, create_model

_SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "cold", "warm")


@dataclass
class Home:
    """What the tools of one demo act on; any number of threads may share it."""

    timers: list[tuple[str, int]] = field(default_factory=list)
    """Label and minutes of each timer."""
    lists: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Items by the name of their list."""
    messages: list[tuple[str, str]] = field(default_factory=list)
    """Recipient and body of each message sent."""
    bookings: list[tuple[str, int, str, str | None]] = field(default_factory=list)
    """Restaurant, people, day and time of each booking."""
    reminders: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """Task, day and time of each reminder."""
    playing: dict[str, str] = field(default_factory=dict)
    """The artist that plays, by room."""
    degrees: dict[str, int] = field(default_factory=dict)
    """The temperature asked for, in degrees Celsius, by room."""
    lock: Lock = field(default_factory=Lock, repr=False)

    def set_timer(self, minutes: Annotated[int, Field(ge=1, le=600)], label: str | None = None) -> str:
        """Start a timer of so many minutes, for something or for nothing in particular."""
        with self.lock:
            self.timers.append((label or "timer", minutes))
        return (
            f"The {label} timer is set for {minutes} minutes." if label else f"The timer is set for {minutes} minutes."
        )

    def add_to_list(self, item: str, list_name: str) -> str:
        """Write an item on a list, such as the shopping list."""
        with self.lock:
            self.lists[list_name].append(item)
        return f"I added {item} to the {list_name} list."

    def send_message(self, recipient: str, body: str) -> str:
        """Send somebody a message."""
        with self.lock:
            self.messages.append((recipient, body))
        return f"I told {recipient} that {body}."

    def book_table(
        self, restaurant: str, people: Annotated[int, Field(ge=1, le=30)], day: str, time: str | None = None
    ) -> str:
        """Book a table for so many people in a restaurant on a day."""
        with self.lock:
            self.bookings.append((restaurant, people, day, time))
        return f"I booked {restaurant} for {people} on {day}" + (f" at {time}." if time else ".")

    def play_music(self, artist: str, room: str | None = None) -> str:
        """Play an artist, in a room or everywhere."""
        with self.lock:
            self.playing[room or "everywhere"] = artist
        return f"I am playing {artist} in the {room}." if room else f"I am playing {artist}."

    def get_weather(self, city: str, day: str | None = None) -> str:
        """Tell the weather of a city, now or on a day."""
        sky = _SKIES[zlib.crc32(f"{city} {day}".encode()) % len(_SKIES)]
        return f"It will be {sky} in {city} on {day}." if day else f"It is {sky} in {city}."

    def set_thermostat(self, degrees: Annotated[int, Field(ge=5, le=35)], room: str) -> str:
        """Heat or cool a room to so many degrees Celsius."""
        with self.lock:
            self.degrees[room] = degrees
        return f"The {room} will be {degrees} degrees."

    def find_route(self, destination: str, mode: Literal["car", "bike", "train", "bus", "ferry"]) -> str:
        """Find the way to a place by car, bike, train, bus or ferry."""
        minutes = 5 + zlib.crc32(f"{destination} {mode}".encode()) % 90
        return f"It takes {minutes} minutes to {destination} by {mode}."

    def set_reminder(self, task: str, day: str | None = None, time: str | None = None) -> str:
        """Remind the user to do something on a day, at a time, or both."""
        with self.lock:
            self.reminders.append((task, day, time))
        return f"I will remind you to {task}."

    def find_recipe(self, dish: str, people: Annotated[int, Field(ge=1, le=30)]) -> str:
        """Find a recipe for a dish, for so many people."""
        return f"I found a {dish} recipe for {people}."

    def tools(self) -> list[BaseTool]:
        """Wrap every action as a LangChain tool, its schema taken from the signature above."""
        actions = (
            *(self.set_timer, self.add_to_list, self.send_message, self.book_table, self.play_music),
            *(self.get_weather, self.set_thermostat, self.find_route, self.set_reminder, self.find_recipe),
        )
        return [StructuredTool.from_function(action) for action in actions]


def tools_for_rows(rows: Iterable[Mapping[str, Any]]) -> list[BaseTool]:
    """Build each tool named in a data file; its arguments are all optional, its answer is "Done."."""
    arguments: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        arguments[row["tool"]].update(row["args"])
    return [_acknowledging(name, sorted(names)) for name, names in sorted(arguments.items())]


def _acknowledging(name: str, arguments: list[str]) -> BaseTool:
    optional: Any = (int | str | list[str] | None, None)
    schema = create_model(name, **dict.fromkeys(arguments, optional))
    return StructuredTool.from_function(
        func=lambda **_: "Done.", name=name, description=f"{name.replace('_', ' ').capitalize()}.", args_schema=schema
    )
