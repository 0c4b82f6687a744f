"""From a picture to the noise maps that guide its edits: one paper, one file.

A trajectory holds the latent of every noise level, from the picture itself (map 0) to the
noisiest (map T). It is a value: save it, load it, edit it as often as you like.
"""

from nmg.inversion.base import CONVENTIONS, DDIM, Inversion
from nmg.inversion.drawn import Drawn
from nmg.inversion.edit_friendly import EditFriendly
from nmg.inversion.fixed_point import FixedPoint
from nmg.inversion.regularised import Regularised
from nmg.inversion.run import bar, invert, rise
from nmg.inversion.trajectory import SourceRow, Trajectory
from nmg.inversion.uni import UniInv

__all__ = [
    "CONVENTIONS",
    "DDIM",
    "Drawn",
    "EditFriendly",
    "FixedPoint",
    "Inversion",
    "Regularised",
    "SourceRow",
    "Trajectory",
    "UniInv",
    "bar",
    "invert",
    "rise",
]
