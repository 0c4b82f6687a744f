"""Names for the shapes that pass between modules, checked at run time by the tests."""

from jaxtyping import Bool, Float
from torch import Tensor

Image = Float[Tensor, "rows 3 image_height image_width"]
"""Pixels in 0…1."""
Latents = Float[Tensor, "rows channels height width"]
Doubled = Float[Tensor, "doubled_rows channels height width"]
"""Latents or noise of the null rows, then of the text rows."""
Heads = Float[Tensor, "rows heads _ dim"]
"""Queries, keys, values or outputs of one attention layer: one vector per position or text token."""
KeyMask = Bool[Tensor, "rows 1 1 keys"]
"""Which keys count, where not all do: those of a padded text don't."""
Probabilities = Float[Tensor, "rows heads queries keys"]
WordMaps = Float[Tensor, "rows heads positions tokens"]
"""How much every position of the picture attends to every token of the text."""
TokenMaps = Float[Tensor, "text_rows height width tokens"]
"""The same of the text half, as maps: mean over heads."""
TokenMap = Float[Tensor, "source_tokens target_tokens"]
Mask = Bool[Tensor, "rows 1 height width"]
