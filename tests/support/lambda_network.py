"""A network whose file holds Python code, as a bundle from somebody who means harm would."""

import tempfile
from pathlib import Path

from model.predict import import_tensorflow


def weights_with_code(ran: Path, size: int = 32) -> bytes:
    """A saved network from grey pictures of this size to one logit; it makes a file `ran`."""
    import_tensorflow()
    import keras

    made = str(ran)
    pixels = keras.Input((size, size, 1))
    harm = keras.layers.Lambda(
        lambda x, made: (open(made, "w").close(), x)[1],  # noqa: PTH123 - no import in it
        arguments={"made": made},
    )
    logit = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(harm(pixels)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        keras.Model(pixels, logit).save(path)
        ran.unlink()  # it ran while it was made
        return path.read_bytes()
