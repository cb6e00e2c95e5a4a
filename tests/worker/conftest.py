from collections.abc import Iterator

import pytest

from tests.support.system import Pacs, System, running


@pytest.fixture(scope="session")
def system_and_pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Pacs]]:
    """One `cxr-worker up` for all tests that need nothing of their own."""
    with running(tmp_path_factory.mktemp("system")) as pair:
        yield pair


@pytest.fixture
def system(system_and_pacs: tuple[System, Pacs]) -> System:
    return system_and_pacs[0]


@pytest.fixture
def pacs(system_and_pacs: tuple[System, Pacs]) -> Pacs:
    return system_and_pacs[1]
