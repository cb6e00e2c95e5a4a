"""MobileNetV2 at 224x224, all of it fine-tuned by Adam at 1e-4, dropout, one sigmoid.

    cxr-train fit transfer-224 --data chest_xray --run runs/transfer-224

The plainest transfer of ImageNet's weights: ten epochs of 4173 pictures, 0.3 GFLOP each forward.
Not measured here, where Keras' ImageNet weights cannot be had. The sigmoid is that of the one raw
logit: it is in the loss, and in `model.calibration` once served.
"""

from typing import Any

from training.applications import TO_ONE, backbone, with_head
from training.augment import Augmentation
from training.recipe import Recipe, Weights


def build(weights: Weights) -> Any:
    import keras

    found = backbone("MobileNetV2", weights, rescale=TO_ONE)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(found.features)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    return with_head(found, x, name="transfer-224")


RECIPE = Recipe(
    name="transfer-224",
    build=build,
    epochs=10,
    batch_size=32,
    learning_rate=1e-4,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0,
    ood_layer="block_15_add",
    augmentation=Augmentation.geometric(rotation_deg=10, shift=0.1, zoom=0.1),
)
