import numpy as np
import pytest
import torch

from nmg.lab import metrics


def direct_distance(folder, a, b, peak=1.0):
    """The distance of one pair: the last layer's keys are computed from its normalised input, in loops."""
    from transformers import ViTModel

    network = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    weights = {name.replace("attention.attention.", "attention."): w for name, w in network.state_dict().items()}
    (weight, bias) = (
        next(w for name, w in weights.items() if "2.attention.k" in name and name.endswith(kind))
        for kind in ("weight", "bias")
    )
    norm = [module for name, module in network.named_modules() if name.endswith("layernorm_before")][-1]

    def similarity(pixels):
        # 80×64 becomes 40×32 pixels: five by four patches.
        pixels = torch.nn.functional.interpolate(pixels[None], (32, 40), mode="bilinear") * peak
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (pixels - mean[:, None, None]) / deviation[:, None, None]
        hidden = network(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[2][0]
        keys = norm(hidden) @ weight.T + bias
        return np.array([[torch.cosine_similarity(k, q, dim=0).item() for q in keys] for k in keys])

    difference = similarity(a) - similarity(b)
    assert difference.shape == (21, 21)
    return (difference**2).mean()


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_structure_distance_compares_the_last_layers_keys(dino, pair, peak):
    expected = [direct_distance(dino, *row, peak) for row in zip(*pair, strict=True)]
    assert metrics.StructureDistance(dino, "cpu", peak)(*pair).tolist() == pytest.approx(expected, rel=1e-3)
    assert min(expected) > 1e-3 and abs(expected[0] - expected[1]) > 1e-3


def test_equal_pictures_have_no_structure_distance(dino, pair):
    assert metrics.StructureDistance(dino, "cpu")(pair[0], pair[0]).tolist() == [0, 0]


def test_the_structure_distance_leaves_no_hook(dino, pair):
    from nmg.lab.metrics import structure

    metrics.StructureDistance(dino, "cpu")(*pair)
    network, projection = structure._dino(dino, torch.device("cpu"))
    assert not any(module._forward_hooks for module in network.modules())
    assert projection in list(network.modules())


def test_pictures_are_resized_by_their_shorter_side():
    from nmg.lab.metrics.structure import _resized

    sizes = {(512, 512): (224, 224), (64, 64): (224, 224), (768, 512): (336, 224), (300, 500): (224, 373)}
    for size, expected in {**sizes, (100, 1000): (48, 480), (1000, 100): (480, 48)}.items():
        assert _resized(torch.zeros(1, 3, *size), 224).shape[-2:] == expected
