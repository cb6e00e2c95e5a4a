"""What a load balancer or an orchestrator asks, without a key: does it live, can it work now?"""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from db import schema
from db.errors import SchemaMismatch
from worker.web.context import WebDep

router = APIRouter()


@router.get("/healthz")
async def healthz() -> JSONResponse:
    """Whether this process lives; it waits for no thread, as those may wait for the database."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
@router.get("/health")  # as it was called first
def readyz(web: WebDep) -> JSONResponse:
    """Whether this process has its database, at its own schema."""
    try:
        schema.require_current(web.database)
    except SchemaMismatch as error:
        return JSONResponse({"status": str(error)}, 503)
    return JSONResponse({"status": "ok"})
