"""Which images of a study are copies of one exposure, processed in other ways."""

import re

from pydicom.dataset import Dataset

from dicom_io.read import date_value, text_value


def exposure_of(ds: Dataset) -> str:
    """Return a key that images of one exposure share: the irradiation event, else its second.

    A detector takes no two radiographs in one second. An image that names neither is an exposure
    of its own.
    """
    event = text_value(ds, "IrradiationEventUID", 64)
    if event:
        return event
    time = re.match(r"\d{6}", text_value(ds, "AcquisitionTime", 16) or "", re.ASCII)
    day = date_value(ds, "AcquisitionDate")
    if time and day:
        view = text_value(ds, "ViewPosition", 16)
        return f"{day} {time[0]} {view}"
    return text_value(ds, "SOPInstanceUID", 64) or ""
