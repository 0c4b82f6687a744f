import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from nmg.lab import metrics

WINDOW = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 48, 40, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


@pytest.fixture
def regions():
    """Another region for each row, in the middle and at the border."""
    regions = torch.zeros(2, 1, 48, 40, dtype=torch.bool)
    regions[0, :, 10:30, 8:20] = True
    regions[1, :, :, 17:] = True
    return regions


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
        assert metrics.ssim(*pair)[row].item() == pytest.approx(structural_similarity(a, b, **WINDOW), abs=1e-5)


def test_in_a_region_only_its_pixels_count(pair, regions):
    for row, region in enumerate(regions[:, 0].numpy()):
        a, b = arrays(pair, row)
        psnr = peak_signal_noise_ratio(a[region], b[region], data_range=1)
        assert metrics.mse(*pair, regions)[row].item() == pytest.approx(np.mean((a - b)[region] ** 2), rel=1e-5)
        assert metrics.psnr(*pair, regions)[row].item() == pytest.approx(psnr, rel=1e-5)


def test_ssim_in_a_region_is_the_mean_of_scikit_images_map_over_the_window_centres(pair, regions):
    for row, region in enumerate(regions[:, 0].numpy()):
        a, b = arrays(pair, row)
        similarity = structural_similarity(a, b, full=True, **WINDOW)[1]
        expected = similarity[5:-5, 5:-5][region[5:-5, 5:-5]].mean()
        assert metrics.ssim(*pair, regions)[row].item() == pytest.approx(expected, abs=1e-5)


def test_masked_pictures_are_measured_as_published(pair, regions):
    a, b = pair
    black = [metrics.masked(x, regions) for x in pair]
    assert all((x[~regions.expand_as(x)] == 0).all() for x in black)
    share = regions.float().mean((1, 2, 3))
    torch.testing.assert_close(metrics.mse(*black), share * metrics.mse(a, b, regions))
    torch.testing.assert_close(metrics.psnr(*black), metrics.psnr(a, b, regions) - 10 * share.log10())
    for row in range(2):
        expected = structural_similarity(*arrays(black, row), **WINDOW)
        assert metrics.ssim(*black)[row].item() == pytest.approx(expected, abs=1e-5)
    assert (metrics.ssim(*black) > metrics.ssim(a, b, regions)).all()


def test_equal_pictures_are_equal(pair, regions):
    a, _ = pair
    assert metrics.mse(a, a).tolist() == [0, 0]
    assert metrics.psnr(a, a).isinf().all()
    torch.testing.assert_close(metrics.ssim(a, a), torch.ones(2))
    torch.testing.assert_close(metrics.ssim(a, a, regions), torch.ones(2))


def test_a_region_and_its_complement_make_the_whole(pair):
    a, b = pair
    region = torch.zeros(1, 1, 48, 40, dtype=torch.bool)
    region[..., :12, :] = True
    torch.testing.assert_close(0.25 * metrics.mse(a, b, region) + 0.75 * metrics.mse(a, b, ~region), metrics.mse(a, b))


def test_the_whole_picture_as_region_changes_nothing(pair):
    a, b = pair
    everywhere = torch.ones(1, 1, 48, 40, dtype=torch.bool)
    torch.testing.assert_close(metrics.masked(a, everywhere), a)
    for metric in (metrics.mse, metrics.psnr, metrics.ssim):
        torch.testing.assert_close(metric(a, b, everywhere), metric(a, b))


def test_an_empty_region_is_an_error(pair, regions):
    for empty in (
        torch.zeros(1, 1, 48, 40, dtype=torch.bool),
        regions & torch.tensor([True, False])[:, None, None, None],
    ):
        for metric in (metrics.mse, metrics.psnr, metrics.ssim):
            with pytest.raises(ValueError, match="holds no pixel"):
                metric(*pair, empty)
        with pytest.raises(ValueError, match="holds no pixel"):
            metrics.masked(pair[0], empty)


def test_ssim_needs_a_window_centre(pair):
    edge = torch.zeros(1, 1, 48, 40, dtype=torch.bool)
    edge[..., :5, :] = True
    with pytest.raises(ValueError, match="no pixel that is 5 pixels from the border"):
        metrics.ssim(*pair, edge)
    with pytest.raises(ValueError, match="window is 11 pixels wide and the picture 40×10"):
        metrics.ssim(*(x[..., :10, :] for x in pair))


def test_a_region_of_another_size_is_an_error(pair):
    with pytest.raises(ValueError, match="the region is 20×24 pixels and the picture 40×48"):
        metrics.mse(*pair, torch.ones(1, 1, 24, 20, dtype=torch.bool))
