"""The recipe ``classic``: hand-made image-complexity cues on the CPU, the baseline of the literature."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageFilter
from scipy import fft, ndimage

from drexcache.errors import DrexcacheError, nearest
from drexcache.recipes import Block

SIDE = 512  # pixels of the longer side, to which every image is first resized


class Cues:
    """The pipeline's `Extractor` for a block of cues; the decoding threads compute them, no model runs."""

    weights_sha256, weights_source = "", "none, hand-made cues"
    where, mode, batch = "cpu", "eager", 8

    def __init__(self, block: Block) -> None:
        self.block, self.dims = block, (1,) * len(block.taps)

    def get_ready(self, images: int) -> None:
        """Nothing to prepare."""

    def prepare(self, rgb: Image.Image) -> np.ndarray:
        """The cues (d,) of one image."""
        return cues_of(Picture(rgb), [tap.layer for tap in self.block.taps])

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """The images' cues (B, d)."""
        return np.stack(inputs)


def classic_cues(rgb: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The named cues of one image, in the order of the names; always finite.

    Parameters
    ----------
    rgb : uint8 (H, W, 3), any size.
    names : keys of ``CUES``.

    Returns
    -------
    float32 (len(names),)

    Raises
    ------
    DrexcacheError : a name that is not in ``CUES``.
    ValueError : ``rgb`` is not such an image.

    >>> red_and_blue = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    >>> classic_cues(red_and_blue, ["luminance_mean", "symmetry"]).round(2)
    array([ 0.21, -1.  ], dtype=float32)
    """
    unknown = [name for name in names if name not in CUES]
    if unknown:
        raise DrexcacheError(f"no classic cue named {', '.join(unknown)}; {nearest(unknown[0], CUES)}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"expected a non-empty uint8 image (H, W, 3), found {rgb.dtype} {rgb.shape}")
    return cues_of(Picture(Image.fromarray(np.ascontiguousarray(rgb))), names)


def cues_of(picture: Picture, names: Sequence[str]) -> np.ndarray:
    """The named cues of a picture, float32 (len(names),)."""
    return np.array([CUES[name](picture) for name in names], np.float32)


class Picture:
    """One image at the sizes needed by the cues, with the intermediate results that they share.

    The longer side becomes 512 pixels (Pillow's antialiased bilinear resize, up or down, aspect kept): most cues
    depend on the size, and a thumbnail should get nearly the same numbers as its original. ``small`` is half that
    size, for the cues that compression artefacts and sensor noise would otherwise swamp.

    Parameters
    ----------
    rgb : of any size; neither kept nor copied.

    >>> Picture(Image.new("RGB", (600, 300))).grey.shape
    (256, 512)
    """

    def __init__(self, rgb: Image.Image) -> None:
        self.image = _resized(rgb, SIDE)
        self.small = _resized(self.image, SIDE // 2)

    @cached_property
    def grey(self) -> np.ndarray:
        """Rec. 601 luma, uint8 (h, w)."""
        return np.asarray(self.image.convert("L"))

    @cached_property
    def gradient(self) -> np.ndarray:
        """Sobel magnitude of the slightly blurred luma, float32 (h, w); an edge from black to white gives 0.65."""
        luma = ndimage.gaussian_filter(self.grey.astype(np.float32) / 255, 1.0, truncate=2.0)
        return np.hypot(ndimage.sobel(luma, 0), ndimage.sobel(luma, 1)) / 4

    @cached_property
    def lab(self) -> np.ndarray:
        """CIELab (CIE 1976, white D65) of the half-size image, float32 (3, h / 2, w / 2)."""
        rgb = np.asarray(self.small)
        xyz = _LINEAR_TO_XYZ @ _SRGB_TO_LINEAR[rgb].reshape(-1, 3).T  # (3, 3) @ (3, pixels)
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)]).reshape(3, *rgb.shape[:2])

    @cached_property
    def local_covariance(self) -> np.ndarray:
        """Covariance of L, a and b in 15x15 windows of the half-size image, float32 (3, 3, h / 2, w / 2)."""
        # centred first, so that the subtraction below does not cancel digits in float32
        lab = self.lab - self.lab.mean(axis=(1, 2), keepdims=True)
        mean = [ndimage.uniform_filter(channel, 15) for channel in lab]
        covariance = np.empty((3, *lab.shape), np.float32)
        for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
            product = ndimage.uniform_filter(lab[i] * lab[j], 15)
            covariance[i, j] = covariance[j, i] = product - mean[i] * mean[j]
        return covariance


Cue = Callable[[Picture], float]


def _resized(image: Image.Image, side: int) -> Image.Image:
    """The image resized so that its longer side is ``side`` pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR)


def _srgb_to_linear(level: np.ndarray) -> np.ndarray:
    """sRGB to linear light (IEC 61966-2-1), both on 0..1."""
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


_SRGB_TO_LINEAR = _srgb_to_linear(np.arange(256) / 255).astype(np.float32)
_LINEAR_TO_XYZ = np.array(  # IEC 61966-2-1 with each row divided by its sum, so that white is (1, 1, 1)
    [[0.433953, 0.376219, 0.189828], [0.212671, 0.715160, 0.072169], [0.017758, 0.109477, 0.872765]],
    dtype=np.float32,
)


def _entropy(values: np.ndarray) -> float:
    """Shannon entropy, in bits, of the histogram of non-negative integers."""
    counts = np.bincount(values.ravel())
    p = counts[counts > 0] / values.size
    return float(abs((p * np.log2(p)).sum()))


# --- edges --------------------------------------------------------------------------------------------------


def edge_density(picture: Picture) -> float:
    """Share of pixels on an edge: Sobel magnitude above 0.1 (Machado et al. 2015; Forsythe et al. 2011)."""
    return float((picture.gradient > 0.1).mean())


def gradient_mean(picture: Picture) -> float:
    """Mean gradient magnitude of the luma (Redies et al. 2012, their "complexity")."""
    return float(picture.gradient.mean())


def gradient_std(picture: Picture) -> float:
    """Standard deviation of the gradient magnitude: high for a few strong edges, low for even texture (Redies 2012)."""
    return float(picture.gradient.std())


# --- compression --------------------------------------------------------------------------------------------


def jpeg_ratio(picture: Picture) -> float:
    """Size as JPEG at quality 75, relative to the raw pixels (Machado & Cardoso 1998; Forsythe et al. 2011).

    Another version of libjpeg may write a few bytes more or less.
    """
    return _compressed(picture.image, format="JPEG", quality=75)


def png_ratio(picture: Picture) -> float:
    """Size of the half-size image as PNG, relative to its raw pixels (after Forsythe et al. 2011, who used GIF).

    Another version of zlib may write a few bytes more or less.
    """
    return _compressed(picture.small, format="PNG", compress_level=1)


def _compressed(image: Image.Image, **how: object) -> float:
    buffer = io.BytesIO()
    image.save(buffer, **how)  # type: ignore[arg-type]
    return buffer.tell() / (3 * image.width * image.height)


# --- clutter ------------------------------------------------------------------------------------------------


def subband_entropy(picture: Picture) -> float:
    """Mean entropy of the bands of a steerable pyramid of L, a and b (after Rosenholtz, Li & Nakano 2007).

    As in theirs, there are 3 scales x 4 orientations, and each chroma channel has 1/16 of the weight of luminance.
    Unlike theirs, the image is at half size; coefficients are binned in steps of one CIELab unit, not over each band's
    own range (so that contrast counts, and a flat image has no entropy); the finest bands include the high-pass
    residual, and the low-pass residual is left out.
    """
    lightness, a, b = (np.mean([_entropy(band - band.min()) for band in _bands(lab)]) for lab in picture.lab)
    return float((lightness + (a + b) / 16) / (1 + 2 / 16))


def _bands(plane: np.ndarray) -> list[np.ndarray]:
    """The 12 bands of a float32 (h, w) plane, coefficients rounded to integers; borders are periodic."""
    bands = []
    for _ in range(3):
        oriented, lowpass = _steerable_filters(*plane.shape)
        spectrum = fft.rfft2(plane)
        bands += [np.rint(fft.irfft2(spectrum * band, plane.shape)).astype(np.int32) for band in oriented]
        plane = fft.irfft2(spectrum * lowpass, plane.shape)[::2, ::2]
    return bands


@lru_cache(maxsize=32)
def _steerable_filters(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """4 oriented filters (4, h, w // 2 + 1) and the low-pass (h, w // 2 + 1) to the next scale, for rfft2.

    After Simoncelli & Freeman 1995: cos^3 of the angle; the low-pass is a raised cosine in log frequency that falls
    from 1 at an eighth of the sampling rate to 0 at a quarter. The squares of the five filters add up to 1.
    """
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None, :]
    radius = np.maximum(np.hypot(fy, fx), 1e-9)
    lowpass = np.cos(np.pi / 2 * np.clip(np.log2(radius * 8), 0, 1))
    highpass = np.sqrt(1 - lowpass**2)
    angles = np.pi / 4 * np.arange(4)[:, None, None]
    oriented = 1j * np.sqrt(4 / 5) * ((fx * np.cos(angles) + fy * np.sin(angles)) / radius) ** 3 * highpass
    return oriented.astype(np.complex64), lowpass.astype(np.float32)


def feature_congestion(picture: Picture) -> float:
    """Mean colour volume, det(covariance of Lab)^(1/6), in 15x15 windows (after Rosenholtz et al. 2007).

    Their colour term at a single scale; adding 3 CIELab units of noise per channel makes grey images differ too.
    """
    (ll, la, lb), (_, aa, ab), (_, _, bb) = picture.local_covariance
    ll, aa, bb = ll + 9, aa + 9, bb + 9
    volume = ll * (aa * bb - ab**2) - la * (la * bb - ab * lb) + lb * (la * ab - aa * lb)
    return float(np.cbrt(np.sqrt(np.maximum(volume, 0))).mean())


def local_contrast(picture: Picture) -> float:
    """Mean standard deviation of the lightness L in 15x15 windows (after Peli 1990)."""
    return float(np.sqrt(np.maximum(picture.local_covariance[0, 0], 0)).mean())


def region_count(picture: Picture) -> float:
    """log2(1 + number of regions) of the half-size image (after Corchs et al. 2016, without their mean shift).

    A region is a patch of a single colour after blurring and reducing to 64 colours. Counted are the connected
    insides (pixels whose eight neighbours have the same colour) that cover at least 0.01 % of the image.
    """
    rgb = np.asarray(picture.small.filter(ImageFilter.GaussianBlur(2))) >> 6
    colour = (rgb[..., 0] << 4) | (rgb[..., 1] << 2) | rgb[..., 2]  # (h, w), 0..63
    inside = ndimage.minimum_filter(colour, 3) == ndimage.maximum_filter(colour, 3)
    region, _ = ndimage.label(inside)  # insides of different regions never touch
    pixels = np.bincount(region.ravel())[1:]  # 0 is outside every region
    return float(np.log2(1 + np.count_nonzero(pixels >= 0.0001 * colour.size)))


# --- colour and luminance -----------------------------------------------------------------------------------


def colour_count(picture: Picture) -> float:
    """log2 of the number of different colours at 5 bits per channel (after Corchs et al. 2016)."""
    rgb = np.asarray(picture.image).astype(np.int32) >> 3
    colour = (rgb[..., 0] << 10) | (rgb[..., 1] << 5) | rgb[..., 2]
    return float(np.log2(np.count_nonzero(np.bincount(colour.ravel()))))


def colourfulness(picture: Picture) -> float:
    """M3 of Hasler & Süsstrunk 2003 on RGB values 0..255: 0 is grey, 109 "extremely colourful"."""
    red, green, blue = np.asarray(picture.image).reshape(-1, 3).T.astype(np.float32)  # each (pixels,)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def luminance_mean(picture: Picture) -> float:
    """Mean luma, 0..1."""
    return float(picture.grey.mean() / 255)


def luminance_contrast(picture: Picture) -> float:
    """RMS contrast: the standard deviation of the luma, 0..0.5 (Peli 1990)."""
    return float(picture.grey.std() / 255)


def grey_entropy(picture: Picture) -> float:
    """Entropy of the 256 grey levels, 0..8 bits (Shannon 1948)."""
    return _entropy(picture.grey)


# --- layout -------------------------------------------------------------------------------------------------


def spectral_slope(picture: Picture) -> float:
    """Slope of log amplitude against log frequency, about -1 for natural scenes (Field 1987); 0 if constant.

    From the spectrum of the Hann-windowed half-size luma, averaged in 16 rings from 0.03 to 0.25 cycles per pixel.
    """
    luma = np.asarray(picture.small.convert("L")).astype(np.float32)
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in luma.shape))
    amplitude = np.abs(fft.rfft2((luma - luma.mean()) * window))
    radius = np.hypot(np.fft.fftfreq(luma.shape[0])[:, None], np.fft.rfftfreq(luma.shape[1])[None, :])
    ring = np.digitize(radius.ravel(), np.geomspace(0.03, 0.25, 17))  # 1..16; 0 and 17 are outside

    n = np.bincount(ring, minlength=18)
    ok = np.flatnonzero(n[1:17]) + 1  # a strip one pixel high has few frequencies
    frequency, height = (np.bincount(ring, of.ravel(), 18)[ok] / n[ok] for of in (radius, amplitude))
    # 1e-3 is far below the amplitude of one grey level, and flattens the spectrum of a constant image
    return float(np.polyfit(np.log(frequency), np.log(height + 1e-3), 1)[0])


def symmetry(picture: Picture) -> float:
    """Correlation of the coarse luma with its left-right mirror image (after Gartus & Leder 2017).

    At 64 pixels, so that details need not match; 1 is symmetric, and so is a constant image.
    """
    luma = np.asarray(_resized(picture.image, 64).convert("L")).astype(np.float64)
    luma -= luma.mean()
    energy = float((luma**2).sum())
    return float((luma * luma[:, ::-1]).sum()) / energy if energy > 0 else 1.0


CUES: dict[str, Cue] = {
    cue.__name__: cue
    for cue in (
        edge_density,
        gradient_mean,
        gradient_std,
        jpeg_ratio,
        png_ratio,
        subband_entropy,
        feature_congestion,
        local_contrast,
        region_count,
        colour_count,
        colourfulness,
        luminance_mean,
        luminance_contrast,
        grey_entropy,
        spectral_slope,
        symmetry,
    )
}
