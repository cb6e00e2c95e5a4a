"""Starts whichever Keras backend is chosen, quietly and with a limit of threads."""

import os

DEFAULT_BACKEND = "tensorflow"  # JAX and PyTorch train too: docs/MODELS.md


def start(threads: int | None = None) -> str:
    """Import Keras and return its backend's name; to be called before any training module.

    threads: of the CPU; honoured with the TensorFlow backend, and for OpenCV.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", DEFAULT_BACKEND)
    import cv2

    if threads is not None:
        cv2.setNumThreads(threads)
        if os.environ["KERAS_BACKEND"] == "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
    import keras

    return str(keras.backend.backend())
