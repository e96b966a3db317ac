"""Bytes become the right RGB, and pixels the same numbers as in torchvision and transformers."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional

from drexcache.datasets import Decode, UnreadableImage, decode_rgb
from drexcache.errors import DrexcacheError
from drexcache.features import bilinear
from drexcache.features.backbone import normalise as on_the_device
from drexcache.features.pixels import normalise, to_pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REFERENCE, WHITE = Decode(), Decode(alpha="white")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def palette(colours: list[int], indices: list[int]) -> Image.Image:
    image = Image.new("P", (len(indices), 1))
    image.putpalette(colours)
    image.putdata(indices)
    return image


def colours(data: bytes, decode: Decode = REFERENCE) -> list[tuple[int, ...]]:
    image = decode_rgb(data, decode)
    assert image.mode == "RGB"
    return [tuple(map(int, colour)) for colour in np.asarray(image).reshape(-1, 3)]


def unreadable(data: bytes, decode: Decode = REFERENCE, **options: int) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode_rgb(data, decode, **options)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_rgb_comes_back_as_it_was(kind: str, options: dict[str, object]) -> None:
    image = noise(13, 7)
    np.testing.assert_array_equal(np.asarray(decode_rgb(encoded(image, kind, **options))), np.asarray(image))


def test_jpeg_is_decoded_as_pillow_does() -> None:
    data = encoded(noise(40, 30), "JPEG", quality=80)
    np.testing.assert_array_equal(np.asarray(decode_rgb(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_the_kind_is_found_by_content() -> None:
    """Whatever the name says: decode_rgb sees no name; a GIF and a PNG of one colour are both that colour."""
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    assert colours(encoded(red, "GIF")) == colours(encoded(red, "PNG")) == [(255, 0, 0)]


def test_grey_one_bit_and_palette() -> None:
    grey = Image.new("L", (2, 1), 99)
    bits = Image.new("1", (2, 1), 1)
    bits.putpixel((0, 0), 0)
    assert colours(encoded(grey, "PNG")) == [(99, 99, 99)] * 2
    assert colours(encoded(bits, "PNG")) == [(0, 0, 0), (255, 255, 255)]
    assert colours(encoded(palette([10, 20, 30, 200, 100, 0], [1, 0]), "PNG")) == [
        (200, 100, 0),
        (10, 20, 30),
    ]


def test_transparency_is_dropped_or_laid_over_white() -> None:
    rgba = Image.new("RGBA", (3, 1), (200, 100, 0, 255))
    rgba.putpixel((1, 0), (200, 100, 0, 0))
    rgba.putpixel((2, 0), (200, 100, 0, 51))  # 51 / 255 = 0.2
    for data in (
        encoded(rgba, "PNG"),
        encoded(rgba, "TIFF"),
        encoded(rgba, "WEBP", lossless=True, exact=True),
    ):
        assert colours(data) == [(200, 100, 0)] * 3
        assert colours(data, WHITE) == [(200, 100, 0), (255, 255, 255), (244, 224, 204)]
    grey = Image.new("LA", (2, 1), (100, 255))
    grey.putpixel((1, 0), (100, 51))
    assert colours(encoded(grey, "PNG")) == [(100, 100, 100)] * 2
    assert colours(encoded(grey, "PNG"), WHITE) == [(100, 100, 100), (224, 224, 224)]


@pytest.mark.parametrize(("transparency", "first"), [(0, (200, 100, 0)), (bytes([0, 128]), (227, 177, 127))])
def test_transparent_palettes(transparency: int | bytes, first: tuple[int, ...]) -> None:
    data = encoded(palette([10, 20, 30, 200, 100, 0], [1, 0]), "PNG", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert colours(data) == [(200, 100, 0), (10, 20, 30)]
        assert colours(data, WHITE) == [first, (255, 255, 255)]


def test_a_colour_that_means_transparent() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (4, 5, 6))
    data = encoded(image, "PNG", transparency=(1, 2, 3))
    assert colours(data) == [(1, 2, 3), (4, 5, 6)]
    assert colours(data, WHITE) == [(255, 255, 255), (4, 5, 6)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65406, 65535]], dtype=np.uint16)
    found = [colour[0] for colour in colours(encoded(Image.fromarray(values), kind))]
    assert found == [0, 0, 1, 1, 127, 128, 254, 255]  # value / 257, rounded
    every = np.arange(256, dtype=np.uint16)[None] * 257
    assert colours(encoded(Image.fromarray(every), kind)) == [(level, level, level) for level in range(256)]


def test_transparent_sixteen_bit_grey() -> None:
    png = encoded(Image.fromarray(np.array([[0, 257 * 9]], dtype=np.uint16)), "PNG")
    chunk = b"tRNS" + struct.pack(">H", 257 * 9)
    data = png[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    assert colours(data) == [(0, 0, 0), (9, 9, 9)]
    assert colours(data, WHITE) == [(0, 0, 0), (255, 255, 255)]


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert colours(data) == [(255, 0, 0)] * 16


def test_cmyk_is_inverted_in_jpeg_and_not_in_tiff() -> None:
    """Adobe's JPEGs hold 255 - ink; Pillow, like browsers, takes it for granted without the marker."""
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    data = encoded(ink, "JPEG", quality=100)
    assert b"Adobe" in data
    np.testing.assert_allclose(colours(data)[0], (255, 0, 0), atol=3)
    at = data.index(b"\xff\xee")
    plain = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    assert b"Adobe" not in plain and colours(plain) == colours(data)
    assert colours(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF")) == [(255, 0, 0)]


def test_exif_rotation_is_ignored_unless_asked_for() -> None:
    image = Image.new("RGB", (2, 1), (255, 0, 0))
    image.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter to the right
    for data in (encoded(image, "PNG", exif=exif), encoded(image, "WEBP", exif=exif, lossless=True)):
        as_stored, turned = decode_rgb(data), decode_rgb(data, Decode(exif="apply"))
        assert (as_stored.size, turned.size) == ((2, 1), (1, 2))
        assert [turned.getpixel((0, y)) for y in range(2)] == [(255, 0, 0), (0, 0, 255)]
    jpeg = encoded(noise(20, 10), "JPEG", exif=exif)
    assert decode_rgb(jpeg).size == (20, 10) and decode_rgb(jpeg, Decode(exif="apply")).size == (10, 20)


def test_pixels_in_no_known_range_are_refused() -> None:
    scene = Image.fromarray(np.array([[0.0, 0.5]], dtype=np.float32))
    depth = Image.fromarray(np.array([[0, 100_000]], dtype=np.int32))
    assert unreadable(encoded(scene, "TIFF")) == "float pixels, whose range is not known"
    assert unreadable(encoded(depth, "TIFF")) == "32-bit integer pixels, whose range is not known"
    assert unreadable(encoded(Image.new("LAB", (1, 1)), "TIFF")) == "LAB pixels, whose range is not known"


@pytest.mark.parametrize("data", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"RIFF0000AVI ", bytes(99)])
def test_what_is_no_image(data: bytes) -> None:
    assert unreadable(data) == "not a JPEG, PNG, GIF, WebP, BMP or TIFF image, nor AVIF, HEIC or JPEG XL"


