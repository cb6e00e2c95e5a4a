"""EfficientNet-Lite0, ImageNet weights, fine-tuned from the sixth block on: the default.

    cxr-train fit efficientnet-lite0 --data chest_xray --run runs/efficientnet-lite0
    cxr-train calibrate runs/efficientnet-lite0 && cxr-train evaluate runs/efficientnet-lite0

Twelve epochs of 4173 pictures, one to two minutes each on two cores. Expected on the
patient-grouped fold of 1043 (fold 0, seed 0): AUC 0.999, accuracy 0.984 at the balanced point.

Served, it says the mean of the logits of a picture and of its mirror image: docs/MODELS.md has what
that gives, by fold and under a shift.

The stem and five blocks stay as they are: what they know of edges holds for radiographs,
and the backward pass of their large depthwise convolutions is half of a CPU's work. No
class weights: they would move the logits away from the training prevalence, from which
`model` shifts to the site's.
"""

from pathlib import Path
from typing import Any

from dicom_io.preprocess import SIZE
from training import efficientnet_lite
from training.augment import Augmentation
from training.efficientnet_lite import imagenet_checkpoint
from training.recipe import Recipe, Weights

INNER_SIZE_PX = 192
FROZEN_BLOCKS = 5
DROPOUT = 0.3
# Wider than the defaults: another hospital differs by more than the pictures of this one do.
AUGMENTATION = Augmentation(
    rotation_deg=15,
    shift=0.1,
    zoom=0.2,
    shear=0.1,
    brightness=0.2,
    contrast=0.4,
    gamma=0.5,
    blur_chance=0.35,
    blur_sigma_px=2,
    noise_chance=0.3,
    noise_sigma=12,
    corner_chance=0.4,
)


def build(weights: Weights, outputs: int = 1) -> Any:
    model = efficientnet_lite.build(
        size=SIZE, inner_size=INNER_SIZE_PX, outputs=outputs, dropout=DROPOUT
    )
    if weights is not None:
        checkpoint = weights if isinstance(weights, Path) else imagenet_checkpoint()
        efficientnet_lite.load_weights(model, checkpoint)
        efficientnet_lite.freeze(model, FROZEN_BLOCKS)
    return model


RECIPE = Recipe(
    name="efficientnet-lite0",
    build=build,
    epochs=12,
    batch_size=32,
    learning_rate=5e-4,
    warmup_epochs=0.5,
    weight_decay=1e-4,
    settled_on=1024,
    both_sides=True,
    ood_layer=efficientnet_lite.OOD_FEATURES,
    ood_grid=efficientnet_lite.OOD_GRID,
    ood_branch=efficientnet_lite.with_likeness,
    imagenet=efficientnet_lite.IMAGENET,
    augmentation=AUGMENTATION,
)
