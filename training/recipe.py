"""What a recipe is, and how one is found by its name."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from training import recipes
from training.augment import Augmentation
from training.errors import RecipeError
from training.targets import TWO_CLASSES, Target
from training.watch import EarlyStopping, ReduceOnPlateau

Weights = Literal["imagenet"] | Path | None  # of ImageNet, a checkpoint file, or random


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training run, besides the data and the seed.

    build: makes the keras.Model from grey pixels (n, size, size, 1) in 0-255 to raw logits
    (n, 1), or (n, classes) for more than two, out of a layer named `logits`; with the given
    weights and with the layers frozen that stay so.
    ood_layer: name of the layer whose means over ood_grid x ood_grid regions the
    out-of-distribution score is made of; channels and regions multiply to at most some hundreds.
    schedule: the learning rate after the warm-up, a cosine to zero or constant.
    plateau, early_stopping: watch the loss on a tenth of the training pictures, set aside.
    both_sides: the served network says the mean of the logits of the picture and of its mirror
    image, for twice the computing. For two classes, and with an ood_branch: it sees the picture.
    ood_branch: adds ood_layer, as a second output, to a trained network that lacks it.
    imagenet: whose ImageNet weights they are, and under which licence.
    settled_on: so many training pictures, as they are, give the batch norms their statistics once
    fitting is done; 0 leaves those of the augmented pictures, which may be another distribution.
    averaging: momentum, a step, of the moving average of the weights that the network ends with;
    None ends with the last weights.
    class_weights: weigh losses by class frequency. The logits are moved back to the training
    prevalence when the run ends (`targets.undo_weights`).
    """

    name: str
    build: Callable[[Weights], Any]
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: float
    ood_layer: str
    ood_grid: int = 1
    ood_branch: Callable[[Any], Any] | None = None
    imagenet: str = "of keras.applications, under the terms of their authors"
    target: Target = TWO_CLASSES
    schedule: Literal["cosine", "constant"] = "cosine"
    plateau: ReduceOnPlateau | None = None
    early_stopping: EarlyStopping | None = None
    settled_on: int = 0
    averaging: float | None = None
    both_sides: bool = False
    class_weights: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.both_sides and (self.ood_branch is None or self.target != TWO_CLASSES):
            raise RecipeError(f"{self.name}: both_sides takes two classes and an ood_branch")

    @property
    def watches(self) -> bool:
        """Whether a part of the training pictures is set aside to watch the loss on."""
        return self.plateau is not None or self.early_stopping is not None


def names() -> list[str]:
    """The recipes there are, as `cxr-train fit` takes them."""
    return sorted(
        module.name.replace("_", "-") for module in pkgutil.iter_modules(recipes.__path__)
    )


def find(name: str) -> Recipe:
    """Load a recipe by name: `efficientnet-lite0` is training/recipes/efficientnet_lite0.py.

    Raises RecipeError, naming the recipes there are, when there is none of that name.
    """
    if name not in names():
        raise RecipeError(f"no recipe {name!r}; there are: {', '.join(names())}")
    module = importlib.import_module(f"{recipes.__name__}.{name.replace('-', '_')}")
    found: Recipe = module.RECIPE
    return found
