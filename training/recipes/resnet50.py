"""ResNet50, its early layers frozen, with flips, rotations, dropout and early stopping.

    cxr-train fit resnet50 --data chest_xray --run runs/resnet50

At most 30 epochs of 3756 pictures, 4 GFLOP each forward; it stops five epochs after the best one
on the tenth that is set aside. Not measured here, where Keras' ImageNet weights cannot be had.
"""

from typing import Any

from training.applications import CAFFE, backbone, freeze, with_head
from training.augment import Augmentation
from training.recipe import Recipe, Weights
from training.watch import EarlyStopping

FIRST_TRAINED = "conv4_block1_1_conv"


def build(weights: Weights) -> Any:
    import keras

    found = backbone("ResNet50", weights, rescale=CAFFE)
    freeze(found, weights, until=FIRST_TRAINED)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(found.features)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    return with_head(found, x, name="resnet50")


RECIPE = Recipe(
    name="resnet50",
    build=build,
    epochs=30,
    batch_size=32,
    learning_rate=1e-4,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0,
    early_stopping=EarlyStopping(patience=5),
    ood_layer="conv3_block4_out",
    augmentation=Augmentation.geometric(rotation_deg=15),
)
