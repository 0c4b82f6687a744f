import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from nmg import metrics


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 48, 40, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def arrays(pair, row):
    return [x[row].permute(1, 2, 0).numpy() for x in pair]


def test_mse_and_psnr_are_scikit_images(pair):
    for row in range(2):
        a, b = arrays(pair, row)
        assert metrics.mse(*pair)[row].item() == pytest.approx(np.mean((a - b) ** 2), rel=1e-5)
        assert metrics.psnr(*pair)[row].item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), rel=1e-5)


def test_ssim_is_scikit_images(pair):
    for row in range(2):
        a, b = arrays(pair, row)
        expected = structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2
        )
        assert metrics.ssim(*pair)[row].item() == pytest.approx(expected, abs=1e-5)


def test_equal_pictures_are_equal(pair):
    a, _ = pair
    assert metrics.mse(a, a).tolist() == [0, 0]
    assert metrics.psnr(a, a).isinf().all()
    torch.testing.assert_close(metrics.ssim(a, a), torch.ones(2))


def test_a_region_and_its_complement_make_the_whole(pair):
    a, b = pair
    region = torch.zeros(1, 1, 48, 40, dtype=torch.bool)
    region[..., :12, :] = True
    torch.testing.assert_close(0.25 * metrics.mse(a, b, region) + 0.75 * metrics.mse(a, b, ~region), metrics.mse(a, b))


def test_an_empty_region_is_an_error(pair):
    with pytest.raises(ValueError, match="holds no pixel"):
        metrics.mse(*pair, torch.zeros(1, 1, 48, 40, dtype=torch.bool))
