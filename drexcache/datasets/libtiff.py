"""What libtiff, which Pillow reads TIFF with, says of damaged files: warnings instead of lines on the terminal."""

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
    with suppress(Warning):  # where warnings are errors: libtiff cannot pass one on
        warnings.warn(f"damaged TIFF ({text.value.decode(errors='replace')})", stacklevel=1)


def warn_of_damage() -> None:
    """Have libtiff give warnings, in the thread that reads an image; where it cannot be reached it goes on printing."""
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(Image.core.__file__)  # and what it is linked to
        library.TIFFSetErrorHandler(_warn)
