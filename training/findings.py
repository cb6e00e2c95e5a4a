"""The CSV layout of NIH ChestX-ray and its like: a table of findings beside a folder of pictures.

    Image Index,Finding Labels,…,Patient ID,…
    00000001_000.png,Cardiomegaly|Emphysema,…,1,…

One finding is the positive class; every other picture, with other findings or none, is negative.
"""

import csv
import logging
from collections import Counter
from pathlib import Path

from training.dataset import SUFFIXES, ImageFile, sha256_of
from training.errors import DatasetError

IMAGE, FINDINGS, PATIENT = "Image Index", "Finding Labels", "Patient ID"
SEPARATOR = "|"

logger = logging.getLogger(__name__)

Row = dict[str, str]


def scan_findings(csv_file: Path, images: Path, positive: str) -> list[ImageFile]:
    """List the table's pictures that lie in `images` or below, in the table's order.

    positive: the finding, in any case. A file's name tells class and patient, as in the folder
    layout: `Mass/patient-13/00000013_005.png`, or `no Mass/…`. Rows without a picture are counted
    in a warning: the public set comes in parts.
    Raises DatasetError when a column, the finding or every picture is missing, or one comes twice.
    """
    rows = _rows(csv_file)
    finding = _spelled(positive, rows, csv_file)
    paths = {
        path.name: path for path in sorted(images.rglob("*")) if path.suffix.lower() in SUFFIXES
    }
    present = [row for row in rows if row[IMAGE] in paths]
    if not present:
        raise DatasetError(f"none of the {len(rows)} pictures of {csv_file} lies below {images}")
    if len(present) < len(rows):
        missing = len(rows) - len(present)
        logger.warning("%d of %d pictures are not below %s", missing, len(rows), images)
    classes = (f"no {finding}", finding)
    files = []
    for row in present:
        path, label = paths[row[IMAGE]], int(finding in _findings(row))
        name = f"{classes[label]}/patient-{row[PATIENT].replace('/', '_')}/{row[IMAGE]}"
        files.append(ImageFile(path=path, name=name, label=label, sha256=sha256_of(path)))
    return files


def _rows(csv_file: Path) -> list[Row]:
    try:
        with csv_file.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            for column in (IMAGE, FINDINGS, PATIENT):
                if column not in header:
                    raise DatasetError(f"{csv_file} has no column {column!r}")
            rows = [
                {name: row[name] or "" for name in (IMAGE, FINDINGS, PATIENT)} for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{csv_file} cannot be read: {error}") from error
    for line, row in enumerate(rows, start=2):
        if not all(row.values()):
            raise DatasetError(f"{csv_file}, row {line}: an empty field")
    twice = [name for name, times in Counter(row[IMAGE] for row in rows).items() if times > 1]
    if twice:
        raise DatasetError(f"{csv_file} lists {twice[0]} more than once")
    return rows


def _findings(row: Row) -> list[str]:
    return [finding.strip() for finding in row[FINDINGS].split(SEPARATOR)]


def _spelled(positive: str, rows: list[Row], csv_file: Path) -> str:
    """The finding as the table spells it."""
    counts = Counter(finding for row in rows for finding in _findings(row))
    for finding in counts:
        if finding.casefold() == positive.casefold():
            return finding
    known = ", ".join(finding for finding, _ in counts.most_common(20))
    raise DatasetError(f"{csv_file} has no finding {positive!r}; there are: {known}")
