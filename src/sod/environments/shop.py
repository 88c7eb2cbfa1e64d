"""A generated shop: goods with a title, a category, attributes, options and a price, and what customers look for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from random import Random
from typing import final

from sod.records import SodError
from sod.seeds import derive

CATEGORY_MARK = " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
"""Stands between the parts of a category, as in WebShop's files."""
NO_LIMIT = 1_000_000.0
"""The upper price of a goal that names none (dollars)."""


@final
@dataclass(frozen=True)
class Product:
    """`kind` is what people search for to find it, `category` its path in the catalogue, `price` in dollars.

    `options` are the values of each option, by the option's name.
    """

    id: str
    title: str
    kind: str
    category: str
    price: float
    attributes: tuple[str, ...]
    features: tuple[str, ...]
    description: str
    options: Mapping[str, tuple[str, ...]]


@final
@dataclass(frozen=True)
class Goal:
    """What a customer looks for: something like `like`, with these attributes and option values, for at most a price.

    `instruction` is how the customer says it.
    """

    instruction: str
    like: Product
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    price_upper: float


@final
@dataclass(frozen=True)
class _Section:
    """A part of the catalogue: its shelves with the kinds on them, and what its goods may have."""

    name: str
    shelves: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]


_COLORS = ("red", "blue", "green", "black", "white", "yellow", "purple", "brown")
_SIZES = ("small", "medium", "large", "extra large")
_PACKS = ("single", "twin pack", "family pack")
_SECTIONS = (
    _Section(
        "clothing",
        {"tops": ("shirt", "sweater", "jacket"), "bottoms": ("jeans", "skirt")},
        ("cotton", "wool", "machine washable", "long sleeve", "slim fit", "loose fit", "quick drying", "hand made"),
        {"color": _COLORS, "size": _SIZES},
    ),
    _Section(
        "home",
        {"lighting": ("lamp", "lantern"), "textiles": ("rug", "curtain", "pillow")},
        ("easy clean", "dimmable", "fire proof", "bamboo", "foldable", "heavy duty", "energy saving", "vintage"),
        {"color": _COLORS, "size": _SIZES},
    ),
    _Section(
        "beauty",
        {"hair": ("shampoo", "conditioner"), "skin": ("lotion", "soap")},
        ("vegan", "sulfate free", "tea tree", "travel friendly", "alcohol free", "sensitive", "refillable", "organic"),
        {"scent": ("rose", "lemon", "vanilla", "mint", "lavender"), "pack": _PACKS},
    ),
    _Section(
        "electronics",
        {"audio": ("headphones", "speaker"), "power": ("charger", "cable")},
        ("wireless", "noise cancelling", "fast charging", "waterproof", "compact", "braided", "magnetic", "recycled"),
        {"color": _COLORS, "length": ("3 feet", "6 feet", "10 feet")},
    ),
    _Section(
        "grocery",
        {"drinks": ("tea", "coffee"), "snacks": ("cookies", "granola")},
        ("gluten free", "fair trade", "low sugar", "caffeine free", "high fiber", "dairy free", "kosher", "non gmo"),
        {"flavor": ("ginger", "cherry", "honey", "cocoa", "almond"), "pack": _PACKS},
    ),
    _Section(
        "shoes",
        {"outdoor": ("boots", "sandals", "sneakers"), "indoor": ("slippers",)},
        ("leather", "non slip", "arch support", "steel toe", "memory foam", "wide fit", "breathable", "lined"),
        {"color": _COLORS, "size": ("6", "7", "8", "9", "10")},
    ),
)
_BRANDS_BEGIN = ("Bal", "Cor", "Dren", "Fal", "Gor", "Hel", "Jor", "Kel", "Lum", "Nor", "Pel", "Vor")
_BRANDS_END = ("ado", "eth", "ima", "ora", "ux", "yn")
_PURPOSES = ("every day", "the weekend", "a long trip", "a gift", "guests", "work")
_REQUESTS = ("i need a {}", "i am looking for a {}", "find me a {}")
_PRICES = (5.0, 95.0)
_ATTRIBUTES_OF_A_PRODUCT = 3
_STEP_OF_LIMITS = 10.0


def kinds_there_are() -> list[str]:
    """Every kind of goods, sections mixed, so that the first few are of many sections."""
    by_section = [_kinds_of(section) for section in _SECTIONS]
    mixed = chain.from_iterable(zip_longest(*by_section))
    return [kind for kind in mixed if kind is not None]


