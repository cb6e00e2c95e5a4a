"""The worker roles as processes: `dicom` (prepare, report, deliver, reconcile) and `inference`.

The dicom role is two processes: the reconciler, which holds database connections in a thread,
and beside it Celery's prefork worker, which must not have any when it forks.
"""

import gc
import os
import socket
import sys
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import worker_process_init, worker_process_shutdown, worker_ready

from db import destinations, schema
from db.engine import Database
from model.errors import ModelError
from worker import log, reconcile
from worker.celery_app import DICOM_QUEUE, INFERENCE_QUEUE, make_app
from worker.settings import Settings
from worker.supervisor import Child, end_with_parent, stop_event, watch

if TYPE_CHECKING:
    from worker.challenger import Challenger

# A child's pictures are of 10 MB and more, and glibc would keep 30 MB of them for later. Given back
# at once, and taken anew in large pages, they cost hardly more time.
GIVES_MEMORY_BACK = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=1048576"
    ":glibc.malloc.hugetlb=1"
}

_log = log.get("work")


def run_dicom(settings: Settings, concurrency: int) -> int:
    """Reconcile, and keep the Celery worker of the dicom queue alive beside it."""
    database = Database(settings.database)
    schema.require_current(database)
    with database.begin() as tx:
        destinations.apply_settings(tx, [it.name for it in settings.recipients if it.hold])
    stop = stop_event()
    argv = [sys.executable, "-m", "worker.roles", str(concurrency)]
    # What whoever installs it has set for glibc is kept.
    celery = Child("celery", argv, {**GIVES_MEMORY_BACK, **os.environ, **settings.environment()})
    celery.start()
    app = make_app(settings.broker, publish_only=True)
    reconciler = threading.Thread(target=reconcile.run, args=(database, app, stop))
    reconciler.start()
    try:
        return watch([celery], stop)
    finally:
        stop.set()
        celery.stop()
        reconciler.join()
        database.dispose()


def run_inference(settings: Settings) -> int:
    """Load the model, warm it up, then take inference tasks in this very process."""
    from dicom_io import preprocess_version
    from model.predict import Predictor
    from worker.tasks import ProcessServices, register_inference_tasks

    services = ProcessServices(settings)
    predictor = Predictor(
        services().bundle,
        preprocess_version=preprocess_version.VERSION,
        saliency=settings.saliency,
    )
    predictor.warm_up()
    app = make_app(settings.broker)
    register_inference_tasks(app, services, predictor, _open_challenger(settings))
    return _run_celery(app, "inference", pool="solo", concurrency=1, queue=INFERENCE_QUEUE)


def _open_challenger(settings: Settings) -> "Challenger | None":
    """The second model, ready to run; None where none is set, or it cannot be loaded."""
    if settings.challenger_bundle is None:
        return None
    from dicom_io import preprocess_version
    from model.predict import Predictor
    from worker.challenger import Challenger
    from worker.services import make_challenger_interpreter, open_challenger_bundle

    try:
        bundle = open_challenger_bundle(settings, settings.challenger_bundle)
        predictor = Predictor(bundle, preprocess_version=preprocess_version.VERSION, saliency=False)
        predictor.warm_up()
        interpreter = make_challenger_interpreter(settings, bundle)
    except Exception as error:  # images are analysed all the same
        said = str(error) if isinstance(error, ModelError) else log.where(error)
        _log.error("no challenger: %s", said)
        return None
    _log.info("challenger %s %s is tried on the same pictures", bundle.name, bundle.version)
    return Challenger(bundle, predictor, interpreter)


def run_dicom_celery(settings: Settings, concurrency: int) -> int:
    """Celery's own process of the dicom role; its children make their services after the fork."""
    from worker.tasks import ProcessServices, register_dicom_tasks

    app, services = make_app(settings.broker), ProcessServices(settings)
    register_dicom_tasks(app, services)
    worker_process_init.connect(partial(_on_child_start, os.getpid()), weak=False)
    worker_process_shutdown.connect(lambda **_: services.close(), weak=False)
    gc.freeze()  # a collection would copy what the children share with this process
    return _run_celery(app, "dicom", pool="prefork", concurrency=concurrency, queue=DICOM_QUEUE)


def _run_celery(app: Celery, role: str, *, pool: str, concurrency: int, queue: str) -> int:
    # Celery warns of root because of pickle, which we do not accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker_ready.connect(lambda **_: _log.info("%s worker ready", role), weak=False)
    worker = app.Worker(
        hostname=f"{role}-{os.getpid()}@{socket.gethostname()}",
        pool=pool,
        concurrency=concurrency,
        queues=[queue],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        optimization="fair",
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _on_child_start(celery_pid: int, **_: Any) -> None:
    end_with_parent(celery_pid)  # known before the fork: the parent may be gone by now
    import cv2

    cv2.setNumThreads(1)  # the processes are the parallelism


if __name__ == "__main__":
    configured = Settings.from_env()
    log.configure(configured.log_level, configured.log_format)
    sys.exit(run_dicom_celery(configured, int(sys.argv[1])))