def test_an_empty_file() -> None:
    assert unreadable(b"") == "empty file"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_truncated_file_is_never_half_an_image(kind: str, options: dict[str, object]) -> None:
    data = encoded(noise(64, 64), kind, **options)
    for share in (0.02, 0.3, 0.6, 0.9):
        assert unreadable(data[: int(len(data) * share)]).split()[0] in ("truncated", "broken")
    assert len(data) < 1000 or kind not in ("JPEG", "PNG") or unreadable(data[: len(data) // 2]) == f"truncated {kind}"


def test_the_size_is_refused_by_the_header() -> None:
    png = encoded(Image.new("1", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
    huge = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    assert unreadable(huge) == "60000x60000 pixels, more than 500 megapixels"
    jpeg = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 50_000)
    assert unreadable(bytes(jpeg)) == "50000x60000 pixels, more than 500 megapixels"
    bitmap = bytearray(encoded(noise(8, 8), "BMP"))
    bitmap[18:22] = bytes(4)
    assert unreadable(bytes(bitmap)) == "broken BMP (not identified by this driver)"
    assert unreadable(encoded(noise(10, 10), "PNG"), max_pixels=99) == "10x10 pixels, more than 9.9e-05 megapixels"
    assert decode_rgb(encoded(noise(10, 10), "PNG"), max_pixels=100).size == (10, 10)


def test_pillows_own_limit_neither_refuses_nor_warns_nor_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit is made small instead of the images large; it warns above it and refuses twice of it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    image = noise(60, 60)
    files = [encoded(image, kind) for kind in ("PNG", "BMP", "TIFF")] + [encoded(image, "TIFF", compression="tiff_lzw")]
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(files[0]))
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("error")
        for found in pool.map(decode_rgb, files * 8):
            np.testing.assert_array_equal(np.asarray(found), np.asarray(image))
        assert decode_rgb(encoded(image, "JPEG")).size == decode_rgb(encoded(image, "GIF")).size == (60, 60)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_wrong_options_are_refused() -> None:
    with pytest.raises(DrexcacheError, match="alpha is drop or white, not 'black'"):
        Decode(alpha="black")
    with pytest.raises(DrexcacheError, match="exif is ignore or apply, not 'yes'"):
        Decode(exif="yes")
    with pytest.raises(
        DrexcacheError, match="resize is one of pil-bilinear, pil-bicubic, tensor-bilinear, not 'nearest'"
    ):
        to_pixels(noise(2, 2), (2, 2), "nearest")


SIZES = [
    ((300, 200), (64, 96)),
    ((50, 400), (96, 64)),
    ((17, 9), (64, 64)),
    ((64, 64), (64, 64)),
    ((1, 1), (8, 8)),
]


@pytest.mark.parametrize(("shape", "size"), SIZES)
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_pil_resize_and_normalise_are_torchvisions_bit_for_bit(
    shape: tuple[int, int], size: tuple[int, int], name: str
) -> None:
    image = noise(*shape)
    theirs = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode(name)),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )(image)
    ours = to_pixels(image, size, f"pil-{name}")
    assert ours.dtype == np.uint8 and ours.flags.c_contiguous
    np.testing.assert_array_equal(normalise(ours[None], MEAN, STD)[0], theirs.numpy())
    there = on_the_device(torch.from_numpy(ours)[None], MEAN, STD)
    assert torch.equal(there[0], theirs)


