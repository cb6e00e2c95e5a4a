"""`python -m tests.bench.recipes`: images/s of every recipe's network, as it is served.

Random weights, which cost the same; eight pictures at once through a compiled graph, on all cores;
the networks take turns.
"""

import statistics
import sys
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dicom_io.preprocess import SIZE
from model.predict import import_tensorflow
from training import recipe as recipes
from training.networks import as_served

BATCH = 8
ROUNDS = 5


def main() -> int:
    tf = import_tensorflow()
    grey = np.random.default_rng(0).uniform(0, 255, (BATCH, SIZE, SIZE, 1))
    pictures = tf.constant(grey, tf.float32)
    graphs = {name: _graph(tf, name) for name in recipes.names()}
    seconds: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS + 1):
        for name, graph in graphs.items():
            started = time.perf_counter()
            graph(pictures)
            seconds[name].append(time.perf_counter() - started)
    table = Table("recipe", "images/s", title="networks as they are served")
    for name, took in seconds.items():  # the first call compiles
        table.add_row(name, f"{BATCH / statistics.median(took[1:]):.1f}")
    Console().print(table)
    return 0


def _graph(tf: Any, name: str) -> Any:
    recipe = recipes.find(name)
    network = as_served(recipe.build(None), recipe)
    return tf.function(lambda pictures: network(pictures, training=False))


if __name__ == "__main__":
    sys.exit(main())
