"""Pictures of the report: which are chosen, and what is drawn over them."""

import base64

import cv2
import numpy as np

from model.bands import BandLimits
from model.evaluation.cases import Cases, Rule
from model.evaluation.report import evaluate
from training.dataset import Dataset
from training.gallery import looked_at, mistakes, overlay, saliency_of
from training.recipe import Recipe

RULE = Rule(
    temperature=1.0,
    thresholds={"rule_out": -1.0, "balanced": 0.0, "rule_in": 1.0},
    limits=BandLimits(review_from=0.25, positive_from=0.75),
)


def cases_of(dataset: Dataset) -> Cases:
    """The first of each class is a mistake."""
    labels = dataset.labels
    logits = np.where(labels == 1, 3.0, -3.0) + np.linspace(0, 1, len(labels))
    logits[[0, np.argmax(labels)]] *= -1
    return Cases(
        names=dataset.names,
        patients=dataset.names,
        labels=labels,
        logits=logits,
        rules=[RULE],
        folds=np.zeros(len(labels), dtype=np.int64),
    )


def decoded(address: str) -> np.ndarray:
    _, _, data = address.partition("base64,")
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return np.asarray(picture)


def test_mistakes_are_shown_as_the_network_sees_them(dataset: Dataset) -> None:
    missed, alarms = mistakes(dataset, evaluate(cases_of(dataset)))
    first = dataset.names.index(next(name for name in dataset.names if "PNEUMONIA" in name))
    (picture,) = missed.pictures
    assert picture.caption[0] in dataset.names[first]
    apart = np.abs(decoded(picture.address).astype(float) - dataset.pixels[first])
    assert apart.mean() < 10
    assert len(alarms.pictures) == 1


def test_grad_cam_is_of_both_classes_from_one_end_to_the_other(
    dataset: Dataset, tiny_recipe: Recipe
) -> None:
    saliency = saliency_of(tiny_recipe.build(None))
    assert saliency is not None
    cases = cases_of(dataset)
    gallery = looked_at(dataset, cases, saliency)
    assert len(gallery.pictures) == 12
    assert decoded(gallery.pictures[0].address).shape == (224, 224, 3)
    highest = max(
        (i for i in range(len(cases.names)) if cases.labels[i] == 0), key=lambda i: cases.logits[i]
    )
    assert gallery.pictures[0].caption[0] in cases.names[highest]


def test_heat_is_red_and_its_absence_leaves_the_picture() -> None:
    picture = np.full((2, 2), 100, np.uint8)
    heat = np.array([[0, 1], [0, 0]], np.float32)
    drawn = overlay(picture, heat)
    assert (drawn[0, 0] == 100).all()
    blue, _, red = drawn[0, 1].tolist()
    assert red > 130 > blue
