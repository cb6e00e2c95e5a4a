"""Fits a recipe: one loop, read from top to bottom.

The validation fold chooses the temperature and the operating points, nothing else. A recipe
either ends with the model of the last epoch, or watches a tenth of its training pictures, set
aside by patient, and ends with the best one on those.
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
from training.progress import steps_shown
from training.recipe import Recipe, Weights
from training.run import Run, RunSettings, fold_of, read_log, write_log
from training.split import Split, hold_out
from training.targets import (
    accuracy,
    balanced_weights,
    cross_entropy,
    loss_of,
    served,
    undo_weights,
)
from training.watch import best_epoch, is_over, rate_factor

logger = logging.getLogger(__name__)

SETTLE_BATCH_SIZE = 32
NOTHING = np.empty(0, np.int64)


def fit(recipe: Recipe, dataset: Dataset, run: Run, settings: RunSettings) -> None:
    """Fit on the split that the settings name, resuming where the run's folder stopped.

    Raises NotFinite, naming the step, when the loss is NaN or infinite.
    """
    keras.utils.set_random_seed(settings.seed)
    labels = recipe.target.labels(dataset.files)
    run.begin(settings)
    split = fold_of(dataset, settings)
    inner = inner_split(recipe, dataset, split, settings.seed)
    steps = len(inner.train) // min(recipe.batch_size, len(inner.train))
    class_weight = class_weights_of(recipe, labels[inner.train])

    model = load_checkpoint(run.checkpoint) or compiled(recipe, settings)
    # Rounded: loss scaling skips a step now and then, and a checkpoint is of a whole epoch.
    first_epoch = round(int(model.optimizer.iterations) / steps)
    rows = read_log(run.log)[:first_epoch]

    for epoch in range(first_epoch, settings.epochs):
        watched_losses = [row["watched_loss"] for row in rows] if recipe.watches else []
        if recipe.early_stopping and is_over(watched_losses, recipe.early_stopping):
            logger.info("stopped early: epoch %d was the best", best_epoch(watched_losses) + 1)
            break
        lowered = rate_factor(watched_losses, recipe.plateau) if recipe.plateau else 1.0
        started = time.monotonic()
        reseed_dropout(model, settings.seed, epoch)
        batches = Batches(
            dataset.pixels,
            labels,
            inner.train,
            batch_size=recipe.batch_size,
            seed=settings.seed,
            epoch=epoch,
            augmentation=recipe.augmentation,
        )
        losses = []
        with steps_shown(epoch, settings.epochs, steps) as show:
            for step, (pixels, targets) in enumerate(prefetched(batches)):
                at = epoch + step / steps
                rate = lowered * learning_rate(at, recipe=recipe, epochs=settings.epochs)
                model.optimizer.learning_rate.assign(rate)
                loss = float(model.train_on_batch(pixels, targets, class_weight=class_weight))
                if not math.isfinite(loss):
                    raise NotFinite(f"loss is {loss} at step {step} of epoch {epoch + 1}")
                losses.append(loss)
                model.reset_metrics()  # otherwise train_on_batch returns the mean since the start
                show(step, loss, rate)

        row = {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            **figures(model, dataset, labels, split.validation, "validation"),
            **figures(model, dataset, labels, inner.validation, "watched"),
            "learning_rate": rate,
            "duration_s": time.monotonic() - started,
        }
        logger.info("%s", "  ".join(f"{name} {value:.5g}" for name, value in row.items()))
        rows.append(row)
        write_log(run.log, rows)  # before the checkpoint: a kill in between repeats the epoch
        rows = read_log(run.log)  # as a resumed run reads it
        if recipe.early_stopping and best_epoch([row["watched_loss"] for row in rows]) == epoch:
            save(model, run.best)
        save(model, run.checkpoint)

    if recipe.early_stopping:
        model = load_checkpoint(run.best)
    if recipe.averaging is not None:
        average(model)
    if recipe.settled_on:
        settle(model, dataset.pixels, inner.train, recipe.settled_on, settings.seed)
    if class_weight:
        undo_weights(model, class_weight)
    for older in (run.predictions, run.shifted_predictions, run.calibration):
        older.unlink(missing_ok=True)  # they are of another network
    save(served(model, recipe.target), run.final)


def inner_split(recipe: Recipe, dataset: Dataset, split: Split, seed: int) -> Split:
    """Of the training pictures: what is fitted, and what is watched where the recipe does so."""
    if recipe.watches:
        return hold_out(dataset.files, split.train, seed=seed)
    return Split(train=split.train, validation=NOTHING)


def class_weights_of(recipe: Recipe, labels: NDArray[np.int64]) -> dict[int, float] | None:
    """Weights of the losses by label, where the recipe asks for them."""
    if not recipe.class_weights:
        return None
    return balanced_weights(labels, len(recipe.target.classes))


def compiled(recipe: Recipe, settings: RunSettings) -> Any:
    """Build the recipe's model, in the run's precision, with its optimizer and loss."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(settings.precision)
    try:
        model = recipe.build(parse_weights(settings.weights))
    finally:
        keras.config.set_dtype_policy(before)
    optimizer = keras.optimizers.AdamW(
        recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        use_ema=recipe.averaging is not None,
        ema_momentum=recipe.averaging or 0.99,
    )
    optimizer.build(model.trainable_variables)  # in the first step it would be traced twice
    if settings.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
    # TensorFlow's XLA takes a minute to compile these networks for a CPU and makes none faster.
    with_xla = keras.backend.backend() == "jax"
    model.compile(
        optimizer=optimizer,
        loss=loss_of(recipe.target),
        jit_compile=with_xla,
        auto_scale_loss=False,
    )
    return model


