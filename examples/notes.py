"""Notes about deliveries, as people write them, and the one JSON object that says the same: data for extraction.py.

Everything is drawn from lists: who, what, how many, where to and when. Names, goods and places of the held-out notes
are drawn from the same lists in other combinations; two of the fourteen wordings appear in them alone.
"""

import json
import random
from typing import Any

NAMES = [
    "Amara Osei", "Ben Whitfield", "Carla Mendes", "Dmitri Volkov", "Elif Kaya", "Frank Ostrow", "Grace Lindqvist",
    "Hiro Tanaka", "Ines Duarte", "Jonas Becker", "Kavita Rao", "Liam Gallagher", "Mona Haddad", "Nils Aune",
    "Olga Petrova", "Paul Marchand", "Rosa Jimenez", "Samir Nasser", "Tessa Vogel", "Umar Farouk",
]  # fmt: skip
GOODS = [
    "oak shelves", "desk lamps", "paint rollers", "bicycle bells", "wool blankets", "steel hinges", "garden chairs",
    "tea kettles", "copper pipes", "picture frames", "roof tiles", "canvas bags", "wall clocks", "brass hooks",
    "rain barrels", "floor mats", "door handles", "clay pots", "work gloves", "storage boxes",
]  # fmt: skip
PLACES = [
    "Ghent", "Porto", "Leeds", "Turin", "Graz", "Malmo", "Lyon", "Kassel", "Bergen", "Cork", "Utrecht", "Gdansk",
    "Basel", "Sofia", "Tampere", "Bilbao",
]  # fmt: skip
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip
WORDINGS = [
    "Please send {count} {goods} to {name} in {place} by {day} {month}.",
    "{name} from {place} ordered {count} {goods}. Delivery is due on {month} {day}.",
    "Hi, it's {name}. I still need {count} {goods} here in {place}, on {day} {month} if you can. Thanks!",
    "Order taken by phone: {count} {goods}, for {name}, {place}, {month} {day}.",
    "We promised {name} that the {goods} ({count} pieces) reach {place} on {day} {month}.",
    "On {month} {day} a van goes to {place}. Load {count} {goods} for {name}.",
    "To {place}: {count} {goods}. Customer {name}. Wanted on {day} {month}.",
    "Could somebody in {place} take in {count} {goods} on {month} {day}? They are for {name}.",
    "{count} {goods} for {name}; address in {place}; no later than {day} {month}.",
    "{name} wrote again and asks for {count} {goods} in {place}, {month} {day} at the latest.",
    "Reminder for the {place} office: {name} expects {count} {goods} on {day} {month}.",
    "The {goods} are packed, {count} of them. They leave for {place} on {month} {day}, to {name}.",
]
HELD_OUT_WORDINGS = [
    "For {name} in {place}, {count} {goods} must be there on {day} {month}.",
    "A new one: {name} wants {count} {goods}. Bring them to {place} on {month} {day}.",
]


def note(rng: random.Random, wordings: list[str]) -> tuple[str, dict[str, Any]]:
    """Return a note and what it says."""
    day, month, count = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2, 99)
    name, goods, place = rng.choice(NAMES), rng.choice(GOODS), rng.choice(PLACES)
    values = {"name": name, "goods": goods, "place": place, "count": count, "day": day, "month": MONTHS[month - 1]}
    found = {"customer": name, "goods": goods, "count": count, "place": place, "date": f"{month:02}-{day:02}"}
    return rng.choice(wordings).format(**values), found


def dialogs(count: int, seed: int, wordings: list[str]) -> list[dict[str, Any]]:
    """Return dialogs of a note and its JSON object."""
    rng = random.Random(seed)
    made = [note(rng, wordings) for _ in range(count)]
    return [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": json.dumps(found)}]}
        for text, found in made
    ]
