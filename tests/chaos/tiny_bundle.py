"""A bundle with a network so small that chaos spends its time elsewhere; all else is as shipped.

python -m tests.chaos.tiny_bundle FOLDER
"""

import json
import sys
from pathlib import Path

from dicom_io import preprocess
from model.predict import import_tensorflow
from tests.model.conftest import CHANNELS, SCORER, manifest_document


def make(folder: Path) -> None:
    """Write it. Loads TensorFlow, so let it be a process of its own."""
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(3)
    size = int(preprocess.parameters()["size"])
    pixels = keras.Input((size, size, 1))
    scaled = keras.layers.Rescaling(1 / 128, offset=-1)(pixels)
    small = keras.layers.AveragePooling2D(8)(scaled)
    spread = keras.layers.Conv2D(CHANNELS, 3, activation="relu", name="spread")(small)
    logit = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(spread))
    folder.mkdir(parents=True)
    keras.Model(pixels, logit).save(folder / "model.keras")
    manifest = manifest_document(
        (folder / "model.keras").read_bytes(), SCORER.save(folder / "ood.npz")
    )
    manifest["input_shape"] = [size, size, 1]
    manifest["preprocess"] = {
        "version": preprocess.VERSION,
        "parameters": preprocess.parameters(),
    }
    manifest["ood"] |= {"limit": 1e6, "far_limit": 1e7}
    (folder / "manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
