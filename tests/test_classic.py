"""The hand-made cues: oracles on images whose answer is known, and real images that people rated."""

from pathlib import Path

import numpy as np
import pytest
from openpyxl import load_workbook
from PIL import Image
from scipy.stats import spearmanr

from drexcache import recipe
from drexcache.errors import DrexcacheError
from drexcache.features.cues import CUES, Picture, _bands, classic_cues

GROW_WITH_CLUTTER = [  # the cues that noise must raise above a flat image, and fine noise above coarse noise
    "edge_density",
    "gradient_mean",
    "gradient_std",
    "jpeg_ratio",
    "png_ratio",
    "subband_entropy",
    "feature_congestion",
    "local_contrast",
    "region_count",
    "colour_count",
    "grey_entropy",
]


def cue(name: str, rgb: np.ndarray) -> float:
    return float(classic_cues(rgb, [name])[0])


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    """512x512, so that nothing is resized: one colour on the left half, another on the right."""
    image = np.empty((512, 512, 3), np.uint8)
    image[:, :256], image[:, 256:] = left, right
    return image


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image.astype(np.uint8)[:, :, None], 3, axis=2)


def noise(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def test_order_type_and_shape_follow_the_names() -> None:
    image = noise(64)
    both = classic_cues(image, ["symmetry", "luminance_mean"])
    assert both.dtype == np.float32
    assert both.tolist() == [cue("symmetry", image), cue("luminance_mean", image)]
    assert classic_cues(image, []).shape == (0,)


def test_the_recipe_classic_takes_every_cue() -> None:
    (block,) = recipe("classic").blocks
    assert [tap.layer for tap in block.taps] == list(CUES)


def test_unknown_name_is_one_sentence_that_lists_the_cues() -> None:
    with pytest.raises(DrexcacheError, match=r"^no classic cue named edges; there are: edge_density, gradient_mean"):
        classic_cues(noise(8), ["edge_density", "edges"])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), "u1"),
    ],
)
def test_refuses_what_is_not_an_rgb_image(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a non-empty uint8 image"):
        classic_cues(image, ["symmetry"])


@pytest.mark.parametrize("name", CUES)
def test_every_cue_says_what_it_is_in_one_line(name: str) -> None:
    first = (CUES[name].__doc__ or "").splitlines()[0]
    assert first.endswith((".", ")"))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 3000), (3000, 1), (3, 3), (511, 7)])
@pytest.mark.filterwarnings("error")
def test_finite_for_every_degenerate_image(size: tuple[int, int]) -> None:
    two_colours = np.zeros((*size, 3), np.uint8)
    two_colours[:, ::2] = (255, 0, 200)
    noisy = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    for image in (two_colours, noisy, np.zeros_like(noisy), np.full_like(noisy, 255)):
        assert np.isfinite(classic_cues(image, list(CUES))).all()


def test_constant_image() -> None:
    flat = {name: cue(name, np.full((40, 60, 3), 51, np.uint8)) for name in CUES}
    assert 0 < flat.pop("jpeg_ratio") < 0.01
    assert 0 < flat.pop("png_ratio") < 0.01
    assert flat == pytest.approx(
        {
            "edge_density": 0,
            "gradient_mean": 0,
            "gradient_std": 0,
            "subband_entropy": 0,
            "feature_congestion": 3,  # the noise alone
            "local_contrast": 0,
            "region_count": 1,  # log2(1 + 1)
            "colour_count": 0,
            "colourfulness": 0,
            "luminance_mean": 0.2,
            "luminance_contrast": 0,
            "grey_entropy": 0,
            "spectral_slope": 0,
            "symmetry": 1,
        },
        abs=1e-5,
    )


def test_same_numbers_again_and_at_another_size() -> None:
    image = np.asarray(Image.fromarray(noise(16)).resize((384, 300), Image.Resampling.BICUBIC))
    assert (classic_cues(image, list(CUES)) == classic_cues(image.copy(), list(CUES))).all()
    twice = np.asarray(Image.fromarray(image).resize((768, 600), Image.Resampling.BICUBIC))
    assert classic_cues(twice, list(CUES)) == pytest.approx(classic_cues(image, list(CUES)), rel=0.1, abs=0.1)


def test_colourfulness_is_hasler_and_suesstrunks_formula() -> None:
    # Red: rg = 255, yb = 127.5. Blue: rg = 0, yb = -255. Means 127.5 and -63.75, deviations 127.5 and 191.25.
    by_hand = np.sqrt(127.5**2 + 191.25**2) + 0.3 * np.sqrt(127.5**2 + 63.75**2)
    assert cue("colourfulness", halves((255, 0, 0), (0, 0, 255))) == pytest.approx(by_hand, rel=1e-5)
    assert cue("colourfulness", halves((9, 9, 9), (240, 240, 240))) == 0


