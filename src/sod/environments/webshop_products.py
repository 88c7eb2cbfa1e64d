"""A reader for the product files of WebShop's authors (github.com/princeton-nlp/WebShop).

- products (`items_shuffle*.json`): a list of rows with `asin`, `name`, `query`, `product_category`, and as far as they
  have them `full_description`, `small_description`, `pricing`, `customization_options`;
- attributes (`items_ins_v2*.json`): by asin, `attributes`, and the generated `instruction` with its
  `instruction_attributes`;
- instructions (`items_human_ins.json`): by asin, a list of `instruction`, `instruction_attributes`,
  `instruction_options`, as people wrote them.

As with the authors: rows without an id of at most 10 characters and repeated ones are left out, a row without a price
costs 100 dollars, of two prices one between them is drawn, and instructions without attributes are no goals. Deviation:
all that is drawn comes from the seed by a hash, so that prices, limits and the order of goals are not theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, final

from sod.environments.shop import Goal, Product, limit_above, with_options
from sod.records import SodError
from sod.seeds import derive

_NEEDED = ("asin", "name", "query", "product_category")
_LONGEST_ID = 10
_NO_PRICE = 100.0


@final
@dataclass(frozen=True)
class Files:
    """Paths of the three files; the last two may be None."""

    products: str
    attributes: str | None = None
    instructions: str | None = None


def products_in(files: Files, limit: int | None, seed: int) -> list[Product]:
    """The goods of the first `limit` rows, of all where that is None. Raises SodError, naming file and row."""
    key = f"environment.products_file={files.products!r}"
    rows = _json(files.products, key)
    if not isinstance(rows, list):
        raise SodError(f"{key}: holds {_named(rows)}; it has to be a list of products")
    told = {} if files.attributes is None else _by_id(files.attributes, "attributes_file")
    found: dict[str, Product] = {}
    for number, row in enumerate(rows[:limit], start=1):
        where = f"{key} row {number}"
        _check(row, where)
        if row["asin"] == "nan" or len(row["asin"]) > _LONGEST_ID or row["asin"] in found:
            continue
        attributes = _attributes(told.get(row["asin"]), files, row["asin"])
        found[row["asin"]] = _product(row, attributes, seed, where)
    if not found:
        raise SodError(f"{key}: has no products with an asin of at most {_LONGEST_ID} characters")
    return list(found.values())


def goals_in(files: Files, products: Sequence[Product], count: int, seed: int) -> list[Goal] | None:
    """So many different goals, drawn by `seed`: of the instructions file if there is one, else of the attributes file.

    None where there is neither. Raises SodError, naming file and row, and where there are fewer.
    """
    random = Random(seed)
    if files.instructions is not None:
        key = f"environment.instructions_file={files.instructions!r}"
        written = list(_written(_by_id(files.instructions, "instructions_file"), products, random, key))
        random.shuffle(written)
        return _enough(written[:count], count, key)
    if files.attributes is not None:
        key = f"environment.attributes_file={files.attributes!r}"
        rows = _by_id(files.attributes, "attributes_file")
        return _enough(_drawn(rows, products, count, random, key), count, key)
    return None


def _written(rows: Mapping[str, Any], products: Sequence[Product], random: Random, key: str) -> Iterator[Goal]:
    """Each instruction once for a product, so that no goal stands in both splits."""
    for product in products:
        taken: set[str] = set()
        instructions = rows.get(product.id, [])
        where = f"{key} row {product.id!r}"
        if not isinstance(instructions, list):
            raise SodError(f"{where}: is {_named(instructions)}; it has to be a list of instructions")
        for row in instructions:
            text, attributes = _instruction(row, where)
            options = row.get("instruction_options") or []
            values = tuple(_texts(list(options.values()) if isinstance(options, dict) else options, where, "options"))
            if attributes and text not in taken:
                taken.add(text)
                upper = limit_above(product.price, random)
                yield Goal(with_options(text.strip("."), {}, upper), product, attributes, values, upper)


def _drawn(rows: Mapping[str, Any], products: Sequence[Product], count: int, random: Random, key: str) -> list[Goal]:
    """Goals of generated instructions, each with one of the combinations of options that its product has."""
    told = [product for product in products if (rows.get(product.id) or {}).get("instruction")]
    found: dict[tuple[str, tuple[str, ...]], Goal] = {}
    for _ in range(50 * count if told else 0):
        product = random.choice(told)
        text, attributes = _instruction(rows[product.id], f"{key} row {product.id!r}")
        options = {name: random.choice(values) for name, values in sorted(product.options.items())}
        upper = limit_above(product.price, random)
        if attributes:
            goal = Goal(
                with_options(text.strip("."), options, upper), product, attributes, tuple(options.values()), upper
            )
            found.setdefault((product.id, goal.options), goal)
        if len(found) == count:
            break
    return list(found.values())


def _enough(goals: list[Goal], count: int, key: str) -> list[Goal]:
    if len(goals) < count:
        raise SodError(f"{key}: has {len(goals):,} goals of these products; lower train and validation to fit")
    return goals


def _product(row: Mapping[str, Any], attributes: tuple[str, ...], seed: int, where: str) -> Product:
    told = row.get("small_description") or []
    return Product(
        id=row["asin"],
        title=row["name"],
        kind=row["query"].lower().strip(),
        category=row["product_category"],
        price=_price(row.get("pricing"), Random(derive(seed, "price", row["asin"])), where),
        attributes=attributes,
        features=tuple(_texts([told] if isinstance(told, str) else told, where, "small_description")),
        description=str(row.get("full_description") or ""),
        options=_options(row.get("customization_options") or {}, where),
    )


def _price(pricing: Any, random: Random, where: str) -> float:
    """In dollars: text with one amount after a $, or two, between which the price is drawn."""
    if not pricing:
        return _NO_PRICE
    amounts = [re.sub(r"[^\d.]", "", part) for part in str(pricing).split("$")[1:3]]
    try:
        prices = [float(amount) for amount in amounts]
        return prices[0] if len(prices) == 1 else round(random.uniform(*prices), 2)
    except (ValueError, TypeError):
        raise SodError(f"{where}: pricing {pricing!r} is no price like '$9.99' or '$9.99 to $19.99'") from None


def _options(options: Any, where: str) -> dict[str, tuple[str, ...]]:
    """The values of each option, written as the authors' shop writes them."""
    if not isinstance(options, dict):
        raise SodError(f"{where}: customization_options is {_named(options)}; it has to be an object")
    found = {}
    for name, contents in options.items():
        try:
            values = [str(content["value"]).strip().replace("/", " | ").lower() for content in contents or []]
        except (TypeError, KeyError):
            raise SodError(f"{where}: customization_options.{name} has to be a list of objects with a value") from None
        if values:
            found[name.lower()] = tuple(dict.fromkeys(values))
    return found


