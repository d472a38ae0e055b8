"""What an operator may change on a running server; mounted only where there are admin keys."""

from http import HTTPStatus

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from boomerang_core.errors import EngineError
from boomerang_core.sizes import parse_bytes
from server import schemas
from server.memory.residency import BusyError, Residency
from server.metrics import Metrics
from server.process.lifecycle import Lifecycle


def admin_router(residency: Residency, lifecycle: Lifecycle, metrics: Metrics) -> APIRouter:
    """`/admin/memory-budget`."""
    router = APIRouter(prefix="/admin", tags=["admin"])

    @router.get("/memory-budget")
    async def read_budget() -> schemas.BudgetBody:
        """The budget, what it leaves room for, and what runs."""
        return schemas.BudgetBody.of(residency)

    @router.put("/memory-budget")
    async def change_budget(request: schemas.BudgetRequest) -> schemas.BudgetBody:
        """Follow another budget; answers when it is done, running requests having finished."""
        given = request.memory_budget
        budget = None if given is None else parse_bytes(given)
        engine = lifecycle.engine
        if engine is None or not lifecycle.is_ready:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, f"the server is {lifecycle.state}")
        try:
            metrics.set_resident(await residency.change(budget, engine))
        except BusyError as error:
            raise HTTPException(HTTPStatus.CONFLICT, str(error)) from error
        except EngineError as error:
            metrics.set_resident(residency.plan.weight_bytes)  # of the last step that it followed
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        return schemas.BudgetBody.of(residency)

    return router