@pytest.mark.parametrize("by", ["C", "torch"])
@pytest.mark.parametrize(("shape", "size"), [*SIZES, ((90, 400), (224, 7)), ((3, 1301), (1, 224)), ((1, 1), (5, 1))])
def test_tensor_resize_is_torchvisions_bit_for_bit(
    shape: tuple[int, int], size: tuple[int, int], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "torch":
        monkeypatch.setattr(bilinear, "resize_cpu", None)
    elif bilinear.resize_cpu is None or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("no compiled resize, or no processor on which torch rounds as it does")
    monkeypatch.setattr(bilinear, "BAND_PIXELS", 1000)  # several bands, the last one incomplete
    image = noise(*shape)
    theirs = functional.resize(
        functional.to_dtype(functional.pil_to_tensor(image), scale=True), list(size), antialias=True
    )
    np.testing.assert_array_equal(to_pixels(image, size, "tensor-bilinear"), theirs.numpy())


def test_the_compiled_resize_refuses_what_does_not_fit() -> None:
    if bilinear.resize_cpu is None:
        pytest.skip("no C compiler was there at installation")
    rows, out = np.zeros((4, 6, 3), np.uint8), np.zeros((3, 2, 2), np.float32)
    (ends, across), down = bilinear.axis(6, 2), bilinear.axis(4, 2)
    bilinear.resize_cpu.resize(rows, 6, 0, 4, ends, across, *down, out)
    for given in [
        (rows, 6, 1, 4, ends, across, *down, out), (rows, 6, -1, 4, ends, across, *down, out),
        (rows, 5, 0, 4, ends, across, *down, out), (rows, 0, 0, 4, ends, across, *down, out),
        (rows, 6, 0, 4, ends, across[:1], *down, out), (rows, 6, 0, 4, ends[::-1].copy(), across, *down, out),
        (rows, 6, 0, 4, ends[:0], across, *down, out), (rows, 6, 0, 4, ends, across, *down, out[:2]),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="do not fit together"):
            bilinear.resize_cpu.resize(*given)


@pytest.mark.parametrize("shape", [(640, 480), (333, 77), (90, 120)])
def test_tensor_resize_is_what_dinov3s_processor_does(shape: tuple[int, int]) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers, the oracle of DINOv3's preprocessing"
    )
    names = ("DINOv3ViTImageProcessorFast", "DINOv3ViTImageProcessor")
    processor = next(getattr(transformers, name) for name in names if hasattr(transformers, name))()
    image = noise(*shape)
    theirs = processor(image, return_tensors="pt")["pixel_values"].numpy()
    ours = normalise(to_pixels(image, (224, 224), "tensor-bilinear")[None], MEAN, STD)
    assert theirs.shape == ours.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    far = normalise(to_pixels(image, (224, 224), "pil-bilinear")[None], MEAN, STD)
    assert np.abs(far - theirs).max() > 1e-3  # the check can tell the two resizes apart


