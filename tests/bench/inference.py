"""The shipped bundle: through Predictor beside `model.predict` of one image at a time, and through
an inference worker, from the wake-up in the broker to the rows, beside the bare compiled network.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import arrivals, schema
from db.engine import Database
from db.tables import InstanceState, instances, pixels
from dicom_io import preprocess
from model.bundle import read_bundle, shipped_bundle_path
from model.errors import BundleError
from model.predict import Predictor
from tests.bench import servers
from tests.bench.harness import Failed, Plan, Row, Run, Unavailable, interleave
from tests.support import rows as made
from worker.celery_app import make_app
from worker.notify import send

UNIT = "images/s"
BATCHES = (1, 8, 32)
IMAGES = 128
LOGITS_APART_MAX = 1e-3
PEER = "predict, 1"
PREDICTED_WITHIN_S = 300.0

Images = NDArray[np.uint8]
_WAITS = instances.c.state == InstanceState.PREPARED


def run(plan: Plan) -> list[Row]:
    try:
        bundle = read_bundle(shipped_bundle_path())
    except BundleError as error:
        raise Unavailable(f"no shipped bundle: {error}") from None
    plan.note("inference · loading TensorFlow and the bundle")
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    predictor.warm_up()
    import keras

    network = keras.saving.load_model(bundle.weights_path, compile=False)  # one output or two
    raw = _compiled(network)
    shape = (32 if plan.quick else IMAGES, *bundle.input_shape[:2])
    images = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    _check_parity(predictor, network, images[: max(BATCHES)])
    runs: dict[str, Run] = {
        f"batch {size}": partial(_ours, predictor.logits, images, size) for size in BATCHES
    }
    bare = {f"tf.function, {size}": partial(_ours, raw, images, size) for size in BATCHES[1:]}
    runs |= bare
    runs[PEER] = partial(_peer, network, images)
    with InferenceWorker(plan.folder / "inference", images) as worker:
        runs["worker"] = worker
        worker()  # its first wake-up opens the database
        for size in BATCHES[1:]:
            raw(images[:size])
        series = interleave("inference", runs, plan)
    best = max(bare, key=lambda name: series[name].median)
    return [
        *(
            Row(name=f"model, {name}", unit=UNIT, ours=series[name], peer=PEER, theirs=series[PEER])
            for name in (f"batch {size}" for size in BATCHES)
        ),
        Row(
            name="inference worker, broker to row",
            unit=UNIT,
            ours=series["worker"],
            peer=best,
            theirs=series[best],
        ),
    ]


def _compiled(network: Any) -> Callable[[Images], Any]:
    """The limit: the network alone, compiled, with nothing around it."""
    import tensorflow as tf

    graph = tf.function(lambda pixels: network(tf.cast(pixels, "float32")[..., None]))
    return lambda images: [it.numpy() for it in tf.nest.flatten(graph(tf.constant(images)))]


class InferenceWorker:
    """Real workers on SQLite with an embedded broker; a run times them over prepared rows."""

    def __init__(self, home: Path, images: Images, count: int = 1) -> None:
        self._home = home
        self._count = count
        self._images = images
        self._running = ExitStack()
        self._runs = 0

    def __enter__(self) -> "InferenceWorker":
        self._home.mkdir()
        self._database = Database(f"sqlite:///{self._home / 'cxr.db'}")
        schema.upgrade(self._database)
        role = servers.role(self._home, "inference", self._count)
        url, self.pids = self._running.enter_context(role)
        self._app = make_app(url, publish_only=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
        self._database.dispose()

    def __call__(self) -> float:
        self._runs += 1
        self._write_rows()
        started = time.perf_counter()
        with self._database.begin() as tx:
            tx.conn.execute(sa.update(instances).values(due_at=tx.now).where(_WAITS))
        for _ in range(self._count):
            send(self._app, "infer", "")
        while self._waiting():
            if time.perf_counter() - started > PREDICTED_WITHIN_S:
                raise Failed(f"not predicted within {PREDICTED_WITHIN_S:.0f} s")
            time.sleep(0.02)
        return len(self._images) / (time.perf_counter() - started)

    def _write_rows(self) -> None:
        """Studies of one prepared image each, which are due for nobody yet."""
        with self._database.begin() as tx:
            for number in range(len(self._images)):
                uid = f"1.2.{self._runs}.{number}"
                new = made.arrival(uid, f"{uid}.1")
                arrivals.record_arrival(tx, new, settle_s=3600, max_age_days=7)
            fresh = instances.c.state == InstanceState.RECEIVED
            ids = tx.conn.execute(sa.select(instances.c.id).where(fresh)).scalars().all()
            prepared = {"state": InstanceState.PREPARED, "due_at": None}
            tx.conn.execute(sa.update(instances).where(fresh).values(prepared))
            rows, columns = self._images.shape[1:]
            version = preprocess.VERSION
            tx.conn.execute(
                sa.insert(pixels),
                [
                    {
                        "instance_id": id_,
                        "preprocess_version": version,
                        "rows": rows,
                        "columns": columns,
                        "data": image.tobytes(),
                    }
                    for id_, image in zip(ids, self._images, strict=True)
                ],
            )

    def _waiting(self) -> int:
        with self._database.read() as tx:
            query = sa.select(sa.func.count()).select_from(instances).where(_WAITS)
            return int(tx.conn.execute(query).scalar_one())


def _check_parity(predictor: Predictor, network: Any, images: Images) -> None:
    predicted = network.predict(_as_input(images), batch_size=1, verbose=0)
    expected = (predicted[0] if isinstance(predicted, list) else predicted)[:, 0]
    apart = float(np.max(np.abs(predictor.logits(images) - expected)))
    if not apart <= LOGITS_APART_MAX:
        raise Failed(f"inference: logits are {apart:.2g} from those of model.predict")


def _ours(predict: Callable[[Images], Any], images: Images, size: int) -> float:
    started = time.perf_counter()
    for start in range(0, len(images), size):
        predict(images[start : start + size])
    return len(images) / (time.perf_counter() - started)


def _peer(network: Any, images: Images) -> float:
    started = time.perf_counter()
    for start in range(len(images)):
        network.predict(_as_input(images[start : start + 1]), verbose=0)
    return len(images) / (time.perf_counter() - started)


def _as_input(images: Images) -> NDArray[np.float32]:
    return images[..., None].astype(np.float32)
