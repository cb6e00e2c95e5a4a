"""What a browser does with a page's forms."""

import re

from fastapi.testclient import TestClient


def csrf_token(client: TestClient, path: str) -> str:
    """Load a page, which starts the session, and take the token out of its form."""
    found = re.search(r'name="csrf_token" value="(\w+)"', client.get(path).text)
    assert found, f"no form on {path}"
    return found[1]
