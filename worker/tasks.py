"""The Celery tasks: each takes one id and makes one call into its stage.

A role loads the stages that it runs: inference needs nothing that reads, makes or sends DICOM.
"""

import os
from typing import TYPE_CHECKING

from celery import Celery

from worker.celery_app import task_name
from worker.services import Services, make_services
from worker.settings import Settings

if TYPE_CHECKING:
    from model.predict import Predictor
    from worker.challenger import Challenger


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
    from worker import commit, deliver, prepare, report

    @app.task(name=task_name("prepare"))
    def make_picture(sop_instance_uid: str) -> None:
        prepare.prepare(services(), sop_instance_uid)

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
    predictor: "Predictor",
    challenger: "Challenger | None" = None,
) -> None:
    from worker import infer

    @app.task(name=task_name("infer"))
    def predict(sop_instance_uid: str) -> None:
        infer.infer(services(), predictor, sop_instance_uid, challenger)
