"""The part of a picture that a Display Shutter leaves (PS3.3 C.7.6.11).

What lies outside is not to be seen: the blades of the collimator, or a part never exposed, which
may be white. The picture is cut to the box around the shutter, of whatever shape. Collimator
elements (C.8.7.3) are not used: real files hold millimetres in them, and stale values.
"""

from pydicom.dataset import Dataset

from dicom_io.read import integer_value, raw_value, text_value

AREA_MIN = 0.25  # of the picture; a smaller shutter is a slip or shows no chest
_SIDE_MIN_PX = 224

Box = tuple[int, int, int, int]  # top, bottom, left, right: first and last row and column, from 1


def visible(ds: Dataset) -> tuple[slice, slice]:
    """Return the rows and columns to keep: all where no shutter is given or none makes sense."""
    rows, columns = integer_value(ds, "Rows") or 0, integer_value(ds, "Columns") or 0
    top, bottom, left, right = 1, rows, 1, columns
    shapes = (text_value(ds, "ShutterShape", 64) or "").split("\\")
    for box in (_BOXES[shape](ds) for shape in shapes if shape in _BOXES):
        if box is not None:
            top, bottom = max(top, box[0]), min(bottom, box[1])
            left, right = max(left, box[2]), min(right, box[3])
    height, width = bottom - top + 1, right - left + 1
    if min(height, width) < _SIDE_MIN_PX or height * width < AREA_MIN * rows * columns:
        return slice(0, rows), slice(0, columns)
    return slice(top - 1, bottom), slice(left - 1, right)


def _rectangle(ds: Dataset) -> Box | None:
    """Edges are the last row or column that is hidden."""
    names = ("UpperHorizontal", "LowerHorizontal", "LeftVertical", "RightVertical")
    edges = [integer_value(ds, f"Shutter{name}Edge") for name in names]
    if any(edge is None for edge in edges):
        return None
    top, bottom, left, right = (edge or 0 for edge in edges)
    return top + 1, bottom - 1, left + 1, right - 1


def _circle(ds: Dataset) -> Box | None:
    center = _integers(ds, "CenterOfCircularShutter")
    radius = integer_value(ds, "RadiusOfCircularShutter")
    if len(center) != 2 or radius is None:  # noqa: PLR2004
        return None
    row, column = center
    return row - radius, row + radius, column - radius, column + radius


def _polygon(ds: Dataset) -> Box | None:
    """Row and column of each corner in turn."""
    corners = _integers(ds, "VerticesOfThePolygonalShutter")
    if len(corners) < 6 or len(corners) % 2:  # noqa: PLR2004  # three corners at least
        return None
    rows, columns = corners[::2], corners[1::2]
    return min(rows), max(rows), min(columns), max(columns)


def _integers(ds: Dataset, keyword: str) -> list[int]:
    try:
        return [int(value) for value in raw_value(ds, keyword) or []]
    except (TypeError, ValueError, OverflowError):
        return []


_BOXES = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}
