"""VGG16 as a frozen feature extractor: Flatten, Dense 512, Dropout 0.5. The tutorials' recipe.

    cxr-train fit vgg16 --data chest_xray --run runs/vgg16

Ten epochs of 4173 pictures; 15 GFLOP a picture, so hours on a CPU and minutes on a GPU. Not
measured here, where Keras' ImageNet weights cannot be had. 27.6 million parameters, of which 12.8
million in the first dense layer are fitted: expect it to overfit sooner than the pooled form,
`vgg16-improved`.

Rotation 20 degrees, shifts, shear and zoom 0.2, horizontal flip, and nothing else, as published.
"""

from typing import Any

from training.applications import CAFFE, backbone, freeze, with_head
from training.augment import Augmentation
from training.recipe import Recipe, Weights


def build(weights: Weights) -> Any:
    import keras

    found = backbone("VGG16", weights, rescale=CAFFE)
    freeze(found, weights)
    x = keras.layers.Flatten(name="flatten")(found.features)
    x = keras.layers.Dense(512, activation="relu", name="dense")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    return with_head(found, x, name="vgg16")


RECIPE = Recipe(
    name="vgg16",
    build=build,
    epochs=10,
    batch_size=32,
    learning_rate=1e-4,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0,
    ood_layer="block5_pool",
    augmentation=Augmentation.geometric(rotation_deg=20, shift=0.2, shear=0.2, zoom=0.2),
)
