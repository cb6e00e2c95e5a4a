"""Everything that the OpenAPI document allows, tried: no 5xx, no answer that it does not name."""

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.worker.web.conftest import BEARER, TOKEN, MakeClient

pytestmark = pytest.mark.long
EXAMPLES = 25  # per operation
UIDS = st.sampled_from([f"1.2.3.{number}" for number in range(1, 30)])


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    return make_client(web_token=TOKEN)


def _operations(client: TestClient) -> list[APIOperation]:
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", client.app, headers=BEARER)
    return [found.ok() for found in schema.get_all_operations()]


def test_no_operation_fails_or_answers_what_is_not_documented(client: TestClient) -> None:
    operations = _operations(client)
    assert len(operations) >= 13
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
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
            case.validate_response(
                response, headers=BEARER, excluded_checks=[positive_data_acceptance]
            )

        try_one()


def test_every_operation_refuses_strangers(client: TestClient) -> None:
    for operation in _operations(client):
        path = operation.path.replace("{study_instance_uid}", "1.2.3.1")
        path = path.replace("{sop_instance_uid}", "1.2.3.1.1")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
            answer = client.request(operation.method.upper(), path, headers=headers, json={})
            assert answer.status_code == 401, path
            assert answer.json()["detail"]