def _attributes(row: Any, files: Files, number: str) -> tuple[str, ...]:
    if row is None:
        return ()
    where = f"environment.attributes_file={files.attributes!r} row {number!r}"
    if not isinstance(row, dict):
        raise SodError(f"{where}: is {_named(row)}; it has to be an object with attributes")
    return tuple(_texts(row.get("attributes") or [], where, "attributes"))


def _instruction(row: Any, where: str) -> tuple[str, tuple[str, ...]]:
    if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
        raise SodError(f"{where}: has no instruction in text")
    return row["instruction"], tuple(_texts(row.get("instruction_attributes") or [], where, "instruction_attributes"))


def _texts(values: Any, where: str, name: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SodError(f"{where}: {name} has to be a list of texts")
    return values


def _check(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise SodError(f"{where}: is {_named(row)}; it has to be an object with {', '.join(_NEEDED)}")
    missing = [name for name in _NEEDED if not isinstance(row.get(name), str)]
    if missing:
        raise SodError(f"{where}: has no {missing[0]} in text; a product has {', '.join(_NEEDED)}")


def _by_id(path: str, name: str) -> Mapping[str, Any]:
    key = f"environment.{name}={path!r}"
    rows = _json(path, key)
    if not isinstance(rows, dict):
        raise SodError(f"{key}: holds {_named(rows)}; it has to be an object by asin")
    return rows


def _json(path: str, key: str) -> Any:
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SodError(f"{key}: cannot be read as JSON: {error}") from None


def _named(value: Any) -> str:
    """What kind of JSON value it is."""
    kinds = {list: "a list", dict: "an object", str: "text", type(None): "null"}
    return kinds.get(type(value), "a number")
