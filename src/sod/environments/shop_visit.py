"""A visit to a shop: its pages as WebShop has them, the buttons on each, and where they lead.

Deviations from the authors' text pages: the instruction stands in the prompt and not on every page, a button is a word
in [brackets], and there are no reviews and no pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, final

from sod.environments.ranking import Ranking
from sod.environments.shop import Product

FOUND = 50
"""Products that a search finds at most."""
NEXT, PREV, BACK = "Next >", "< Prev", "Back to Search"
DESCRIPTION, FEATURES, BUY = "Description", "Features", "Buy Now"
_TEXTS: Mapping[str, Literal["description", "features"]] = {DESCRIPTION: "description", FEATURES: "features"}


@final
@dataclass(frozen=True)
class Catalogue:
    """The goods of a shop by their ids, in order, and a search among them."""

    products: Mapping[str, Product]
    ranking: Ranking

    def search(self, keywords: str) -> tuple[str, ...]:
        """The ids of what fits best, best first."""
        ids = list(self.products)
        return tuple(ids[number] for number in self.ranking.best(keywords, FOUND))


@final
@dataclass(frozen=True)
class Visit:
    """Where a customer stands, and what they have seen.

    `queries` are all that they searched for, `found` the ids that the last search found, `number` the page of them,
    `chosen` the options chosen of `item`, `opened` the items whose page was shown, `read` those whose features were.
    """

    page: Literal["search", "results", "item", "description", "features", "end"] = "search"
    queries: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    number: int = 1
    item: str = ""
    chosen: Mapping[str, str] = field(default_factory=dict)
    opened: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()


def searched(visit: Visit, keywords: str, shop: Catalogue) -> Visit:
    """The results of a search: the first page, with no item open."""
    words = " ".join(keywords.split())
    queries = (*visit.queries, words)
    return replace(visit, page="results", queries=queries, found=shop.search(words), number=1, item="", chosen={})


def shown_items(visit: Visit, results: int) -> tuple[str, ...]:
    """The items on the page of results, of which a page has `results`."""
    return visit.found[(visit.number - 1) * results : visit.number * results]


def buttons(visit: Visit, shop: Catalogue, results: int) -> list[str]:
    """What can be clicked, in the order of the page."""
    if visit.page in ("search", "end"):
        return []
    if visit.page == "results":
        back = [PREV] if visit.number > 1 else []
        more = [NEXT] if visit.number * results < len(visit.found) else []
        return [BACK, *back, *more, *shown_items(visit, results)]
    if visit.page in _TEXTS.values():
        return [BACK, PREV]
    options = [value for values in shop.products[visit.item].options.values() for value in values]
    return [BACK, PREV, *dict.fromkeys(options), DESCRIPTION, FEATURES, BUY]


def clicked(visit: Visit, value: str, shop: Catalogue, results: int) -> Visit | None:
    """Where a button leads, whatever its case; None where the page has none of this name."""
    pressed = next((own for own in buttons(visit, shop, results) if own.lower() == value.strip().lower()), None)
    if pressed is None:
        return None
    if pressed == BACK:
        return replace(visit, page="search", found=(), item="", chosen={})
    if visit.page == "results":
        return _from_results(visit, pressed)
    if visit.page in _TEXTS.values():
        return replace(visit, page="item")
    return _from_item(visit, pressed, shop.products[visit.item])


def page_text(visit: Visit, shop: Catalogue, results: int) -> str:
    """What the page shows."""
    if visit.page == "search":
        return "The search page: search for keywords."
    if visit.page == "results":
        return _results_text(visit, shop, results)
    product = shop.products[visit.item]
    if visit.page == "item":
        return _item_text(visit, product)
    told = [product.description] if visit.page == "description" else [f"- {feature}" for feature in product.features]
    return "\n".join([f"[{BACK}] [{PREV}]", *told])


def price_text(product: Product) -> str:
    """A price as pages show it."""
    return f"${product.price:.2f}"


def _from_results(visit: Visit, pressed: str) -> Visit:
    if pressed in (NEXT, PREV):
        return replace(visit, number=visit.number + (1 if pressed == NEXT else -1))
    return replace(visit, page="item", item=pressed, chosen={}, opened=visit.opened | {pressed})


def _from_item(visit: Visit, pressed: str, product: Product) -> Visit:
    if pressed == PREV:
        return replace(visit, page="results", item="", chosen={})
    if pressed == BUY:
        return replace(visit, page="end")
    if pressed in _TEXTS:
        read = visit.read | {visit.item} if pressed == FEATURES else visit.read
        return replace(visit, page=_TEXTS[pressed], read=read)
    having = [name for name, values in product.options.items() if pressed in values]
    # two options may offer the same word: it is chosen for the first of them that has none yet
    name = next((name for name in having if name not in visit.chosen), having[0])
    return replace(visit, chosen={**visit.chosen, name: pressed})


def _results_text(visit: Visit, shop: Catalogue, results: int) -> str:
    marks = " ".join(f"[{button}]" for button in buttons(visit, shop, results) if button not in visit.found)
    if not visit.found:
        return f"{marks}\nNothing was found."
    items = [shop.products[number] for number in shown_items(visit, results)]
    pages = -(-len(visit.found) // results)
    lines = [f"[{item.id}] {item.title} {price_text(item)}" for item in items]
    return "\n".join([f"{marks} Page {visit.number} of {pages}", *lines])


def _item_text(visit: Visit, product: Product) -> str:
    lines = [f"[{BACK}] [{PREV}]", product.title, f"Price: {price_text(product)}"]
    for name, values in product.options.items():
        chosen = f" = {visit.chosen[name]}" if name in visit.chosen else ""
        lines.append(f"{name}{chosen}: {' '.join(f'[{value}]' for value in values)}")
    lines.append(f"[{DESCRIPTION}] [{FEATURES}] [{BUY}]")
    return "\n".join(lines)
