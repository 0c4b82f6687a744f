import pytest

from nmg import NoiseMap
from nmg.lab.bench.methods import METHODS, find, on_variant


def test_every_method_follows_the_text_scale():
    for method in METHODS.values():
        guidance = method.guidance(4.0, 6.0 if method.scaled else None)
        assert guidance.text_scale == 4
        parts = getattr(guidance, "parts", (guidance,))
        steered = [part for part in parts if isinstance(part, NoiseMap)]
        turned = [part for part in steered if not part.lands]
        assert bool(turned) == method.scaled and all(part.noise_map_scale == 6 for part in turned)
        own = 3.5 if method.name == "Direct, edit-friendly" else 4
        assert getattr(method.inversion_at(4.0), "text_scale", own) == own


def test_a_variant_is_that_of_the_method_that_has_it():
    found = on_variant("DDIM", ", authors' levels")
    assert found.name == "DDIM, authors' levels" and (found.convention, found.offset) == ("diffusers-0.18", 0)
    assert found.guidance is METHODS["DDIM"].guidance
    assert on_variant("NMG", "") is METHODS["NMG"]
    assert on_variant("NMG", ", edit-friendly").scaled and not on_variant("DDIM", ", edit-friendly").scaled
    with pytest.raises(ValueError, match="no variant ', sideways'"):
        on_variant("DDIM", ", sideways")


def test_methods_are_found_by_name_or_given():
    assert find("NMG") is find(METHODS["NMG"]) is METHODS["NMG"]
    with pytest.raises(ValueError, match="no method 'NGM'; DDIM; NMG"):
        find("NGM")
