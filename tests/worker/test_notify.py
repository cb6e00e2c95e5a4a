"""Wake-ups: a bounded number of messages, the newest always among them."""

import threading
import time

import pytest
from celery import Celery

from tests.support.system import wait_for
from worker import notify
from worker.notify import Notifier


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    messages: list[tuple[str, str]] = []

    def send(_app: Celery, stage: str, key: str) -> bool:
        messages.append((stage, key))
        return True

    monkeypatch.setattr(notify, "send", send)
    return messages


def test_a_burst_becomes_few_messages_and_the_last_one_is_sent(
    sent: list[tuple[str, str]],
) -> None:
    notifier = Notifier(Celery(), interval_s=0.1)
    for number in range(1000):
        notifier("prepare", str(number))
    wait_for("the last wake-up", lambda: ("prepare", "999") in sent, 10)
    assert len(sent) < 100
    notifier.close()


def test_stages_and_destinations_are_told_apart(sent: list[tuple[str, str]]) -> None:
    notifier = Notifier(Celery(), interval_s=0.2)
    expected = [("infer", "1"), ("report", "2"), ("deliver", "A"), ("deliver", "B")]
    for stage, key in expected:
        notifier(stage, key)
    notifier.close()
    wait_for("all wake-ups", lambda: sorted(sent) == sorted(expected), 10)


def test_a_caller_never_waits_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(notify, "send", lambda *_: released.wait(30))
    notifier = Notifier(Celery())
    started = time.monotonic()
    for number in range(100):
        notifier("prepare", str(number))
    waited_s = time.monotonic() - started
    released.set()
    notifier.close()
    assert waited_s < 10, "the broker hung for up to 30 s"
