"""The Celery tasks: each takes one id and makes one call into the pipeline."""

import os

from celery import Celery

from model.predict import Predictor
from worker import commit, deliver, pipeline, report
from worker.celery_app import task_name
from worker.challenger import Challenger
from worker.services import Services, make_services
from worker.settings import Settings


class ProcessServices:
    """Services of the process that asks: a forked child makes its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: dict[int, Services] = {}

    def __call__(self) -> Services:
        pid = os.getpid()
        if pid not in self._made:
            self._made = {pid: make_services(self._settings)}
        return self._made[pid]

    def close(self) -> None:
        """Before this process ends."""
        if made := self._made.get(os.getpid()):
            made.audit.close()


def register_dicom_tasks(app: Celery, services: ProcessServices) -> None:
    @app.task(name=task_name("prepare"))
    def prepare(sop_instance_uid: str) -> None:
        pipeline.prepare(services(), sop_instance_uid)

    @app.task(name=task_name("report"))
    def make_report(study_instance_uid: str) -> None:
        report.report(services(), study_instance_uid)

    @app.task(name=task_name("deliver"), time_limit=deliver.TIME_LIMIT_S)
    def send_out(destination: str) -> None:
        deliver.deliver(services(), destination)

    @app.task(name=task_name("commit"), time_limit=deliver.TIME_LIMIT_S)
    def ask_commitment(destination: str) -> None:
        commit.commit(services(), destination)


def register_inference_tasks(
    app: Celery,
    services: ProcessServices,
    predictor: Predictor,
    challenger: Challenger | None = None,
) -> None:
    @app.task(name=task_name("infer"))
    def infer(sop_instance_uid: str) -> None:
        pipeline.infer(services(), predictor, sop_instance_uid, challenger)
