"""Runs a bundle's network. The only module of this package that loads TensorFlow."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.errors import BundleError, ModelError
from model.ood import OOD_FILE, OodScorer
from model.saliency import last_spatial_outputs, scaled, with_maps

# Two pictures keep a core busy: more at once take as long each, and 17 MB each.
CPU_BATCH_PER_CORE = 2
CPU_BATCH_MAX = 8
# A GPU looks for the best kernels anew for each size: others are filled up.
GPU_BATCH_SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Of n pictures: raw logits, float32 (n,), out-of-distribution scores, float64 (n,).

    saliency: float32 (n, r, c) in [0, 1] on the last spatial layer's grid, coarser than the
    picture (`model.saliency.at_picture_scale` enlarges it); None where it is off, or the network
    has no such layer.
    """

    logits: NDArray[np.float32]
    ood_scores: NDArray[np.float64]
    saliency: NDArray[np.float32] | None = None


class Predictor:
    """A loaded network.

    preprocess_version: of the preprocessing that makes the pictures. threads: limit of CPU
    threads, else TensorFlow's choice; it holds for the process and must come before
    TensorFlow's first use in it. saliency: off saves next to nothing.

    Raises BundleError when the weights are not those of the manifest, when the bundle was
    made for other preprocessing, or when the file holds no model of that shape; ModelError
    when TensorFlow is not installed or already started with other threads.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        preprocess_version: int,
        threads: int | None = None,
        saliency: bool = True,
    ) -> None:
        if bundle.preprocess_version != preprocess_version:
            raise BundleError(
                f"bundle {bundle.name}-{bundle.version} was made with preprocessing version "
                f"{bundle.preprocess_version}, this program has version {preprocess_version}: use "
                "the bundle that came with this program, or make one with `cxr-train export`"
            )
        bundle.check_weights()
        self._scorer = OodScorer.load(bundle.path / OOD_FILE, bundle.ood.sha256)
        self.bundle = bundle
        self._tf = import_tensorflow(threads)
        has_gpu = bool(self._tf.config.list_physical_devices("GPU"))
        self._batch_sizes = GPU_BATCH_SIZES if has_gpu else _cpu_batch_sizes(threads)
        network = _load(bundle)
        spatial = last_spatial_outputs(network) if saliency else []
        self._bodies = len(spatial)
        self._model = _with_outputs(network, bundle, self._scorer.mean.size, spatial)
        # One graph for every batch size: one for each takes as much time and memory again and is
        # no faster.
        pixels = self._tf.TensorSpec([None, *bundle.input_shape[:2]], "uint8")
        self._graph = self._tf.function(
            self._outputs if spatial else self._plain_outputs, input_signature=[pixels]
        )

    def warm_up(self) -> None:
        """Trace the graph and run it at every batch size, so that no later call waits for it."""
        for size in self._batch_sizes:
            self.logits(np.zeros((size, *self.bundle.input_shape[:2]), np.uint8))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits alone; takes and raises what `predict` does."""
        return self.predict(images).logits

    def predict(self, images: NDArray[np.uint8]) -> Outputs:
        """Run the network once over preprocessed pictures, uint8 (n, rows, columns).

        Any n is taken. Raises ValueError on another dtype or size.
        """
        size = self.bundle.input_shape[:2]
        if images.dtype != np.uint8 or images.shape[1:] != size:
            raise ValueError(f"expected uint8 (n, {size}), got {images.dtype} {images.shape}")
        step = self._batch_sizes[-1]
        parts = [self._batch(images[i : i + step]) for i in range(0, len(images), step)]
        if not parts:
            return Outputs(logits=np.empty(0, np.float32), ood_scores=np.empty(0))
        logits, features, *maps = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Outputs(
            logits=logits[:, 0],
            ood_scores=self._scorer.scores(features),
            saliency=scaled(maps[0]) if maps else None,
        )

    def _batch(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        count = len(images)
        size = next(size for size in self._batch_sizes if size >= count)
        filled = np.zeros((size, *images.shape[1:]), np.uint8)
        filled[:count] = images
        outputs = self._graph(self._tf.constant(filled))
        return [part.numpy()[:count].astype(np.float32) for part in outputs]

    def _plain_outputs(self, pixels: Any) -> tuple[Any, ...]:
        return tuple(self._model(self._tf.cast(pixels, "float32")[..., None], training=False))

    def _outputs(self, pixels: Any) -> tuple[Any, ...]:
        grey = self._tf.cast(pixels, "float32")[..., None]
        return tuple(with_maps(self._tf, self._model, grey, self._bodies))


def _cpu_batch_sizes(threads: int | None) -> tuple[int, ...]:
    return tuple(range(1, min(CPU_BATCH_PER_CORE * (threads or _cores()), CPU_BATCH_MAX) + 1))


def _cores() -> int:
    """Those that this process may use, which are those that TensorFlow takes."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def import_tensorflow(threads: int | None = None) -> Any:
    """Import TensorFlow without its start-up chatter, as Keras' backend.

    Raises ModelError when it is missing, or too late to set the threads.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        with _as_if_missing("matplotlib", "sklearn"):
            import tensorflow as tf
    except ImportError as error:
        raise ModelError(
            "TensorFlow is not installed: run `pip install 'cxr-worker[cpu]'` "
            "(or [gpu] on a machine with an NVIDIA GPU)"
        ) from error
    tf.get_logger().setLevel("ERROR")  # it takes the traces of the batch sizes for a mistake
    if threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise ModelError("TensorFlow has started already: threads cannot be set") from error
    return tf


@contextmanager
def _as_if_missing(*packages: str) -> Iterator[None]:
    """What is not loaded yet is not found in here.

    Keras loads what it could draw with or be wrapped for, wherever that is installed (beside the
    training package, it is): 60 MB of a process that does neither.
    """
    hidden = [name for name in packages if name not in sys.modules]
    absent: Any = None  # as the import system marks it
    sys.modules.update(dict.fromkeys(hidden, absent))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def with_features(network: Any, layer: str, grid: int) -> Any:
    """A keras.Model that also gives a layer's means over grid x grid regions.

    The second output is (n, grid * grid * channels), region after region. Regions of a side that
    the grid does not divide differ by one. Raises ModelError when there is no such layer with a
    spatial layout of at least that size.
    """
    import keras

    try:
        output = network.get_layer(layer).output
        _, rows, columns, channels = output.shape
        of_rows, of_columns = (_region_means(size, grid) for size in (rows, columns))
    except ValueError as error:
        raise ModelError(
            f"the network has no layer {layer!r} with a spatial layout of {grid} x {grid} or more"
        ) from error

    def means(activations: Any) -> Any:
        pooled = keras.ops.einsum("gr,nrck,hc->nghk", of_rows, activations, of_columns)
        return keras.ops.reshape(pooled, (-1, grid * grid * channels))

    # One layer with a name: Keras numbers operations, and a loaded network may have those numbers.
    features = keras.layers.Lambda(means, name="region_means")(output)
    return keras.Model(network.input, [network.outputs[0], features])


def _region_means(size: int, grid: int) -> NDArray[np.float32]:
    """The matrix (grid, size) that takes the means of `grid` regions along one side."""
    if not 1 <= grid <= size:
        raise ValueError(f"{grid} regions of {size}")
    edges = [round(index * size / grid) for index in range(grid + 1)]
    means = np.zeros((grid, size), np.float32)
    for region, (start, end) in enumerate(pairwise(edges)):
        means[region, start:end] = 1 / (end - start)
    return means


def _load(bundle: Bundle) -> Any:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ModelError(f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow")
    try:
        network = keras.saving.load_model(bundle.weights_path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{bundle.weights_path} cannot be loaded: {error}") from error
    expected = (None, *bundle.input_shape)
    logit = network.outputs[0].shape  # a second output is what the score is made of
    if network.input_shape != expected or logit != (None, 1):
        raise BundleError(
            f"{bundle.weights_path} maps {network.input_shape} to {logit}, "
            f"expected {expected} to (None, 1)"
        )
    return network


def _with_outputs(network: Any, bundle: Bundle, feature_count: int, spatial: list[Any]) -> Any:
    """The network with the outputs logit, features and these."""
    import keras

    try:
        model = with_features(network, bundle.ood.layer, bundle.ood.grid)
    except ModelError as error:
        raise BundleError(f"{bundle.weights_path}: {error}") from error
    if model.output_shape[1] != (None, feature_count):
        raise BundleError(
            f"{bundle.path / OOD_FILE} is for {feature_count} features, but {bundle.ood.layer} "
            f"gives {model.output_shape[1][-1]}"
        )
    return keras.Model(network.input, [*model.outputs, *spatial])
