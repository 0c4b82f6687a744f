import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from nmg import images

GREY, HEIGHT, WIDTH = 128, 16, 24


@pytest.fixture
def rgb() -> Image.Image:
    """Random colours, 24 wide and 16 high."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def pixels(image) -> np.ndarray:
    return np.asarray(images.load(image))


def close(got: np.ndarray, expected, levels: int = 1) -> None:
    """Equal to within `levels` of 255."""
    assert_close(
        torch.tensor(got.astype(int)),
        torch.tensor(np.array(expected).astype(int)).expand(got.shape),
        rtol=0,
        atol=levels,
    )


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff"])
def test_a_path_is_read(rgb, tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    rgb.save(path, lossless=True)
    close(pixels(path), rgb, 0)
    close(pixels(str(path)), rgb, 0)


@pytest.mark.parametrize(("orientation", "size"), [(1, (24, 16)), (3, (24, 16)), (6, (16, 24)), (8, (16, 24))])
def test_a_rotated_photograph_stands_upright(rgb, tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    rgb.save(path, exif=exif, quality=100, subsampling=0)
    turned = {1: rgb, 3: rgb.rotate(180), 6: rgb.rotate(-90, expand=True), 8: rgb.rotate(90, expand=True)}[orientation]
    assert images.load(path).size == size
    close(pixels(path), turned, 8)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no picture at .*nothing\.png"):
        images.load(tmp_path / "nothing.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match="no picture at"):
        images.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"these are words", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_picture_is_refused(tmp_path, content):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(ValueError, match="can't be read as a picture"):
        images.load(tmp_path / "picture.png")


def test_half_a_photograph_is_refused(rgb, tmp_path):
    path = tmp_path / "photo.jpg"
    rgb.resize((640, 480)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="can't be read as a picture"):
        images.load(path)


def test_a_decompression_bomb_is_refused(rgb, tmp_path, monkeypatch):
    rgb.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 3)
    with pytest.raises(ValueError, match="can't be read as a picture"):
        images.load(tmp_path / "bomb.png")


# ---------------------------------------------------------------- PIL images of every mode


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBA", "LA", "PA", "RGBX", "I", "F", "I;16"]
)
def test_every_mode_becomes_rgb_of_the_same_size(mode):
    image = images.load(Image.new(mode, (WIDTH, HEIGHT)))
    assert image.mode == "RGB" and image.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "LA"])
def test_a_grey_picture_stays_grey_in_every_mode(mode):
    close(pixels(Image.new("RGB", (WIDTH, HEIGHT), (GREY,) * 3).convert(mode)), GREY)


def test_black_and_white_stay_black_and_white():
    stripes = np.arange(WIDTH) % 2 * 255 * np.ones((HEIGHT, 1), int)
    close(pixels(Image.fromarray(stripes.astype(np.uint8)).convert("1")), stripes[..., None], 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 64)).convert(mode)
    close(pixels(image), 255 - 64)


def test_a_transparent_palette_colour_is_laid_on_white(tmp_path):
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([0, 0, 0, 200, 0, 0] + [0] * 762)
    image.paste(0, (0, 0, WIDTH // 2, HEIGHT))
    image.save(tmp_path / "palette.png", transparency=0)
    got = pixels(tmp_path / "palette.png")
    close(got[:, : WIDTH // 2], 255, 0)
    close(got[:, WIDTH // 2 :], [200, 0, 0], 0)


def test_16_bits_are_scaled_to_8(tmp_path):
    ramp = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    expected = ramp[..., None] / 257
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    close(pixels(tmp_path / "deep.png"), expected)
    close(pixels(Image.fromarray(ramp.astype(np.int32))), expected)


def test_floats_in_one_channel_are_read_in_0_to_1():
    ramp = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    close(pixels(Image.fromarray(ramp)), ramp[..., None] * 255)


# ---------------------------------------------------------------- arrays and tensors


def test_arrays_of_every_kind_of_number_give_the_same_picture(rgb):
    array = np.asarray(rgb)
    for same in (array, array / 255, (array / 255).astype(np.float32), array.astype(np.uint16) * 257):
        close(pixels(same), array, 0)


def test_arrays_of_every_shape_are_read(rgb):
    array = np.asarray(rgb)
    close(pixels(array[..., 0]), array[..., :1], 0)
    close(pixels(array[..., :1]), array[..., :1], 0)
    close(pixels(np.dstack([array, np.full((HEIGHT, WIDTH), 255, np.uint8)])), array, 0)
    close(pixels(array[..., 0] > 127), (array[..., :1] > 127) * 255, 0)
    close(pixels(array[::-1, ::-1]), array[::-1, ::-1], 0)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_tensors_are_read_channels_first(rgb, batch, dtype):
    tensor = images.to_tensor(rgb).to(dtype)
    close(pixels(tensor if batch else tensor[0]), rgb, 0 if dtype != torch.float16 else 1)


def test_a_tensor_that_needs_a_gradient_is_read(rgb):
    close(pixels(images.to_tensor(rgb).requires_grad_()), rgb, 0)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, HEIGHT, WIDTH)),
        np.zeros((HEIGHT, WIDTH, 2)),
        np.zeros(HEIGHT),
        np.zeros((0, WIDTH, 3)),
        np.zeros((2, HEIGHT, WIDTH, 3)),
        torch.zeros(HEIGHT, WIDTH, 3),
        torch.zeros(2, 3, HEIGHT, WIDTH),
        torch.zeros(HEIGHT, WIDTH),
    ],
    ids=lambda array: str(tuple(array.shape)),
)
def test_a_shape_that_is_no_picture_is_refused(array):
    with pytest.raises(ValueError, match="has shape .*; give"):
        images.load(array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 255.0])
def test_floats_outside_0_to_1_are_refused(value):
    array = np.full((HEIGHT, WIDTH, 3), value)
    for picture in (array, torch.from_numpy(array).permute(2, 0, 1)):
        with pytest.raises(ValueError, match="must lie in 0…1"):
            images.load(picture)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, complex, object])
def test_other_numbers_are_refused(dtype):
    with pytest.raises(TypeError, match="give uint8, uint16 or floats"):
        images.load(np.zeros((HEIGHT, WIDTH, 3), dtype))


@pytest.mark.parametrize("value", [None, 5, b"bytes", [[0, 1], [1, 0]], {"path": "x.png"}])
def test_what_is_no_picture_is_refused(value):
    with pytest.raises(TypeError, match="give a path, a PIL image, an array"):
        images.load(value)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_a_tiny_picture_is_refused(size):
    with pytest.raises(ValueError, match=rf"{size[0]}×{size[1]} pixels; it needs at least 8"):
        images.load(Image.new("RGB", size))


@pytest.mark.parametrize("size", [(8, 8), (12000, 50), (50, 12000), (3000, 2000)])
def test_every_other_size_fits_the_model(size):
    assert images.fit(images.load(Image.new("RGB", size, "red")), 64, 48).getcolors() == [(64 * 48, (255, 0, 0))]


def test_fit_keeps_the_middle():
    image = Image.new("RGB", (90, 30), "blue")
    image.paste("red", (30, 0, 60, 30))
    assert images.fit(image, 30, 30).getcolors() == [(900, (255, 0, 0))]


def test_pixels_go_to_a_tensor_and_back_unchanged(rgb):
    (back,) = images.to_pil(images.to_tensor(rgb))
    close(np.asarray(back), rgb, 0)
    assert images.to_tensor(rgb).shape == (1, 3, HEIGHT, WIDTH)


def test_pixels_outside_0_to_1_are_clipped():
    dark, bright = images.to_pil(torch.stack([torch.full((3, 2, 2), -1.0), torch.full((3, 2, 2), 2.0)]))
    assert dark.getcolors() == [(4, (0, 0, 0))] and bright.getcolors() == [(4, (255, 255, 255))]
