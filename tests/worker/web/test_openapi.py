"""Everything that the OpenAPI document allows, tried: no 5xx, no answer that it does not name."""

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.worker.web.conftest import BEARER, TOKEN, MakeClient, fill

pytestmark = pytest.mark.long
EXAMPLES, EXAMPLES_SHORT = 25, 8  # per operation
UIDS = st.sampled_from([f"1.2.3.{number}" for number in range(1, 30)])


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    return make_client(web_token=TOKEN)


def _operations(client: TestClient) -> list[APIOperation]:
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", client.app, headers=BEARER)
    return [found.ok() for found in schema.get_all_operations()]


def test_no_operation_fails_or_answers_what_is_not_documented(client: TestClient) -> None:
    _try_all(client, EXAMPLES)


def test_nor_does_one_on_postgresql(make_client: MakeClient, postgresql_url: str) -> None:
    fill(postgresql_url)
    _try_all(make_client(web_token=TOKEN, database_url=postgresql_url), EXAMPLES_SHORT)


def _try_all(client: TestClient, examples: int) -> None:
    operations = _operations(client)
    assert len(operations) >= 13
    for operation in operations:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), uid=UIDS, is_known=st.booleans())
        def try_one(case: Case, uid: str, is_known: bool) -> None:
            if is_known and "study_instance_uid" in (case.path_parameters or {}):
                case.path_parameters["study_instance_uid"] = uid
            if is_known and "sop_instance_uid" in (case.path_parameters or {}):
                case.path_parameters["sop_instance_uid"] = f"{uid}.1"
            response = case.call(headers=BEARER)
            # A made-up cursor is a valid string and still no cursor.
            given_ones = [case.query, case.body if isinstance(case.body, dict) else None]
            has_cursor = any("cursor" in (it or {}) for it in given_ones)
            excluded = [positive_data_acceptance] if has_cursor else []
            case.validate_response(response, headers=BEARER, excluded_checks=excluded)

        try_one()


def test_every_operation_refuses_strangers(client: TestClient) -> None:
    for operation in _operations(client):
        path = operation.path.replace("{study_instance_uid}", "1.2.3.1")
        path = path.replace("{sop_instance_uid}", "1.2.3.1.1")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
            answer = client.request(operation.method.upper(), path, headers=headers, json={})
            assert answer.status_code == 401, path
            assert answer.json()["detail"]
