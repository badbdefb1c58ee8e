"""The envelope of every answer and the errors with the server's own codes and wording."""

from __future__ import annotations

import uuid
from typing import Any

Document = dict[str, Any]

#: The version the stand-in speaks, as in the recordings.
API_VERSION = "2.31"
SERVER_VERSION = "2.0.0"
#: ClearML's fixed default company, and the one user that all credentials belong to.
COMPANY_ID = "d1bd92a3b039400cbafc60a7a5b1e52b"
USER_ID = "__tests__"
USER_NAME = "tests"


class ApiError(Exception):
    """A refusal with the server's HTTP status, sub-code and message."""

    def __init__(self, status: int, subcode: int, message: str, /, **details: Any) -> None:
        if details:
            message += ": " + ", ".join(f"{key}={value}" for key, value in details.items())
        super().__init__(message)
        self.status = status
        self.subcode = subcode
        self.message = message
        self.details = details


def missing_field(field: str) -> ApiError:
    """A required field is absent."""
    return ApiError(400, 12, f"Validation error (error for field '{field}'. field is required!)")


def invalid_task(task_id: str) -> ApiError:
    """No such task, in the wording of calls that change tasks."""
    return ApiError(400, 101, "Invalid task id", id=task_id, company=COMPANY_ID)


def invalid_task_ids(task_id: str) -> ApiError:
    """No such task, in the wording of calls that read tasks."""
    return ApiError(400, 101, "Invalid task id", ids=f"({task_id})")


def invalid_queue(queue_id: str) -> ApiError:
    """No such queue."""
    return ApiError(400, 701, "Invalid queue id", id=queue_id, company=COMPANY_ID)


def invalid_status_change(current: str, new: str) -> ApiError:
    """The state machine does not allow this change without force."""
    return ApiError(400, 110, "Invalid task status (Invalid status change)", current_status=current, new_status=new)


def envelope(
    action: str | None,
    requested: str | float,
    actual: str | None,
    data: Document | None = None,
    error: ApiError | None = None,
) -> Document:
    """The answer's body: ``meta`` and ``data`` as the server lays them out."""
    answer_id = uuid.uuid4().hex
    return {
        "meta": {
            "id": answer_id,
            "trx": answer_id,
            "endpoint": {"name": action or "", "requested_version": requested, "actual_version": actual},
            "result_code": error.status if error else 200,
            "result_subcode": error.subcode if error else 0,
            "result_msg": error.message if error else "OK",
            "error_stack": None if error else "",
            "error_data": {},
        },
        "data": data or {},
    }
