"""References to objects: the SOP Instance Reference Macro (PS3.3 Table 10-11)."""

from pydicom.dataset import Dataset


def reference(sop_class_uid: str | None, sop_instance_uid: str | None) -> Dataset:
    """Return an item that names one object."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
