"""What real headers lack or hold: one change at a time from a complete image."""

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset

# Without one of these highdicom's own classes raise, on some values of the last two as well.
NEEDED_BY_OTHERS = (
    "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "Modality", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "PatientOrientation", "ImagerPixelSpacing",
)  # fmt: skip
IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def order() -> list[Dataset]:
    item = Dataset()
    item.RequestedProcedureID = "RP1"
    item.RequestedProcedureDescription = "Chest PA"
    return [item]


# A function each: pydicom's sequences must not be shared between data sets.
HOLES: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"no {k}": lambda k=k: {k: None} for k in NEEDED_BY_OTHERS},
    **{f"empty {k}": lambda k=k: {k: ""} for k in (
        *NEEDED_BY_OTHERS, "FrameOfReferenceUID", "ReferringPhysicianName", "SpecificCharacterSet",
        "ViewPosition", "PatientAge", "SeriesNumber", "InstanceNumber", "TimezoneOffsetFromUTC",
        "IssuerOfPatientID", "StudyDescription", "RequestAttributesSequence")},
    "sex U": lambda: {"PatientSex": "U"},
    "orientation": lambda: {"PatientOrientation": ["L", "F"], "ImagerPixelSpacing": [0.2, 0.2]},
    "time with fraction": lambda: {"StudyTime": "101500.123456"},
    "order": lambda: {"RequestAttributesSequence": order()},
    "nothing but pixels": lambda: dict.fromkeys((*NEEDED_BY_OTHERS, "ViewPosition")),
}  # fmt: skip

NAMES: list[tuple[str | list[str], str]] = [
    ("ISO_IR 6", "Mueller^Juergen"),
    ("ISO_IR 100", "Müller^Jürgen"),
    ("ISO_IR 101", "Wałęsa^Łukasz"),
    ("ISO_IR 109", "Ĝusta^Ĥoro"),
    ("ISO_IR 110", "Bērziņš^Jānis"),
    ("ISO_IR 144", "Иванов^Ян"),
    ("ISO_IR 127", "قباني^لنزار"),
    ("ISO_IR 126", "Διονυσιος"),
    ("ISO_IR 138", "שרון^דבורה"),
    ("ISO_IR 148", "Çavuşoğlu^Çağla"),
    ("ISO_IR 166", "สมชาย^ใจดี"),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    ("GBK", "Wang^XiaoDong=王^小东"),
    (["", "ISO 2022 IR 100"], "Müller^Jürgen"),
    (["", "ISO 2022 IR 144"], "Ivanov^Ian=Иванов^Ян"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 159"], "Hoshi^Tarou=丂^丄"),
    (["", "ISO 2022 IR 87", "ISO 2022 IR 159"], "Yamada^Tarou=山田^丂=やまだ^たろう"),
    (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
]

# PS3.5 K.2: pydicom 3.0 neither writes nor reads the escapes of ISO 2022 IR 58, we copy them.
SIMPLIFIED_CHINESE = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"

# Character sets that dciodvfy 1.00 does not know: it takes every such name for an error.
UNKNOWN_TO_DCIODVFY = {"ISO_IR 13", "GBK"}
