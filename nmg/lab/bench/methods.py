"""The methods that are compared: a guidance on an inversion, each by the name that tables give it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nmg.guidance import CFG, Direct, Guidance, NegativePrompt, NoiseMap, NullText, ProxNegativePrompt
from nmg.inversion import DDIM, Drawn, EditFriendly, FixedPoint, Inversion, Regularised, UniInv

Guided = Callable[[float, float | None], Guidance]
"""A guidance from the text scale and the noise-map scale."""

GRID = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Noise-map scales that the validation split chooses from, where no bound decides; the gradient scale stays 5000."""


@dataclass(frozen=True)
class Method:
    """A way to keep the source on its path.

    Attributes:
        name: in tables, figures and keys.
        guidance: from the text scale, which is the same for all methods of a run, and the noise-map scale.
        inversion: how the noise maps are made; a function of the text scale, for one that depends on it.
        scaled: whether it has a noise-map scale. Its guidance's default holds where none is chosen or given.
        grid: noise-map scales to choose from on the validation split.
        convention, offset: of the inversion; see `nmg.invert`.
        skip: share of the steps that is left out; the editor's habit if None.
    """

    name: str
    guidance: Guided
    inversion: Inversion | Callable[[float], Inversion] = DDIM()
    scaled: bool = False
    grid: tuple[float, ...] = ()
    convention: str = "aligned"
    offset: int | None = None
    skip: float | None = None

    def inversion_at(self, text_scale: float) -> Inversion:
        """The inversion of a run at that text scale."""
        return self.inversion if isinstance(self.inversion, Inversion) else self.inversion(text_scale)


def plain(guidance: type[Guidance]) -> Guided:
    """A guidance with the paper's settings at a given text scale."""
    return lambda text_scale, scale: guidance(text_scale=text_scale)


def noise_map(text_scale: float, scale: float | None) -> NoiseMap:
    """Noise map guidance at a noise-map scale; its default if None."""
    return NoiseMap(text_scale=text_scale, noise_map_scale=scale)


def fast(text_scale: float, scale: float | None) -> NoiseMap:
    """Noise map guidance with the fewest network calls, which has no scale."""
    return NoiseMap.fast(text_scale=text_scale)


def one_later(text_scale: float, scale: float | None) -> NoiseMap:
    """Noise map guidance by the map of the level that a step starts at, as the authors' MasaCtrl has it."""
    return dataclasses.replace(noise_map(text_scale, scale), level="start")


def jacobian_free(text_scale: float, scale: float | None) -> NoiseMap:
    """Noise map guidance whose gradient leaves the network out."""
    return dataclasses.replace(noise_map(text_scale, scale), jacobian=False)


def stacked(first: Guided, second: Guided) -> Guided:
    """Both guidances at once."""
    return lambda text_scale, scale: first(text_scale, scale) + second(text_scale, scale)


def edit_friendly(text_scale: float) -> EditFriendly:
    """Residuals read off at the run's text scale: at another, the source row would leave the maps."""
    return EditFriendly(text_scale=text_scale)


def on(method: Method, how: str, inversion: Inversion | Callable[[float], Inversion], **levels: Any) -> Method:
    """A method on another inversion."""
    return dataclasses.replace(method, name=f"{method.name}, {how}", inversion=inversion, **levels)


def limited(bound: str | None) -> Guided:
    """Noise map guidance whose step is limited in another way."""
    return lambda text_scale, scale: NoiseMap(text_scale=text_scale, noise_map_scale=scale, bound=bound)


PLAIN, NMG, DIRECT = Method("DDIM", plain(CFG)), Method("NMG", noise_map, scaled=True), Method("Direct", plain(Direct))

METHODS = {
    method.name: method
    for method in (
        PLAIN,
        NMG,
        Method("NTI", plain(NullText)),
        Method("NPI", plain(NegativePrompt)),
        Method("ProxNPI", plain(ProxNegativePrompt)),
        DIRECT,
        Method("NTI + NMG", stacked(plain(NullText), noise_map), scaled=True),
        Method("Direct + NMG", stacked(plain(Direct), noise_map), scaled=True),
        on(PLAIN, "regularised", Regularised()),
        on(PLAIN, "fixed point", FixedPoint()),
        on(PLAIN, "edit-friendly", edit_friendly),
        on(NMG, "regularised", Regularised()),
        on(NMG, "fixed point", FixedPoint()),
        # The conventions of the authors' code, which lead to noise maps of other levels.
        Method("NMG, authors' levels", noise_map, scaled=True, convention="diffusers-0.18", offset=0),
        Method("NMG, one map later", one_later, scaled=True),
        Method("NMG, no Jacobian", jacobian_free, scaled=True),
        Method("NMG, fast", fast),
        # Other limits of the step: the paper's has none, and its scale needs choosing.
        Method("NMG, unbounded", limited(None), scaled=True, grid=GRID),
        Method("NMG, by norm", limited("norm"), scaled=True),
        Method("NMG, rescaled", limited("rescale"), scaled=True),
        # What flow models are inverted by.
        on(PLAIN, "Uni-Inv", UniInv()),
        on(NMG, "Uni-Inv", UniInv()),
        # What further editors are published on.
        on(DIRECT, "drawn", Drawn()),
        on(DIRECT, "Uni-Inv", UniInv()),
        # The residuals' text scale and the share of steps left out are the paper's; the targets' scale is the suite's,
        # where the paper's is 15.
        on(DIRECT, "edit-friendly", EditFriendly(), skip=0.36),
    )
}
"""Every method by its name, in the order of the tables."""


def find(name: str | Method) -> Method:
    """A method by its name; one that is given stays as it is.

    Raises:
        ValueError: for a name that is not known.
    """
    if isinstance(name, Method):
        return name
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}; {'; '.join(METHODS)} can be named")
    return METHODS[name]


def on_variant(name: str, variant: str) -> Method:
    """A method on a variant of the inversion, given as the ending of its name.

    Raises:
        ValueError: for a variant that no method has.
    """
    if (full := f"{name}{variant}") in METHODS:
        return METHODS[full]
    others = [method for method in METHODS.values() if variant and method.name.endswith(variant)]
    if not others:
        raise ValueError(f"there is no variant {variant!r} of an inversion; {'; '.join(METHODS)} are the methods")
    like = others[0]
    how = variant.removeprefix(", ")
    return on(METHODS[name], how, like.inversion, convention=like.convention, offset=like.offset)
