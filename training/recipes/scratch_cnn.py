"""A small network from random weights: four convolutions at 150x150 grey, 1,995,649 parameters.

    cxr-train fit scratch-cnn --data chest_xray --weights none --run runs/scratch-cnn

Fifteen epochs of 4173 pictures, batches of 32, Adam at 1e-6, as published: four minutes each on two
cores. Expected on the patient-grouped fold of 1043 (fold 0, seed 0): AUC 0.958, accuracy 0.886 at
the balanced point, ECE 0.10.

Convolutions of 32, 64, 128 and 256 channels, 3x3 without padding, each with batch normalisation and
2x2 pooling, leave 7x7x256; with 128 dense units that is the published number of parameters.
"""

from typing import Any

from training.applications import grey_input
from training.augment import Augmentation
from training.errors import RecipeError
from training.recipe import Recipe, Weights
from training.targets import LOGITS

SIZE_PX = 150
CHANNELS = (32, 64, 128, 256)


def build(weights: Weights) -> Any:
    import keras

    if weights is not None:
        raise RecipeError("scratch-cnn starts from random weights: pass --weights none")
    pixels, x = grey_input(SIZE_PX)
    x = keras.layers.Rescaling(1 / 255, name="scale")(x)
    for channels in CHANNELS:
        x = keras.layers.Conv2D(channels, 3, activation="relu", name=f"conv_{channels}")(x)
        x = keras.layers.BatchNormalization(name=f"bn_{channels}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{channels}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(128, activation="relu", name="dense")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    logits = keras.layers.Dense(1, dtype="float32", name=LOGITS)(x)
    return keras.Model(pixels, logits, name="scratch-cnn")


RECIPE = Recipe(
    name="scratch-cnn",
    build=build,
    epochs=15,
    batch_size=32,
    learning_rate=1e-6,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0,
    ood_layer=f"pool_{CHANNELS[-1]}",
    augmentation=Augmentation.geometric(rotation_deg=30, shift=0.1, zoom=0.2),
)
