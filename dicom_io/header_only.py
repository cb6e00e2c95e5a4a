"""Take the pixel data out of a stored file; what else it says of patient and image stays."""

from pathlib import Path

from dicom_io.errors import UnreadableDicom
from dicom_io.read import read_header_dataset


def write_header_only(source: Path, target: Path) -> None:
    """Write a Part 10 file of everything before the pixel data.

    Raises UnreadableDicom when the source cannot be read or written again as it is, OSError.
    """
    ds = read_header_dataset(source)
    try:
        ds.save_as(target, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # pydicom meets a broken value only when it writes it
        target.unlink(missing_ok=True)
        raise UnreadableDicom(f"cannot be written again ({type(error).__name__})") from None
