"""Fits a recipe: one loop, read from top to bottom.

The run ends with the model of the last epoch, not with the best one: nothing is chosen by
the validation fold but the temperature and the operating points.
"""

import logging
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.batches import Batches, prefetched
from training.dataset import Dataset
from training.errors import NotFinite
from training.recipe import Recipe, Weights
from training.run import Run, RunSettings, fold_of, read_log, write_log

logger = logging.getLogger(__name__)

LOG_EVERY_STEPS = 10


def fit(recipe: Recipe, dataset: Dataset, run: Run, settings: RunSettings) -> None:
    """Fit on the split that the settings name, resuming where the run's folder stopped.

    Raises NotFinite, naming the step, when the loss is NaN or infinite.
    """
    keras.utils.set_random_seed(settings.seed)
    run.begin(settings)
    split = fold_of(dataset, settings)
    labels = dataset.labels
    steps = len(split.train) // min(recipe.batch_size, len(split.train))
    class_weight = balanced_weights(labels[split.train]) if recipe.class_weights else None

    model = load_checkpoint(run) or compiled(recipe, parse_weights(settings.weights))
    first_epoch = int(model.optimizer.iterations) // steps
    rows = read_log(run.log)[:first_epoch]

    for epoch in range(first_epoch, settings.epochs):
        started = time.monotonic()
        reseed_dropout(model, settings.seed, epoch)
        batches = Batches(
            dataset.pixels,
            labels,
            split.train,
            batch_size=recipe.batch_size,
            seed=settings.seed,
            epoch=epoch,
            augmentation=recipe.augmentation,
        )
        losses = []
        for step, (pixels, targets) in enumerate(prefetched(batches)):
            at = epoch + step / steps
            rate = learning_rate(at, recipe=recipe, epochs=settings.epochs)
            model.optimizer.learning_rate.assign(rate)
            loss = float(model.train_on_batch(pixels, targets, class_weight=class_weight))
            if not math.isfinite(loss):
                raise NotFinite(f"loss is {loss} at step {step} of epoch {epoch + 1}")
            losses.append(loss)
            model.reset_metrics()  # otherwise train_on_batch returns the mean since the start
            if step % LOG_EVERY_STEPS == 0:
                logger.info(
                    "epoch %d/%d step %d/%d loss %.4f learning rate %.2g",
                    *(epoch + 1, settings.epochs, step + 1, steps, loss, rate),
                )

        logits = predict(model, dataset.pixels[split.validation])
        row = {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            "validation_loss": log_loss(logits, labels[split.validation]),
            "validation_accuracy": float(np.mean((logits > 0) == labels[split.validation])),
            "learning_rate": rate,
            "duration_s": time.monotonic() - started,
        }
        rows.append(row)
        save(model, run.checkpoint)
        write_log(run.log, rows)
        logger.info("%s", "  ".join(f"{name} {value:.5g}" for name, value in row.items()))

    save(model, run.final)


def compiled(recipe: Recipe, weights: Weights) -> Any:
    """Build the recipe's model with its optimizer and loss."""
    model = recipe.build(weights)
    optimizer = keras.optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay)
    optimizer.build(model.trainable_variables)  # in the first step it would be traced twice
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    # TensorFlow's XLA takes a minute to compile these networks for a CPU and makes none faster.
    with_xla = keras.backend.backend() == "jax"
    model.compile(optimizer=optimizer, loss=loss, jit_compile=with_xla)
    return model


def reseed_dropout(model: Any, seed: int, epoch: int) -> None:
    """Start each epoch from its own random state: a saved model does not keep it."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed, epoch])


def load_checkpoint(run: Run) -> Any | None:
    """The model with its optimizer as after the last whole epoch, or None."""
    return keras.saving.load_model(run.checkpoint) if run.checkpoint.exists() else None


def save(model: Any, path: Path) -> None:
    """Save whole or not at all: a kill in between leaves the older file."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    model.save(unfinished)
    unfinished.replace(path)


def parse_weights(text: str | None) -> Weights:
    """The settings' plain text as the recipe takes it."""
    if text is None:
        return None
    return "imagenet" if text == "imagenet" else Path(text)


def learning_rate(epoch: float, *, recipe: Recipe, epochs: int) -> float:
    """Linear warm-up, then a cosine to zero; `epoch` counts from 0 with fractions."""
    warmup = min(recipe.warmup_epochs, epochs / 2)
    if epoch < warmup:
        return recipe.learning_rate * (0.02 + 0.98 * epoch / warmup)
    done = (epoch - warmup) / (epochs - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def balanced_weights(labels: NDArray[np.int64]) -> dict[int, float]:
    """Weights under which both classes count the same."""
    counts = np.bincount(labels, minlength=2)
    return {label: len(labels) / (2 * int(count)) for label, count in enumerate(counts)}


def predict(model: Any, pixels: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]:
    """Logits, float32 (n,), of pictures, uint8 (n, size, size)."""
    logits = []
    for start in range(0, len(pixels), batch_size):
        batch = pixels[start : start + batch_size][..., None].astype(np.float32)
        logits.append(model.predict_on_batch(batch)[:, 0])
    return np.concatenate(logits).astype(np.float32)


def log_loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean binary cross-entropy of logits."""
    return float(np.mean(np.logaddexp(0, logits) - logits * labels))
