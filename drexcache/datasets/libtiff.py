"""Turning libtiff's messages about damaged files into warnings; Pillow reads TIFF with libtiff, which prints them."""

from __future__ import annotations

import ctypes
import warnings
from contextlib import suppress

from PIL import Image

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)  # module, format, va_list


@_Handler
def _warn(module: bytes | None, form: bytes, values: int | None) -> None:
    text = ctypes.create_string_buffer(500)
    ctypes.CDLL(None).vsnprintf(text, len(text), form, ctypes.c_void_p(values))
    with suppress(Warning):  # if warnings are errors: libtiff cannot propagate one
        warnings.warn(f"damaged TIFF ({text.value.decode(errors='replace')})", stacklevel=1)


def warn_of_damage() -> None:
    """Make libtiff issue warnings, in the thread that reads an image; if it cannot be reached, it keeps printing."""
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(Image.core.__file__)  # with the libraries it is linked to
        library.TIFFSetErrorHandler(_warn)
