import numpy as np
import pytest

from dicom_io.preprocess import grey_of
from dicom_io.shutter import visible

EDGES = {
    "ShutterShape": "RECTANGULAR",
    "ShutterUpperHorizontalEdge": 50,
    "ShutterLowerHorizontalEdge": 451,
    "ShutterLeftVerticalEdge": 100,
    "ShutterRightVerticalEdge": 401,
}


@pytest.fixture
def stored():
    return np.random.default_rng(0).integers(1000, 3000, (500, 450)).astype(np.uint16)


def test_what_lies_outside_the_shutter_is_neither_seen_nor_counted(make_image, stored):
    """Without a window the percentiles must not see the unexposed border either."""
    inside = np.ascontiguousarray(stored[50:450, 100:400])
    framed = np.full_like(stored, 60000)
    framed[50:450, 100:400] = inside
    assert np.array_equal(grey_of(make_image(framed, **EDGES)), grey_of(make_image(inside)))


def test_colours_are_cut_as_well(make_image):
    rgb = np.random.default_rng(1).integers(0, 256, (500, 450, 3)).astype(np.uint8)
    header = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    ds = make_image(rgb[..., 0].copy(), PixelData=rgb.tobytes(), **header, **EDGES)
    assert grey_of(ds).shape == (400, 300)


@pytest.mark.parametrize(
    ("shutter", "shape"),
    [
        ({"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [250, 225],
          "RadiusOfCircularShutter": 200}, (401, 401)),
        ({"ShutterShape": "POLYGONAL",
          "VerticesOfThePolygonalShutter": [10, 20, 10, 440, 490, 440, 490, 20]}, (481, 421)),
        ({**EDGES, "ShutterShape": ["RECTANGULAR", "CIRCULAR"],
          "CenterOfCircularShutter": [250, 250], "RadiusOfCircularShutter": 150}, (301, 300)),
        ({**EDGES, "ShutterLeftVerticalEdge": -20, "ShutterRightVerticalEdge": 9000}, (400, 450)),
    ],
)  # fmt: skip
def test_the_box_around_every_shape(make_image, stored, shutter, shape):
    assert grey_of(make_image(stored, **shutter)).shape == shape


@pytest.mark.parametrize(
    "shutter",
    [
        {},
        {**EDGES, "ShutterShape": "BITMAP"},
        {**EDGES, "ShutterRightVerticalEdge": 101},
        {**EDGES, "ShutterLowerHorizontalEdge": 10},
        {**EDGES, "ShutterLowerHorizontalEdge": None},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [250, 225]},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 2, 3]},
        {"CollimatorShape": "RECTANGULAR", "CollimatorLeftVerticalEdge": "-184",
         "CollimatorRightVerticalEdge": "184"},
    ],
)  # fmt: skip
def test_a_shutter_that_makes_no_sense_hides_nothing(make_image, stored, shutter):
    assert visible(make_image(stored, **shutter)) == (slice(0, 500), slice(0, 450))
