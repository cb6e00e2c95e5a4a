"""Files that a person drops on the page, to try the model without a PACS.

They go the way of every object that a peer sends, through spool, row and workers, but under UIDs
of their own, so that they never mix with a real study, and marked, so that nothing is delivered.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dicom_io.errors import DicomError, UnreadableDicom
from dicom_io.preprocess import grey_from_file
from dicom_io.read import header_of, read_dataset
from worker.receive import SUCCESS, Origin, Receiver

CALLING = "WEB UPLOAD"  # in the place of a calling AE title
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PICTURES = frozenset({".jpeg", ".jpg", ".png"})
_MARKER_AT, _MARKER = 128, b"DICM"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one file: its study, or why it was refused."""

    file_name: str
    study_instance_uid: str | None = None
    reason: str | None = None


@dataclass
class Upload:
    """The files that were dropped at once: those of one study stay together."""

    receiver: Receiver
    temp_folder: Path
    age_years: int | None = None
    _studies: dict[str, str] = field(default_factory=dict)

    def take(self, path: Path, file_name: str) -> Outcome:
        """Take one file over, or say why not; never raises for what is in the file."""
        name = clean_file_name(file_name)
        try:
            ds = self._dataset(path, Path(name).suffix.lower())
        except DicomError as error:
            return Outcome(file_name=name, reason=str(error))
        temp_file = self.temp_folder / f"upload-{secrets.token_hex(8)}"
        try:
            try:
                ds.save_as(temp_file, enforce_file_format=True)
            except Exception as error:  # a broken element raises anything when it is written
                return Outcome(file_name=name, reason=f"corrupt ({type(error).__name__})")
            origin = Origin(
                sop_class_uid=str(ds.SOPClassUID),
                sop_instance_uid=str(ds.SOPInstanceUID),
                calling_ae_title=CALLING,
                is_upload=True,
            )
            if self.receiver.receive(temp_file, origin) != SUCCESS:
                return Outcome(file_name=name, reason="cannot be stored now: see the log")
        finally:
            temp_file.unlink(missing_ok=True)
        return Outcome(file_name=name, study_instance_uid=str(ds.StudyInstanceUID))

    def _dataset(self, path: Path, suffix: str) -> Dataset:
        with path.open("rb") as file:
            file.seek(_MARKER_AT)
            is_dicom = file.read(len(_MARKER)) == _MARKER
        if is_dicom or suffix not in PICTURES:
            ds: Dataset = read_dataset(path)
            header_of(ds)  # what identifies it must be there
        else:
            ds = self._wrapped(path)
        try:
            _rename(ds, self._study_of)
        except Exception as error:  # pydicom converts lazily
            raise UnreadableDicom(f"corrupt ({type(error).__name__})") from None
        return ds

    def _study_of(self, study_instance_uid: str) -> str:
        return self._studies.setdefault(study_instance_uid, str(generate_uid(prefix=None)))

    def _wrapped(self, path: Path) -> Dataset:
        """A picture as Secondary Capture of a chest radiograph, grey value by grey value."""
        grey = grey_from_file(path)
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = SECONDARY_CAPTURE
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(ds, keyword, generate_uid(prefix=None))
        ds.Modality, ds.ConversionType, ds.BodyPartExamined = "CR", "WSD", "CHEST"
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"):
            setattr(ds, keyword, "")
        if self.age_years is not None:
            ds.PatientAge = f"{self.age_years:03}Y"
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.WindowCenter, ds.WindowWidth = 128, 256  # shows each grey value as it is
        ds.Rows, ds.Columns = grey.shape
        data = grey.tobytes()
        ds.PixelData = data + bytes(len(data) % 2)
        return ds


def clean_file_name(text: str) -> str:
    """A file's name as the page may say it back: without its folders, printable, short."""
    base = re.split(r"[/\\]", text)[-1]
    return "".join(c for c in base if c.isprintable())[:80] or "file"


def _rename(ds: Dataset, study_of: Callable[[str], str]) -> None:
    ds.StudyInstanceUID = study_of(str(ds.StudyInstanceUID))
    ds.SeriesInstanceUID = generate_uid(prefix=None)
    ds.SOPInstanceUID = generate_uid(prefix=None)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
