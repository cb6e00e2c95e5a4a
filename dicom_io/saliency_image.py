"""The picture of where the model looked: a radiograph with the saliency map drawn over it.

Drawn for a glance: band and probability above, the colour scale beside, what it is not below.
The same picture is the Secondary Capture for viewers, the PNG of the page and of `predict`.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicom_io.sr_report import Outline

LONG_SIDE_PX = 800  # of the radiograph, whatever the source has
CANVAS_WIDTH_MIN_PX = 640  # what the texts need, beside a picture of any shape
NOT_FOR_DIAGNOSTIC_USE = "NOT FOR DIAGNOSTIC USE"

_COLOURS = cv2.COLORMAP_VIRIDIS  # perceptually uniform, and told apart by colour-blind people
_OPACITY_MAX = 0.55
_SCALE_WIDTH_PX, _MARGIN_PX = 110, 16
_WHITE, _GREY, _YELLOW, _BLACK = (255, 255, 255), (190, 190, 190), (255, 214, 0), (0, 0, 0)

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is burnt in beside the picture; ASCII. probability: 0 to 1, at the prevalence.

    warning: why the model is not known to work for this patient or picture, None where it is.
    """

    probability: float
    band: str
    prevalence: float
    model_name: str
    model_version: str
    warning: str | None = None