def test_normalise_leaves_its_input_alone() -> None:
    given = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    before = given.copy()
    expected = (given - np.array(MEAN, "f4")[:, None, None]) / np.array(STD, "f4")[:, None, None]
    np.testing.assert_array_equal(normalise(given, MEAN, STD), expected)
    np.testing.assert_array_equal(given, before)


def grey_tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """One row of grey values as an uncompressed TIFF, packed here bit by bit (TIFF 6.0, sections 2 to 4)."""
    order = "<u2" if bits == 16 else ">u2"  # within a 16-bit value the file's order counts, smaller ones are packed
    if bits == 16:
        data = values.astype(order).tobytes()
    else:
        whole = np.unpackbits(values.astype(order).view("u1").reshape(-1, 2), axis=1)[:, 16 - bits :]
        data = np.packbits(whole).tobytes()
    tags = [
        (256, 4, len(values)), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
        (277, 3, 1), (278, 4, 1), (279, 4, len(data)),
    ]  # fmt: skip
    listed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 9) + listed + bytes(4)


@pytest.mark.parametrize("photometric", [0, 1], ids=["white is zero", "black is zero"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_of_every_depth_keeps_its_range(bits: int, photometric: int) -> None:
    top = (1 << bits) - 1
    values = np.arange(0, top + 1, max(1, top // 255))[:256]
    values = np.append(values, top) if len(values) % 2 else np.append(values, [top, 0])  # an even number fills bytes
    values = values[: len(values) // 8 * 8] if bits == 1 and len(values) >= 8 else values
    if (bits, photometric) == (12, 0):
        with pytest.raises(UnreadableImage, match="unknown pixel mode"):  # Pillow reads no such file
            decode_rgb(grey_tiff(values, bits, photometric))
        return
    found = np.asarray(decode_rgb(grey_tiff(values, bits, photometric)))[0]
    shown = top - values if photometric == 0 else values
    expected = np.floor(shown * 255 / top + 0.5).astype("u1")
    np.testing.assert_array_equal(found, np.stack([expected] * 3, axis=1))
