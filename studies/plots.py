"""Pictures of results as PNG or SVG files; needs matplotlib, which the extra [demo] brings."""

from __future__ import annotations