def draw(
    grey: NDArray[np.uint8],
    saliency: NDArray[np.float32],
    outline: Outline | None,
    caption: Caption,
) -> Rgb:
    """Draw the whole picture: uint8 (rows, columns, 3), RGB.

    grey: uint8 (rows, columns), bone bright, any size. saliency: float32 (r, c) in [0, 1], any
    grid over the same picture. outline: (column, row) in pixels of `grey`.
    """
    if grey.ndim != 2 or saliency.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"expected (rows, columns), got {grey.shape} and {saliency.shape}")
    picture = _overlaid(grey, saliency, outline)
    rows, columns = picture.shape[:2]
    width = max(columns + _SCALE_WIDTH_PX, CANVAS_WIDTH_MIN_PX)
    above, below = _lines_above(caption), _lines_below(caption)
    top = _MARGIN_PX + sum(line.height_px for line in above)
    canvas = Image.new("RGB", (width, top + rows + sum(line.height_px for line in below)), _BLACK)
    left = (width - _SCALE_WIDTH_PX - columns) // 2
    canvas.paste(Image.fromarray(picture), (left, top))
    draw = ImageDraw.Draw(canvas)
    _write(draw, above, y=_MARGIN_PX // 2, width=width)
    _write(draw, below, y=top + rows, width=width)
    _draw_scale(canvas, draw, left=left + columns + _MARGIN_PX, top=top, rows=rows)
    return np.asarray(canvas, np.uint8)


def as_png(picture: Rgb) -> bytes:
    """Encode what `draw` returns."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} cannot be a PNG")
    return bytes(encoded)


def _overlaid(
    grey: NDArray[np.uint8], saliency: NDArray[np.float32], outline: Outline | None
) -> Rgb:
    """The radiograph at its own aspect ratio, coloured where the map is high, with the outline."""
    zoom = LONG_SIDE_PX / max(grey.shape)
    rows, columns = (max(1, round(side * zoom)) for side in grey.shape)
    shrinks = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    base = cv2.resize(grey, (columns, rows), interpolation=shrinks)
    heat = np.clip(cv2.resize(saliency, (columns, rows), interpolation=cv2.INTER_CUBIC), 0, 1)
    picture = _coloured(np.asarray(base, np.uint8), np.asarray(heat, np.float32))
    if outline is not None:
        line = np.round(np.array(outline) * zoom).astype(np.int32)[None]
        cv2.polylines(picture, line, True, _BLACK, 4, cv2.LINE_AA)
        cv2.polylines(picture, line, True, _WHITE, 2, cv2.LINE_AA)
    return picture


def _coloured(base: NDArray[np.uint8], heat: NDArray[np.float32]) -> Rgb:
    """Blend: nothing is hidden where the map is low, and never all of the radiograph."""
    level = cv2.convertScaleAbs(heat, alpha=255)
    kept, laid_over = _blending()
    grey = cv2.multiply(base, cv2.LUT(level, kept), scale=1 / 255)
    return np.asarray(cv2.add(cv2.merge([grey] * 3), cv2.LUT(cv2.merge([level] * 3), laid_over)))


@cache
def _blending() -> tuple[NDArray[np.uint8], Rgb]:
    """For each level of the map: how much of 255 of the radiograph is kept, and what is added."""
    levels = np.arange(256, dtype=np.uint8)
    colours = cv2.applyColorMap(levels[:, None], _COLOURS)[:, 0, ::-1]
    opacity = _OPACITY_MAX * np.minimum(levels / 255 * 2, 1)
    kept = np.round(255 * (1 - opacity)).astype(np.uint8)
    return kept, np.round(colours * opacity[:, None]).astype(np.uint8)[None]


@dataclass(frozen=True, kw_only=True)
class _Line:
    text: str
    size_px: int
    colour: tuple[int, int, int]
    back: tuple[int, int, int] = _BLACK

    @property
    def height_px(self) -> int:
        return round(self.size_px * 1.45)


def _lines_above(caption: Caption) -> list[_Line]:
    percent = f"{caption.probability:.1%}".replace("%", " %")
    return [
        _Line(text=f"{caption.band.upper()}: pneumonia {percent}", size_px=34, colour=_WHITE),
        _Line(
            text=f"probability that it is present, at an assumed prevalence of "
            f"{caption.prevalence * 100:g} %",
            size_px=19,
            colour=_GREY,
        ),
    ]


def _lines_below(caption: Caption) -> list[_Line]:
    warning = _Line(text=caption.warning or "", size_px=22, colour=_BLACK, back=_YELLOW)
    return [
        _Line(
            text="Colour and outline: where the model looked, not a segmented lesion.",
            size_px=19,
            colour=_GREY,
        ),
        _Line(text=NOT_FOR_DIAGNOSTIC_USE, size_px=30, colour=_BLACK, back=_YELLOW),
        *([warning] if caption.warning else []),  # below: viewers lay controls over the top
        _Line(
            text=f"Research algorithm {caption.model_name} {caption.model_version}, cxr-worker",
            size_px=19,
            colour=_GREY,
        ),
    ]


def _write(draw: ImageDraw.ImageDraw, lines: list[_Line], *, y: int, width: int) -> None:
    """Write lines one below the other, centred; one that is too long is made smaller."""
    for line in lines:
        size, room = line.size_px, width - 2 * _MARGIN_PX
        while size > 8 and draw.textlength(line.text, font=_font(size)) > room:  # noqa: PLR2004
            size -= 1
        if line.back != _BLACK:
            draw.rectangle((0, y, width, y + line.height_px - 1), fill=line.back)
        centre = (width / 2, y + line.height_px / 2)
        draw.text(centre, line.text, fill=line.colour, font=_font(size), anchor="mm")
        y += line.height_px


def _draw_scale(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, *, left: int, top: int, rows: int
) -> None:
    """The colours as they look over mid-grey, from nothing below to the most above."""
    height, width = min(rows - 2 * _MARGIN_PX, 360), 26
    if height < 40:  # noqa: PLR2004  # a strip of a picture has no room for one
        return
    y = top + (rows - height) // 2
    heat = np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], width, axis=1)
    canvas.paste(Image.fromarray(_coloured(np.full(heat.shape, 96, np.uint8), heat)), (left, y))
    draw.rectangle((left - 1, y - 1, left + width, y + height), outline=_GREY)
    for place, text in ((0.0, "most"), (0.5, "half"), (1.0, "none")):
        at = (left + width + 6, y + place * height)
        draw.text(at, text, fill=_WHITE, font=_font(17), anchor="lm")


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)  # the one that Pillow carries
