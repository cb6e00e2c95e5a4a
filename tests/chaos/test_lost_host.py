"""A worker's host is lost in the middle of a transaction: its locks do not outlive it for long."""

import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from db.engine import POSTGRESQL_SILENCE_MAX_S, Database
from tests.chaos.databases import PostgresqlServer
from tests.chaos.hosts import Network, reason_without

pytestmark = pytest.mark.long

HOLD = """
import sys, time
import sqlalchemy as sa
from db.engine import Database
with Database(sys.argv[1]).begin() as tx:
    tx.conn.execute(sa.text("SELECT 1 FROM held FOR UPDATE"))
    print("held", flush=True)
    time.sleep(600)
"""


def test_postgresql_frees_what_a_lost_host_had_locked() -> None:
    if missing := reason_without():
        pytest.skip(missing)
    with Network(["database", "worker"], real=True) as network:
        server = PostgresqlServer(network.hosts["database"])
        database = Database(server.url)
        argv = network.hosts["worker"].argv([sys.executable, "-c", HOLD, server.url])
        with database.begin() as tx:
            tx.conn.execute(sa.text("CREATE TABLE held AS SELECT 1 AS one"))
        worker = subprocess.Popen(argv, stdout=subprocess.PIPE)
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"held\n"
            network.cut("worker")
            began = time.monotonic()
            with database.begin() as tx:  # waits for the lock, for a minute at most
                tx.conn.execute(sa.text("SELECT 1 FROM held FOR UPDATE"))
            assert time.monotonic() - began < 3 * POSTGRESQL_SILENCE_MAX_S
            assert worker.poll() is None  # it would hold it still
        finally:
            worker.kill()
            worker.communicate()
            database.dispose()
            server.close()
