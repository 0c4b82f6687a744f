"""The inversions by name: what a saved trajectory or a recipe can hold."""

from nmg.inversion.base import DDIM
from nmg.inversion.edit_friendly import EditFriendly
from nmg.inversion.fixed_point import FixedPoint
from nmg.inversion.regularised import Regularised

__all__ = ["DDIM", "EditFriendly", "FixedPoint", "Regularised"]
