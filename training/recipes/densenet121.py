"""DenseNet121 fine-tuned as CheXNet was: batches of 16, the rate cut by ten at each plateau.

    cxr-train fit densenet121 --data chest_xray --run runs/densenet121

At most 20 epochs of 3756 pictures, 2.9 GFLOP each forward; the tenth that is set aside lowers the
rate and stops the run. Not measured here, where Keras' ImageNet weights cannot be had.
After Rajpurkar et al., arXiv:1711.05225 (2017): Adam at 1e-3, random flips, best epoch kept.
"""

from typing import Any

from training.applications import STANDARDISED, backbone, with_head
from training.augment import Augmentation
from training.recipe import Recipe, Weights
from training.watch import EarlyStopping, ReduceOnPlateau


def build(weights: Weights) -> Any:
    import keras

    found = backbone("DenseNet121", weights, rescale=STANDARDISED)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(found.features)
    return with_head(found, x, name="densenet121")


RECIPE = Recipe(
    name="densenet121",
    build=build,
    epochs=20,
    batch_size=16,
    learning_rate=1e-3,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0,
    plateau=ReduceOnPlateau(patience=1, factor=0.1),
    early_stopping=EarlyStopping(patience=4),
    ood_layer="pool4_pool",
    augmentation=Augmentation.geometric(),
)
