"""The network with ImageNet's weights recognises what is on a photograph."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from training import backend, efficientnet_lite
from training.errors import CheckpointError
from training.torch_checkpoint import MAGIC_NUMBER, PROTOCOL_VERSION, read_checkpoint

PALACE, DAISY = 698, 985  # ImageNet-1k classes of scikit-learn's two photographs


@pytest.mark.parametrize(("photograph", "expected"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_imagenet_weights_recognise_a_photograph(photograph: str, expected: int) -> None:
    from sklearn.datasets import load_sample_image

    backend.start()
    import keras

    photo = load_sample_image(photograph)
    side = min(photo.shape[:2])
    top, left = ((length - side) // 2 for length in photo.shape[:2])
    square = photo[top : top + side, left : left + side]
    small = cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32)
    pixels = keras.Input((224, 224, 3))
    features = efficientnet_lite.features(pixels)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    network = keras.Model(pixels, keras.layers.Dense(1000, name="logits")(pooled))
    efficientnet_lite.load_weights(network, efficientnet_lite.imagenet_checkpoint())
    logits = network.predict_on_batch((small[None] - 127) / 128)[0]
    assert int(np.argmax(logits)) == expected


def test_grey_model_keeps_the_weights_and_has_one_logit() -> None:
    backend.start()
    network = efficientnet_lite.build(size=224, outputs=1, dropout=0.2)
    efficientnet_lite.load_weights(network, efficientnet_lite.imagenet_checkpoint())
    efficientnet_lite.freeze(network, 5)
    tensors = read_checkpoint(efficientnet_lite.imagenet_checkpoint())
    assert network.input_shape == (None, 224, 224, 1)
    assert network.output_shape == (None, 1)
    assert network.count_params() == 3_414_305
    depthwise = network.get_layer("block7_depthwise_conv").get_weights()[0]
    expected = tensors["_blocks.7._depthwise_conv.weight"][:, 0]
    np.testing.assert_array_equal(depthwise[:, :, :, 0], expected.transpose(1, 2, 0))
    trainable = {layer.name.split("_")[0] for layer in network.layers if layer.trainable_weights}
    assert "block5" in trainable
    assert not trainable & {"stem", "block0", "block4"}


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch hostile",)


def test_checkpoint_that_carries_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pth"
    parts = [MAGIC_NUMBER, PROTOCOL_VERSION, {}, _Hostile()]
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    with pytest.raises(CheckpointError, match="refused to load"):
        read_checkpoint(path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02", pickle.dumps(1)])
def test_file_that_is_no_checkpoint_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        read_checkpoint(path)


def test_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    whole = efficientnet_lite.imagenet_checkpoint().read_bytes()
    path = tmp_path / "short.pth"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"short\.pth"):
        read_checkpoint(path)
