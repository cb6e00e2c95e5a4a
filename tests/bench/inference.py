"""The shipped bundle through Predictor, beside Keras' own `predict` of one image at a time."""

import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_io import preprocess
from model.bundle import read_bundle, shipped_bundle_path
from model.errors import BundleError
from model.predict import Predictor
from tests.bench.harness import Failed, Plan, Row, Run, Unavailable, interleave

UNIT = "images/s"
BATCHES = (1, 8, 32)
IMAGES = 64
LOGITS_APART_MAX = 1e-3
PEER = "predict, 1"

Images = NDArray[np.uint8]


def run(plan: Plan) -> list[Row]:
    try:
        bundle = read_bundle(shipped_bundle_path())
    except BundleError as error:
        raise Unavailable(f"no shipped bundle: {error}") from None
    plan.note("inference · loading TensorFlow and the bundle")
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    predictor.warm_up(BATCHES)
    import keras

    network = keras.saving.load_model(bundle.weights_path, compile=False)
    shape = (32 if plan.quick else IMAGES, *bundle.input_shape[:2])
    images = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    _check_parity(predictor, network, images[: max(BATCHES)])
    runs: dict[str, Run] = {
        f"batch {size}": partial(_ours, predictor, images, size) for size in BATCHES
    }
    series = interleave("inference", {**runs, PEER: partial(_peer, network, images)}, plan)
    return [
        Row(
            name=f"model, {batch}",
            unit=UNIT,
            ours=series[batch],
            peer=PEER,
            theirs=series[PEER],
        )
        for batch in runs
    ]


def _check_parity(predictor: Predictor, network: Any, images: Images) -> None:
    expected = network.predict(_as_input(images), batch_size=1, verbose=0)[:, 0]
    apart = float(np.max(np.abs(predictor.logits(images) - expected)))
    if not apart <= LOGITS_APART_MAX:
        raise Failed(f"inference: logits are {apart:.2g} from those of model.predict")


def _ours(predictor: Predictor, images: Images, size: int) -> float:
    started = time.perf_counter()
    for start in range(0, len(images), size):
        predictor.logits(images[start : start + size])
    return len(images) / (time.perf_counter() - started)


def _peer(network: Any, images: Images) -> float:
    started = time.perf_counter()
    for start in range(len(images)):
        network.predict(_as_input(images[start : start + 1]), verbose=0)
    return len(images) / (time.perf_counter() - started)


def _as_input(images: Images) -> NDArray[np.float32]:
    return images[..., None].astype(np.float32)
