"""How cache-v1.h5 was made: four drawn pictures, one of them broken, with ratings, a group and a split.

    python tests/data/make_cache_v1.py NEW.h5

The file in the repository stays as the first release wrote it; later releases must read it, not write it again.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from drexcache import read_images, recipe
from drexcache.features import extract

RATINGS = """file,rating,split,artist
blank.png,1,train,Ana
broken.png,4,test,Ana
discs.png,5.5,train,Zoë
stripes.png,,test,Zoë
"""


def draw(folder: Path) -> None:
    blank, discs, stripes = (Image.new("RGB", (64, 48), colour) for colour in ("white", "navy", "black"))
    for number in range(12):
        x, y, r = 5 * number, 37 * number % 48, 3 + number % 5
        ImageDraw.Draw(discs).ellipse((x - r, y - r, x + r, y + r), fill=(255 - 20 * number, 20 * number, 90))
        ImageDraw.Draw(stripes).rectangle((0, 4 * number, 64, 4 * number + 1), fill="white")
    for name, picture in (("blank", blank), ("discs", discs), ("stripes", stripes)):
        picture.save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    (folder / "ratings.csv").write_text(RATINGS, encoding="utf-8")


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        table = read_images(
            folder, dataset="drawn", value_range=(1, 7), higher_is="less", target="order", group_columns=["artist"],
            allow_unmatched=True,
        )  # fmt: skip
        extract(table, recipe("classic"), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
