"""The Celery application: how wake-ups travel. The rows that they name are the truth.

Messages name one instance, study or destination and carry nothing else. They may be lost,
doubled or flushed: the reconciler sends what is missing, and a message for a row that is done
ends at once. So they are acknowledged early and there is no result backend.
"""

from celery import Celery

DICOM_QUEUE = "cxr-dicom"
INFERENCE_QUEUE = "cxr-inference"
QUEUES = {
    "prepare": DICOM_QUEUE,
    "infer": INFERENCE_QUEUE,
    "report": DICOM_QUEUE,
    "deliver": DICOM_QUEUE,
    "commit": DICOM_QUEUE,
}
TASK_TIME_LIMIT_S = 30  # a decoder that hangs ends with its process
_PUBLISH_TIMEOUT_S = 0.5


def task_name(stage: str) -> str:
    return f"cxr.{stage}"


def make_app(broker_url: str, *, publish_only: bool = False) -> Celery:
    """An application on this broker; `publish_only` fails fast, for who must not wait."""
    app = Celery("cxr", broker=broker_url, set_as_current=False)
    timeout_s = _PUBLISH_TIMEOUT_S if publish_only else 10.0
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_create_missing_queues=True,
        task_default_queue=DICOM_QUEUE,
        task_routes={task_name(stage): {"queue": queue} for stage, queue in QUEUES.items()},
        task_publish_retry=False,
        task_time_limit=TASK_TIME_LIMIT_S,
        task_store_errors_even_if_ignored=False,
        broker_connection_timeout=timeout_s,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "max_retries": 0,
            # A worker notices within twice this that its connection is dead, not within a minute.
            "health_check_interval": 5,
        },
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_proc_alive_timeout=60,  # loading takes longer than Celery's 4 s
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


def preload(app: Celery) -> None:
    """Import what sending needs, and connect to nothing: processes that fork then share it."""
    with app.connection_for_write() as connection:
        _ = connection.transport, app.amqp, app.backend, app.events.Dispatcher  # import as made
