"""Errors in the form of OpenAI's API."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from specgen.core.errors import OutOfMemory, PromptTooLong, SpecgenError, UsageError


class ApiError(Exception):
    """A refused request. `param` names the field at fault; `code` is for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class ServerEnding(SpecgenError):
    """The server ends before the answer does."""

    def __init__(self) -> None:
        super().__init__("the server is ending", hint="ask again when it is back")


def unsupported(field: str, reason: str = "") -> ApiError:
    """The error for a field that would change the answer and is not implemented."""
    return ApiError(
        f"{field} is not supported{f': {reason}' if reason else ''}; leave it out",
        param=field,
        code="unsupported_parameter",
    )


def api_error(error: SpecgenError) -> ApiError:
    """The error of the API for an error of specgen."""
    if isinstance(error, ServerEnding):
        return ApiError(str(error), status=503, code="server_ending", headers={"Retry-After": "5"})
    if isinstance(error, PromptTooLong):
        return ApiError(str(error), code="context_length_exceeded")
    if isinstance(error, UsageError):
        return ApiError(str(error))
    return ApiError(str(error), status=503 if isinstance(error, OutOfMemory) else 500)


def validation_error(error: ValidationError) -> ApiError:
    """The error for a body that is not JSON or has wrong fields. It names the first fault."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # For a union pydantic adds the member that it tried, which the caller did not write.
    written = [str(part) for part in fault["loc"] if not _is_union_member(str(part))]
    param = ".".join(written) or None
    if fault["type"] == "json_invalid":
        return ApiError(f"the body is not JSON: {fault['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    if fault["type"] == "extra_forbidden":
        return ApiError(f"unknown field: {param}", param=param, code="unknown_parameter")
    return ApiError(f"{param or 'the body'}: {fault['msg']}", param=param, code="invalid_value")


def _is_union_member(part: str) -> bool:
    return part in ("str", "int", "bool") or part.startswith(("list[", "function-", "constrained-"))
