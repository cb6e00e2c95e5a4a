"""More classes, or weighted ones, come down to one logit that is true to the prevalence."""

from pathlib import Path

import numpy as np
import pytest

from training import backend
from training.dataset import ImageFile
from training.errors import DatasetError
from training.targets import (
    TWO_CLASSES,
    TYPES,
    accuracy,
    balanced_weights,
    cross_entropy,
    log_probabilities,
    served,
    undo_weights,
)


def file(name: str, label: int) -> ImageFile:
    return ImageFile(path=Path(name), name=name, label=label, sha256=name)


def test_file_name_tells_the_type() -> None:
    files = [
        file("NORMAL/IM-0115-0001.jpeg", 0),
        file("PNEUMONIA/person1_bacteria_2.jpeg", 1),
        file("PNEUMONIA/person1_virus_6.jpeg", 1),
    ]
    assert TYPES.labels(files).tolist() == [0, 1, 2]
    assert TWO_CLASSES.labels(files).tolist() == [0, 1, 1]


def test_pneumonia_without_a_type_is_refused() -> None:
    with pytest.raises(DatasetError, match="no bacteria or virus"):
        TYPES.labels([file("Mass/patient-1/00000001_000.png", 1)])


@pytest.mark.parametrize("outputs", [1, 3])
def test_served_logit_is_the_probability_of_not_normal(outputs: int) -> None:
    backend.start()
    import keras

    pixels = keras.Input((4,))
    network = keras.Model(pixels, keras.layers.Dense(outputs, name="logits")(pixels))
    inputs = np.random.default_rng(0).normal(0, 3, (20, 4)).astype(np.float32)
    probabilities = np.exp(log_probabilities(network.predict_on_batch(inputs)))
    logit = served(network, TYPES if outputs == 3 else TWO_CLASSES).predict_on_batch(inputs)
    assert logit.shape == (20, 1)
    expected = 1 - probabilities[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logit[:, 0])), expected, atol=1e-5)


def test_figures_are_those_done_by_hand() -> None:
    outputs = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], np.float32))
    labels = np.array([0, 1])
    assert cross_entropy(outputs, labels) == pytest.approx(-(np.log(0.5) + np.log(0.2)) / 2)
    assert accuracy(outputs, labels) == 0.5
    binary = np.array([[2.0], [-1.0]], np.float32)
    expected = np.mean(np.logaddexp(0, binary[:, 0]) - binary[:, 0] * [1, 0])
    assert cross_entropy(binary, np.array([1, 0])) == pytest.approx(expected)


@pytest.mark.parametrize("class_count", [2, 3])
def test_weighted_training_ends_with_the_prevalence_of_the_data(class_count: int) -> None:
    """Bayes by hand: logits that fit weighted losses are those of equally frequent classes."""
    backend.start()
    import keras

    labels = np.repeat(np.arange(class_count), [70, 20, 10][:class_count])
    pixels = keras.Input((1,))
    outputs = 1 if class_count == 2 else class_count
    network = keras.Model(pixels, keras.layers.Dense(outputs, name="logits")(pixels))
    network.get_layer("logits").set_weights([np.zeros((1, outputs)), np.zeros(outputs)])
    undo_weights(network, balanced_weights(labels, class_count))
    probabilities = np.exp(log_probabilities(network.predict_on_batch(np.zeros((1, 1)))))
    expected = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(probabilities[0], expected, atol=1e-6)
