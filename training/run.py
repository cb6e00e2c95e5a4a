"""The folder of one training run: its settings, checkpoint, log and predictions.

settings.json      recipe, data, split and seed, so that every later command repeats them
checkpoint.keras   the model and its optimizer after the last whole epoch
best.keras         that of the lowest watched loss, where the recipe stops early
log.csv            one line an epoch
final.keras        the network of the last or the best epoch, with one logit; what is served is
                   made of it by `networks.as_served`
predictions.csv, calibration.json, evaluation.{html,json,csv,png}: of the validation fold
predictions-shifted.csv, evaluation-shifted.{html,json,csv}: of what a shift held out
classes.csv, classes.json: of recipes with more than two classes
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from training import recipe as recipes
from training.dataset import CLASSES, Dataset, ImageFile, Progress, load_files, scan
from training.errors import RunError
from training.findings import scan_findings
from training.recipe import Recipe
from training.shift import SHIFTS, shift_split
from training.split import Split, grouped_fold

RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What was fitted on what.

    data: the folder that holds train/; with csv, the folder of that table's pictures, of which
    `positive` is the positive finding. precision: a Keras dtype policy. split_seed: of the folds,
    so that several seeds can share one split; None is the seed. split: RANDOM, or one of
    `shift.SHIFTS` to hold out as well; RunError for anything else. both_sides: the recipe's, when
    the run was begun.
    """

    recipe: str
    data: str
    data_digest: str
    fold: int
    folds: int
    seed: int
    epochs: int
    weights: str | None
    csv: str | None = None
    positive: str | None = None
    split_seed: int | None = None
    precision: str = "float32"
    split: str = RANDOM
    both_sides: bool = False

    def __post_init__(self) -> None:
        if self.split not in (RANDOM, *SHIFTS):
            raise RunError(f"no split {self.split!r}; there are: {', '.join((RANDOM, *SHIFTS))}")

    @property
    def fits_alike(self) -> tuple[object, ...]:
        """What runs must have in common for their folds to be pooled."""
        return self.recipe, self.data_digest, self.epochs, self.both_sides


@dataclass(frozen=True)
class Run:
    """Where the parts of one run lie."""

    folder: Path

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.json"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.keras"

    @property
    def best(self) -> Path:
        return self.folder / "best.keras"

    @property
    def final(self) -> Path:
        return self.folder / "final.keras"

    @property
    def log(self) -> Path:
        return self.folder / "log.csv"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.csv"

    @property
    def shifted_predictions(self) -> Path:
        return self.folder / "predictions-shifted.csv"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.json"

    @property
    def plot(self) -> Path:
        return self.folder / "evaluation.png"

    @property
    def classes_table(self) -> Path:
        return self.folder / "classes.csv"

    @property
    def classes(self) -> Path:
        return self.folder / "classes.json"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    def begin(self, settings: RunSettings) -> None:
        """Write the settings, or hold that a run which is resumed has the same ones."""
        if self.settings_file.exists():
            if self.settings() != settings:
                raise RunError(
                    f"{self.folder} was begun with other settings; choose another --run folder "
                    f"or repeat those in {self.settings_file}"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings_file.write_text(json.dumps(asdict(settings), indent=2) + "\n")

    def settings(self) -> RunSettings:
        """Raises RunError when the folder holds no run."""
        try:
            return RunSettings(**json.loads(self.settings_file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self.settings_file} cannot be read: {error}") from error

    def recipe(self) -> Recipe:
        """The recipe as it is now, with what the run has of its own. Raises what `find` does."""
        settings = self.settings()
        return replace(recipes.find(settings.recipe), both_sides=settings.both_sides)

    def data(self, cache: Path, progress: Progress | None = None) -> tuple[Dataset, Split]:
        """The data and the split that the run was begun with.

        Raises RunError when the files have changed since.
        """
        settings = self.settings()
        dataset = load_files(
            scan_data(settings.data, settings.csv, settings.positive), cache, progress
        )
        if dataset.digest != settings.data_digest:
            raise RunError(f"the pictures in {settings.data} are not those the run was begun with")
        return dataset, fold_of(dataset, settings)


def scan_data(data: str, csv: str | None, positive: str | None) -> list[ImageFile]:
    """The training pictures of either layout, as RunSettings names them."""
    if csv is None:
        return scan(Path(data) / "train")
    return scan_findings(Path(csv), Path(data), positive or CLASSES[1])


def fold_of(dataset: Dataset, settings: RunSettings) -> Split:
    """The patient-grouped split that the settings name.

    With a shift, the fold is one of the pictures that the shift leaves: thresholds are chosen
    on those, and applied to the shifted ones.
    """
    seed = settings.seed if settings.split_seed is None else settings.split_seed
    if settings.split == RANDOM:
        return grouped_fold(dataset.files, fold=settings.fold, folds=settings.folds, seed=seed)
    shift = shift_split(dataset.files, settings.split)
    left = [dataset.files[index] for index in shift.train]
    fold = grouped_fold(left, fold=settings.fold, folds=settings.folds, seed=seed)
    return Split(
        train=shift.train[fold.train],
        validation=shift.train[fold.validation],
        shifted=shift.validation,
    )


def write_log(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write the whole log anew, so that a resumed run leaves no line twice."""
    lines = [",".join(rows[0])] if rows else []
    lines += [",".join(f"{value:.6g}" for value in row.values()) for row in rows]
    unfinished = path.with_name(f"unfinished-{path.name}")
    unfinished.write_text("".join(line + "\n" for line in lines))
    unfinished.replace(path)


def read_log(path: Path) -> list[dict[str, float]]:
    """The log's rows so far; none when there is no log yet."""
    if not path.exists():
        return []
    header, *lines = path.read_text().splitlines() or [""]
    keys = header.split(",")
    return [dict(zip(keys, map(float, line.split(",")), strict=True)) for line in lines]
