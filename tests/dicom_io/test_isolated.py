import os
import signal
import time

import numpy as np
import psutil
import pytest

from dicom_io import isolated


def test_the_array_comes_back_as_it_was():
    expected = np.arange(3_000_000, dtype=np.uint16).reshape(1500, 2000)
    values = isolated.decode(lambda: expected)
    assert values.dtype == expected.dtype
    assert np.array_equal(values, expected)


@pytest.mark.parametrize("end", ["abort", "exception", "exit", "killed"])
def test_whatever_ends_the_decoder_ends_only_the_decoder(end):
    def work():
        if end == "abort":
            os.abort()
        if end == "exit":
            raise SystemExit(0)
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError

    with pytest.raises(isolated.DecoderDied):
        isolated.decode(work)


def test_a_decoder_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(isolated, "DEADLINE_S", 1)
    started = time.monotonic()
    with pytest.raises(isolated.DecoderDied):
        isolated.decode(lambda: time.sleep(60))
    assert time.monotonic() - started < 5


def test_no_child_and_no_descriptor_is_left():
    process = psutil.Process()
    before = process.num_fds(), len(process.children())
    for _ in range(20):
        isolated.decode(lambda: np.zeros(4))
    assert (process.num_fds(), len(process.children())) == before
