"""A page of random frames with counts and head dots: python -m pretrain.contact_sheet OUT.png"""

import argparse

from PIL import Image, ImageDraw

from pretrain.render import Rendered, render

COLUMNS, ROWS = 4, 5


def marked(frame: Rendered, dots: bool) -> Image.Image:
    image = Image.fromarray(frame.image)
    pen = ImageDraw.Draw(image)
    if dots:
        for x, y in frame.heads.tolist():
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(255, 0, 0))
    pen.text((6, 4), str(frame.count), fill=(255, 255, 0), font_size=28, stroke_width=2,
             stroke_fill=(0, 0, 0))  # fmt: skip
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first frame")
    parser.add_argument("--plain", action="store_true", help="leave the heads unmarked")
    args = parser.parse_args()
    page = Image.new("RGB", (COLUMNS * 480, ROWS * 360))
    for i in range(COLUMNS * ROWS):
        frame = marked(render(args.seed + i), not args.plain).resize((480, 360))
        page.paste(frame, (i % COLUMNS * 480, i // COLUMNS * 360))
    page.save(args.out)


if __name__ == "__main__":
    main()