def reseed_dropout(model: Any, seed: int, epoch: int) -> None:
    """Start each epoch from its own random state: a saved model does not keep it."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed, epoch])


def average(model: Any) -> None:
    """Put the optimizer's moving average of the weights in their place."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    optimizer.finalize_variable_values(model.trainable_variables)


def settle(
    model: Any, pixels: NDArray[np.uint8], indices: NDArray[np.int64], count: int, seed: int
) -> None:
    """Take the statistics of the batch norms that were fitted from pictures as they are.

    Those of augmented ones differ: softer pictures look more like pneumonia in this set, and the
    served logits would all be too low by as much (1.9 on fold 0).
    """
    norms = [it for it in model.layers if isinstance(it, keras.layers.BatchNormalization)]
    norms = [it for it in norms if it.trainable]
    kept = [it.momentum for it in norms]
    chosen = np.random.default_rng(seed).permutation(indices)[:count]
    for number, start in enumerate(range(0, len(chosen), SETTLE_BATCH_SIZE)):
        for norm in norms:
            norm.momentum = number / (number + 1)  # the mean of all batches so far
        batch = pixels[chosen[start : start + SETTLE_BATCH_SIZE]]
        model(batch[..., None].astype(np.float32), training=True)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


def load_checkpoint(path: Path) -> Any | None:
    """A model with its optimizer as after a whole epoch, or None."""
    return keras.saving.load_model(path) if path.exists() else None


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
    """Linear warm-up, then the recipe's schedule; `epoch` counts from 0 with fractions."""
    warmup = min(recipe.warmup_epochs, epochs / 2)
    if epoch < warmup:
        return recipe.learning_rate * (0.02 + 0.98 * epoch / warmup)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (epoch - warmup) / (epochs - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def predict(model: Any, pixels: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]:
    """Logits, float32 (n,), of pictures, uint8 (n, size, size), by a network as it is served."""
    return outputs_of(model, pixels, batch_size)[:, 0]


def outputs_of(model: Any, pixels: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]:
    """Raw outputs, float32 (n, outputs), of pictures, uint8 (n, size, size)."""
    outputs = []
    for start in range(0, len(pixels), batch_size):
        batch = pixels[start : start + batch_size][..., None].astype(np.float32)
        outputs.append(model.predict_on_batch(batch))
    return np.concatenate(outputs).astype(np.float32)


def figures(
    model: Any,
    dataset: Dataset,
    labels: NDArray[np.int64],
    indices: NDArray[np.int64],
    name: str,
) -> dict[str, float]:
    """Loss and accuracy of these pictures, for the log; nothing of none."""
    if not len(indices):
        return {}
    outputs = outputs_of(model, dataset.pixels[indices])
    return {
        f"{name}_loss": cross_entropy(outputs, labels[indices]),
        f"{name}_accuracy": accuracy(outputs, labels[indices]),
    }
