"""VGG16 with its last block fine-tuned, global pooling, batch normalisation, 512 and 256 units.

    cxr-train fit vgg16-improved --data chest_xray --run runs/vgg16-improved

At most 20 epochs of 3756 pictures; the tenth that is set aside lowers the rate and stops the run.
Hours on a CPU, minutes on a GPU. Not measured here, where Keras' ImageNet weights cannot be had.
Against `vgg16` it has 15.1 million parameters instead of 27.6: pooling takes the place of the
large dense layer, which is where that one overfits.
"""

from typing import Any

from training.applications import CAFFE, backbone, freeze, with_head
from training.augment import Augmentation
from training.recipe import Recipe, Weights
from training.watch import EarlyStopping, ReduceOnPlateau

FIRST_TRAINED = "block5_conv1"


def build(weights: Weights) -> Any:
    import keras

    found = backbone("VGG16", weights, rescale=CAFFE)
    freeze(found, weights, until=FIRST_TRAINED)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(found.features)
    for units in (512, 256):
        x = keras.layers.BatchNormalization(name=f"bn_{units}")(x)
        x = keras.layers.Dense(units, activation="relu", name=f"dense_{units}")(x)
        x = keras.layers.Dropout(0.5, name=f"dropout_{units}")(x)
    return with_head(found, x, name="vgg16-improved")


RECIPE = Recipe(
    name="vgg16-improved",
    build=build,
    epochs=20,
    batch_size=32,
    learning_rate=1e-4,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0,
    plateau=ReduceOnPlateau(patience=2, factor=0.3),
    early_stopping=EarlyStopping(patience=5),
    ood_layer="block5_pool",
    augmentation=Augmentation.geometric(rotation_deg=20, shift=0.2, shear=0.2, zoom=0.2),
)
