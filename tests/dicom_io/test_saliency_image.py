"""The picture of where the model looked: what a person sees, measured on its pixels."""

import cv2
import numpy as np
import pytest

from dicom_io.saliency_image import CANVAS_WIDTH_MIN_PX, LONG_SIDE_PX, Caption, as_png, draw

CAPTION = Caption(
    probability=0.873, band="positive", prevalence=0.1, model_name="m", model_version="1.2.3"
)
YELLOW = (255, 214, 0)


def hot_spot() -> np.ndarray:
    saliency = np.zeros((7, 7), np.float32)
    saliency[5, 1] = 1
    return saliency


def grey(rows: int, columns: int) -> np.ndarray:
    return np.full((rows, columns), 100, np.uint8)


@pytest.mark.parametrize(
    ("rows", "columns"), [(3000, 2500), (300, 240), (900, 300), (300, 1200), (2000, 40)]
)
def test_the_radiograph_keeps_its_shape_and_texts_have_room(rows: int, columns: int) -> None:
    picture = draw(grey(rows, columns), np.zeros((7, 7), np.float32), None, CAPTION)
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= CANVAS_WIDTH_MIN_PX
    zoom = LONG_SIDE_PX / max(rows, columns)
    radiograph = (picture == 100).all(axis=2)
    found = [(radiograph.sum(axis=axis) > 10).sum() for axis in (1, 0)]  # not a letter's edge
    assert found == pytest.approx([rows * zoom, columns * zoom], abs=2)


def test_only_hot_places_are_coloured_and_the_radiograph_shows_through() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (400, 400)).astype(np.uint8)
    blank = draw(base, np.zeros((7, 7), np.float32), None, CAPTION)
    picture = draw(base, hot_spot(), None, CAPTION)
    coloured = (picture != blank).any(axis=2)
    rows, columns = np.nonzero(coloured)
    centre = rows.mean() / picture.shape[0], columns.mean() / LONG_SIDE_PX
    assert centre == pytest.approx((0.72, 1.5 / 7), abs=0.08)
    assert coloured.mean() < 0.2
    assert picture[coloured].std() > 25  # the noise below is still seen
    radiograph = blank[200:800, :LONG_SIDE_PX].astype(int)
    assert np.ptp(radiograph, axis=2).max() == 0


def test_the_outline_is_drawn_where_it_was_said() -> None:
    outline = ((100.0, 200.0), (300.0, 200.0), (300.0, 350.0), (100.0, 350.0), (100.0, 200.0))
    plain = draw(grey(400, 400), np.zeros((7, 7), np.float32), None, CAPTION)
    lined = draw(grey(400, 400), np.zeros((7, 7), np.float32), outline, CAPTION)
    rows, columns = np.nonzero((plain != lined).any(axis=2))
    assert np.ptp(columns) == pytest.approx(400, abs=8)  # twice as large as the source
    assert np.ptp(rows) == pytest.approx(300, abs=8)


def test_probability_band_and_what_it_is_not_are_burnt_in() -> None:
    def text_of(**changes: object) -> np.ndarray:
        caption = Caption(**{**vars(CAPTION), **changes})  # type: ignore[arg-type]
        return draw(grey(300, 300), hot_spot(), None, caption)

    plain = text_of()
    for change in ({"probability": 0.1}, {"band": "review"}, {"prevalence": 0.2}):
        assert (text_of(**change) != plain).any(), change
    assert (text_of(model_version="9.9.9") != plain).any()
    yellow = (plain == YELLOW).all(axis=2).any(axis=1).sum()
    warned = text_of(warning="OUTSIDE THE INTENDED USE: age")
    assert yellow > 30
    assert (warned == YELLOW).all(axis=2).any(axis=1).sum() > yellow + 15


def test_a_png_holds_the_picture() -> None:
    picture = draw(grey(300, 300), hot_spot(), None, CAPTION)
    decoded = cv2.imdecode(np.frombuffer(as_png(picture), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), picture)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        draw(np.zeros((3, 3, 3), np.uint8), hot_spot(), None, CAPTION)
