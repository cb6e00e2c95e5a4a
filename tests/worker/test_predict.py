"""`cxr-worker predict --saliency`: the picture that also goes to the PACS."""

from pathlib import Path

import cv2

from tests.support import dicom
from tests.support.system import command


def test_several_images_leave_a_picture_each_in_a_folder(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):  # the same file name in two folders
        (tmp_path / name).mkdir()
        path = tmp_path / name / "chest.dcm"
        dicom.write(dicom.chest(), tmp_path / name).rename(path)
        paths.append(path)
    hand = dicom.write(dicom.chest(BodyPartExamined="HAND"), tmp_path)
    out = tmp_path / "out"
    done = command("predict", *paths, hand, "--saliency", out)
    assert done.returncode == 1  # the hand
    names = {it.name for it in out.iterdir()}
    assert names == {"chest.dcm.saliency.png", "chest.dcm-2.saliency.png"}
    for name in names:
        assert cv2.imread(str(out / name)).shape[0] > 900


def test_one_image_leaves_the_file_that_was_named(tmp_path: Path) -> None:
    path = dicom.write(dicom.chest(), tmp_path)
    out = tmp_path / "new" / "picture.png"
    assert command("predict", path, "--saliency", out).returncode == 0
    assert cv2.imread(str(out)) is not None
