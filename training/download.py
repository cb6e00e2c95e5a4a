"""Fetches the public data set, through kagglehub."""

from pathlib import Path

from training.errors import DatasetError

KAGGLE_DATASET = "paultimothymooney/chest-xray-pneumonia"


def download() -> Path:
    """Download the set (1.2 GB) into kagglehub's cache and return the folder with train/.

    Raises DatasetError when Kaggle cannot be reached or the set has another layout.
    """
    import kagglehub

    try:
        folder = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as error:  # kagglehub lets many libraries' errors through
        raise DatasetError(
            f"{KAGGLE_DATASET} could not be downloaded from Kaggle: {error}"
        ) from error
    for candidate in (folder / "chest_xray", folder):
        if (candidate / "train").is_dir():
            return candidate
    raise DatasetError(f"{folder} has no train/ folder: the set's layout has changed")
