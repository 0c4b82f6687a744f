import pytest
import torch

from nmg.lab import metrics
from tests.lab.metrics.conftest import randomise


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> str:
    """A folder with a tiny DINOv2 of random weights."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=56)
    randomise(Dinov2Model(config)).save_pretrained(folder)
    return str(folder)


def test_equal_pictures_are_alike_and_others_less(dinov2, pair):
    score = metrics.DinoSimilarity(dinov2, "cpu")
    assert score(pair[0], pair[0]).tolist() == pytest.approx([1, 1])
    assert (score(*pair) < 0.9999).all()


def test_it_is_the_cosine_of_the_class_tokens(dinov2, pair):
    from transformers import Dinov2Model

    network = Dinov2Model.from_pretrained(dinov2).eval()
    tokens = []
    for picture in (pair[0][:1], pair[1][:1]):
        pixels = torch.nn.functional.interpolate(picture, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        with torch.no_grad():
            tokens.append(network((pixels - mean) / deviation).last_hidden_state[0, 0])
    expected = torch.cosine_similarity(*tokens, dim=0).item()
    found = metrics.DinoSimilarity(dinov2, "cpu")(*pair)
    assert found[0].item() == pytest.approx(expected, abs=1e-4)


def test_without_its_weights_it_is_missing(pair):
    with pytest.raises(metrics.Missing, match="the DINOv2 similarity can't .* 'facebook/dinov2-base'; HF_HUB_OFFLINE"):
        metrics.DinoSimilarity(device="cpu")(*pair)
