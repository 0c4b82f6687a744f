"""Sentences about anything, from which pix2pix-zero finds its edit directions."""

from __future__ import annotations

from nmg.backbone import Backbone
from nmg.menagerie import captions, model

FRAMES = (
    "{}",
    "a photo of {}",
    "a close-up of {}",
    "a snapshot of {}",
    "a professional photograph of {}",
    "a picture in which one sees {}",
)
SETTINGS = (
    "",
    "in a sunny garden",
    "by the window of a quiet room",
    "on a busy street at noon",
    "in front of a white wall",
    "on green grass after the rain",
    "in deep snow",
    "near the sea at dusk",
    "under a grey sky",
    "in soft morning light",
    "seen from the side",
    "with mountains far behind",
)
DETERMINERS = ("a", "an", "the", "some", "two", "three", "many", "several", "my", "your", "his", "her", "their", "our")


def sentences(phrase: str, backbone: Backbone) -> tuple[str, ...]:
    """Sentences about a word or phrase, always the same and in the same order; the two sides of a direction match
    sentence by sentence.

    The bundled model, which knows few words, gets captions of its own world.

    Raises:
        ValueError: for an empty phrase.
    """
    phrase = " ".join(phrase.split())
    if not phrase:
        raise ValueError('the phrase is empty; give a word or a phrase, such as "cat" or "a sleeping cat"')
    if model.is_bundled(backbone):
        return captions.about(phrase)
    named = phrase if phrase.split()[0].lower() in DETERMINERS else f"{captions.article(phrase)} {phrase}"
    return tuple(f"{frame.format(named)} {setting}".strip() for setting in SETTINGS for frame in FRAMES)
