"""The OpenAPI document, and a page that shows it without a script from elsewhere."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from worker.web import render
from worker.web.access import require_visitor
from worker.web.render import PageVisitor

router = APIRouter()


@router.get("/api/openapi.json", dependencies=[Depends(require_visitor)])
def openapi(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


@router.get("/api")
def api_page(request: Request, visitor: PageVisitor) -> Response:
    document = request.app.openapi()
    return render.page(request, "api.html", visitor, operations=_operations(document))


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation["description"],
            "parameters": [
                {
                    "name": parameter["name"],
                    "place": parameter["in"],
                    "required": parameter["required"],
                    "text": parameter.get("description", ""),
                }
                for parameter in operation.get("parameters", [])
            ],
            "body": _body(operation),
            "answers": sorted(operation["responses"]),
        }
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _body(operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).rpartition("/")[2]
