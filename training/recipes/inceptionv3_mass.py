"""InceptionV3 at 256x256 for one finding of a CSV table, such as Mass: Dense 1024, Dropout 0.2.

    cxr-train fit inceptionv3-mass --csv Data_Entry_2017.csv --images images --positive Mass \\
        --run runs/inceptionv3-mass

Twenty epochs of the four fifths of the patients that --folds 5 fits (80/20 by patient). Not
measured here: neither the NIH set nor Keras' ImageNet weights can be had. The backbone is frozen.
A mass is rare (5 % of the NIH images), so losses are weighed by class.

The picture is the worker's, 224x224, enlarged to 256x256 inside the graph. A bundle whose finding
is not pneumonia can be evaluated, but the worker refuses it: its reports speak of pneumonia.
"""

from typing import Any

from training.applications import TO_ONE, backbone, freeze, with_head
from training.augment import Augmentation
from training.recipe import Recipe, Weights

SIZE_PX = 256


def build(weights: Weights) -> Any:
    import keras

    found = backbone("InceptionV3", weights, rescale=TO_ONE, size=SIZE_PX)
    freeze(found, weights)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(found.features)
    x = keras.layers.Dense(1024, activation="relu", name="dense")(x)
    x = keras.layers.Dropout(0.2, name="dropout")(x)
    return with_head(found, x, name="inceptionv3-mass")


RECIPE = Recipe(
    name="inceptionv3-mass",
    build=build,
    epochs=20,
    batch_size=32,
    learning_rate=1e-4,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0,
    class_weights=True,
    ood_layer="mixed7",
    augmentation=Augmentation.geometric(rotation_deg=10, shift=0.05, zoom=0.1),
)
