"""Which kind of edit two prompts ask for, told by the words that differ."""

from __future__ import annotations

import itertools

from nmg.lab.presets import SMALL_WORDS, changes, words_of


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


COLOURS = _set(
    "red orange yellow green blue purple violet pink brown black white gray grey golden gold silver dark light "
    "wooden metal glass marble bronze copper leather velvet plastic stone turquoise teal beige crimson"
)
STYLES = _set(
    "painting drawing sketch watercolor watercolour cartoon anime comic mosaic sculpture render style pastel charcoal "
    "impressionist cubist pixel art illustration night photorealistic black-and-white monochrome"
)
VIEWS = _set("front side back rear view profile angle facing looking forward left right")
POSES = _set(
    "sitting standing jumping lying running walking sleeping dancing flying kneeling crouching leaping swimming "
    "raising stretching bowing climbing"
)
FACES = _set(
    "smiling frowning laughing crying angry happy sad glasses sunglasses beard moustache hat crown scarf hair eyes "
    "makeup mask old young elderly bald"
)
PLACES = _set("in on at near under beside behind by inside outside")
KINDS = (
    (STYLES, "global editing"),
    (VIEWS, "viewpoint alteration"),
    (POSES, "pose modification"),
    (FACES, "face attribute"),
)


def kind_of(source: str, target: str) -> str | None:
    """The kind of edit, by its name in `nmg.lab.presets.WHEN`; None for prompts of the same words.

    A word of a style, a view, a pose or a face tells it; colours and materials alone, and what follows "in the …",
    are the next signs; a word that is only added is an attribute, and any other exchange swaps the object.
    """
    old, new = words_of(source.lower()), words_of(target.lower())
    found = changes(old, new)
    differing = [*itertools.chain.from_iterable((*old[a:b], *new[c:d]) for _, a, b, c, d in found)]
    words = set(differing) - SMALL_WORDS
    if not words:
        return None
    for sign, kind in KINDS:
        if words & sign:
            return kind
    if words <= COLOURS:
        return "colour change"
    if all(_placed(old, a) or _placed(new, c) for _, a, _, c, _ in found):
        return "contextual change"
    return "face attribute" if all(a == b for _, a, b, _, _ in found) else "object swap"


def _placed(words: list[str], start: int) -> bool:
    """Whether a phrase begins with a word of place, or stands after one, small words and colours aside."""
    if PLACES.intersection(words[start : start + 1]):
        return True
    passed = COLOURS | SMALL_WORDS - PLACES
    return next((word for word in reversed(words[:start]) if word not in passed), "") in PLACES
