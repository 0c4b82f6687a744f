"""From a picture to the noise maps that guide its edits: one paper, one file.

A trajectory holds the latent of every noise level, from the picture itself (map 0) to the
noisiest (map T). It is a value: save it, load it, edit it as often as you like.
"""

from nmg.inversion.base import CONVENTIONS
from nmg.inversion.methods import DDIM, EditFriendly, FixedPoint, Regularised
from nmg.inversion.path import SourcePath
from nmg.inversion.trajectory import Trajectory
from nmg.inversion.walk import bar, invert, rise

__all__ = [
    "CONVENTIONS",
    "DDIM",
    "EditFriendly",
    "FixedPoint",
    "Regularised",
    "SourcePath",
    "Trajectory",
    "bar",
    "invert",
    "rise",
]