def generated_products(count: int, kinds: int | None, in_title: int, seed: int) -> list[Product]:
    """So many goods of the first so many kinds, as evenly as it goes; a title names the first `in_title` attributes.

    `kinds` is None for all that there are. Raises SodError where a number is too small or too large.
    """
    every = kinds_there_are()
    kinds = min(count, len(every)) if kinds is None else kinds
    if not 1 <= kinds <= len(every):
        raise SodError(f"environment.kinds={kinds}: there are {len(every)} kinds of goods; ask for 1 to {len(every)}")
    if count < kinds:
        raise SodError(
            f"environment.products={count}: fewer than environment.kinds={kinds}; raise products, or lower kinds"
        )
    if not 0 <= in_title <= _ATTRIBUTES_OF_A_PRODUCT:
        raise SodError(f"environment.in_title={in_title}: a product has {_ATTRIBUTES_OF_A_PRODUCT} attributes; 0 to 3")
    random = Random(derive(seed, "shop"))
    shelf = [every[number % kinds] for number in range(count)]
    random.shuffle(shelf)
    width = len(str(count - 1))
    return [_product(f"B{number:0{width}}", kind, in_title, random) for number, kind in enumerate(shelf)]


def generated_goals(products: Sequence[Product], count: int, seed: int) -> list[Goal]:
    """Different goals that a product of the shop fits: no two have the same kind, attributes and options.

    Raises SodError where the shop has fewer.
    """
    random = Random(derive(seed, "goals"))
    found: dict[tuple[str, frozenset[str], tuple[str, ...]], Goal] = {}
    for _ in range(50 * count):
        goal = _goal(random.choice(products), random)
        found.setdefault((goal.like.kind, frozenset(goal.attributes), goal.options), goal)
        if len(found) == count:
            break
    if len(found) == count:
        return list(found.values())
    raise SodError(
        f"environment: a shop of {len(products):,} products has no {count:,} different goals; "
        "raise products, or lower train and validation"
    )


def limit_above(price: float, random: Random) -> float:
    """An upper price as WebShop draws it: the larger of two of the four tens above it; NO_LIMIT from 980 dollars on."""
    first = int(price // _STEP_OF_LIMITS) + 1
    limits = [_STEP_OF_LIMITS * number for number in range(first, min(first + 4, 100))]
    return max(random.sample(limits, 2)) if len(limits) >= 2 else NO_LIMIT


def with_options(words: str, options: Mapping[str, str], price_upper: float) -> str:
    """An instruction with what is to be chosen, and the upper price."""
    said = "".join(f", {name}: {value}" for name, value in options.items())
    limit = "" if price_upper == NO_LIMIT else f", price lower than {price_upper:.2f} dollars"
    return f"{words}{said}{limit}"


def _product(number: str, kind: str, in_title: int, random: Random) -> Product:
    section, shelf = _place(kind)
    attributes = tuple(random.sample(section.attributes, _ATTRIBUTES_OF_A_PRODUCT))
    brand = random.choice(_BRANDS_BEGIN) + random.choice(_BRANDS_END)
    return Product(
        id=number,
        title=", ".join([f"{brand} {kind}", *attributes[:in_title]]),
        kind=kind,
        category=CATEGORY_MARK.join([section.name, shelf, kind]),
        price=round(random.uniform(*_PRICES), 2),
        attributes=attributes,
        features=tuple(random.sample(attributes, len(attributes))),
        description=f"A {kind} by {brand} for {random.choice(_PURPOSES)}.",
        options={name: _some(values, random) for name, values in section.options.items()},
    )


def _some(values: tuple[str, ...], random: Random) -> tuple[str, ...]:
    """Two or three of them, in their own order."""
    picked = random.sample(values, random.choice((2, 3)))
    return tuple(value for value in values if value in picked)


def _goal(product: Product, random: Random) -> Goal:
    attributes = tuple(random.sample(product.attributes, random.choice((1, 2))))
    options = {name: random.choice(values) for name, values in product.options.items()}
    price_upper = limit_above(product.price, random)
    words = random.choice(_REQUESTS).format(f"{' '.join(attributes)} {product.kind}")
    return Goal(with_options(words, options, price_upper), product, attributes, tuple(options.values()), price_upper)


def _kinds_of(section: _Section) -> list[str]:
    return [kind for kinds in section.shelves.values() for kind in kinds]


def _place(kind: str) -> tuple[_Section, str]:
    for section in _SECTIONS:
        for shelf, kinds in section.shelves.items():
            if kind in kinds:
                return section, shelf
    raise KeyError(kind)