def test_entropy_luminance_and_colours_of_known_images() -> None:
    two = halves((0, 0, 0), (255, 255, 255))
    assert cue("grey_entropy", two) == 1
    assert cue("luminance_mean", two) == 0.5
    assert cue("luminance_contrast", two) == 0.5
    assert cue("colour_count", two) == 1
    assert cue("region_count", two) == pytest.approx(np.log2(3))
    every_level = grey(np.arange(512 * 512).reshape(512, 512) % 256)
    assert cue("grey_entropy", every_level) == 8
    assert cue("colour_count", every_level) == 5  # 32 greys at 5 bits


def test_region_count_counts_a_chessboards_fields() -> None:
    fields = np.indices((8, 8)).sum(axis=0) % 2
    board = grey(255 * np.kron(fields, np.ones((64, 64))))
    assert cue("region_count", board) == pytest.approx(np.log2(1 + 64))


def test_symmetry_of_an_image_with_its_mirror_image_or_its_negative() -> None:
    left = np.kron(np.random.default_rng(0).integers(0, 256, (16, 8)), np.ones((32, 32)))
    assert cue("symmetry", grey(np.hstack([left, left[:, ::-1]]))) == pytest.approx(1, abs=1e-6)
    assert cue("symmetry", grey(np.hstack([left, 255 - left[:, ::-1]]))) == pytest.approx(-1, abs=0.01)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_spectral_slope_of_noise_with_a_known_slope(exponent: float) -> None:
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None, :])
    frequency[0, 0] = 1
    white = np.fft.fft2(np.random.default_rng(1).normal(size=(512, 512)))
    image = np.fft.ifft2(white * frequency**-exponent).real
    image = np.clip(128 + 40 * (image - image.mean()) / image.std(), 0, 255)
    assert cue("spectral_slope", grey(image)) == pytest.approx(-exponent, abs=0.15)


def test_bands_of_a_grating_lie_in_its_scale_and_orientation() -> None:
    x = np.arange(256)
    grating = np.tile(500 * np.sin(2 * np.pi * x / 8), (256, 1)).astype("f4")  # vertical, 1/8 cycle a pixel
    energy = np.array([np.mean(band.astype(float) ** 2) for band in _bands(grating)]).reshape(3, 4)
    scale, orientation = np.unravel_index(energy.argmax(), energy.shape)
    assert (scale, orientation) == (1, 0)
    assert energy[1, 2] == 0  # nothing in the horizontal band of the same scale
    # A grating's variance is 500^2 / 2, and a band's share of it 4 / 5 of cos^6 of the angle between them.
    assert energy[1] == pytest.approx(500**2 / 2 * 0.8 * np.array([1, 1 / 8, 0, 1 / 8]), rel=0.005)


def test_lab_of_known_colours() -> None:
    # Bruce Lindbloom's values for sRGB, D65.
    known = {
        (255, 255, 255): (100, 0, 0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 0, 255): (32.30, 79.19, -107.86),
    }
    for rgb, lab in known.items():
        image = np.full((8, 8, 3), rgb, np.uint8)
        assert Picture(Image.fromarray(image)).lab[:, 0, 0] == pytest.approx(lab, abs=0.1)


@pytest.mark.parametrize("name", GROW_WITH_CLUTTER)
def test_noise_is_above_coarse_noise_is_above_flat(name: str) -> None:
    flat, coarse = np.full((512, 512, 3), 128, np.uint8), np.kron(noise(4), np.ones((128, 128, 1), np.uint8))
    fine = np.kron(noise(32), np.ones((16, 16, 1), np.uint8))
    assert cue(name, flat) < cue(name, coarse) < cue(name, fine)


def test_cues_follow_peoples_ratings_of_real_scenes(savoias: Path) -> None:
    workbook = savoias / "Ground truth" / "xlsx" / "global_ranking_scenes.xlsx"
    header, *ratings = (row[0] for row in load_workbook(workbook).active.iter_rows(values_only=True))
    assert header == "gt"
    names = ["edge_density", "subband_entropy", "feature_congestion", "region_count"]
    values = []
    for i in range(60):
        with Image.open(savoias / "Images" / "Scenes" / f"{i}.jpg") as image:
            values.append(classic_cues(np.asarray(image.convert("RGB")), names))
    correlations = {
        name: spearmanr(of, ratings[:60]).statistic for name, of in zip(names, np.transpose(values), strict=True)
    }
    assert min(correlations.values()) > 0.35, correlations
