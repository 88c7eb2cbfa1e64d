"""What a purchase earns: the reward of WebShop (Yao et al. 2022, arXiv 2207.01206, section 3 and appendix).

r = r_type * (attributes matched + options matched + price ok) / (attributes + options + 1).

Deviations from the authors' code, which differs from the paper in places:
- A title's words are all but its function words; theirs are what a tagger (spaCy) takes for nouns.
- An option of the goal counts once, where a value that was chosen fits it, as the paper has it. Theirs counts what was
  chosen, also where it stands in the product's own text, so that their reward can exceed 1.
- Colours are compared as words; theirs are first mapped to a list of basic colours.
- Likeness of phrases is by `difflib`, theirs by `thefuzz`; both take 85% for the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from sod.environments.shop import CATEGORY_MARK, Goal, Product

EXACT = "size"
"""The option that has to be equal; of others likeness is enough."""
_LIKE = 0.85
_FUNCTION_WORDS = frozenset(("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))


def purchase_reward(product: Product, chosen: Mapping[str, str], goal: Goal) -> float:
    """What buying this with these options earns, from 0 to 1; 1 means that it is all that was asked for."""
    attributes = sum(has_attribute(product, wanted) for wanted in goal.attributes)
    options = sum(is_chosen(wanted, chosen) for wanted in goal.options)
    price = product.price <= goal.price_upper
    share = (attributes + options + price) / (len(goal.attributes) + len(goal.options) + 1)
    return type_reward(product, goal.like) * share


def type_reward(product: Product, wanted: Product) -> float:
    """Whether it is the same type of thing: 1, 0.5, 0.1 or 0, by what it is searched for, category and title."""
    words = _title_words(wanted.title)
    shared = len(words & _title_words(product.title)) / len(words) if words else 0.2
    if shared == 0.0:
        return 0.0
    if shared < 0.1:
        return 0.1
    same = product.kind == wanted.kind or _same_shelf(product, wanted) or shared > 0.2
    return 1.0 if same else 0.5


def has_attribute(product: Product, wanted: str) -> bool:
    """Whether one of its attributes is like this one, or its text has it word for word."""
    texts = (product.title, *product.features, product.description)
    return any(alike(wanted, own) for own in product.attributes) or is_told(wanted, texts)


def is_told(wanted: str, texts: Iterable[str]) -> bool:
    """Whether one of these texts has an attribute word for word."""
    return any(wanted.lower() in text.lower() for text in texts)


def is_chosen(wanted: str, chosen: Mapping[str, str]) -> bool:
    """Whether a value that was chosen is the one that was wanted."""
    return any(fits_option(wanted, name, value) for name, value in chosen.items())


def fits_option(wanted: str, name: str, value: str) -> bool:
    """Whether a value of the option of this name is the one that was wanted."""
    return wanted.lower() == value.lower() if name.lower() == EXACT else alike(wanted, value)


def alike(one: str, other: str) -> bool:
    """Whether the words of two phrases are the same but for details, or all words of one are in the other."""
    left, right = set(_words(one)), set(_words(other))
    shared = left & right
    if shared and (shared in (left, right)):
        return True
    texts = [" ".join([*sorted(shared), *sorted(rest)]) for rest in (set(), left - shared, right - shared)]
    return max(_ratio(texts[0], texts[1]), _ratio(texts[0], texts[2]), _ratio(texts[1], texts[2])) > _LIKE


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio() if one and other else 0.0


def _same_shelf(product: Product, wanted: Product) -> bool:
    """Whether at least two parts of their places in the catalogue are the same."""
    return len(_parts(product.category) & _parts(wanted.category)) >= 2


def _parts(category: str) -> set[str]:
    return {part.strip() for part in category.split(CATEGORY_MARK.strip())}


def _title_words(title: str) -> set[str]:
    return set(_words(title)) - _FUNCTION_WORDS


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
