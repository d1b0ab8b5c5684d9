"""How a log line looks: a sentence for a person, or one JSON object a line for machines.

Lines are written with the standard library's loggers. What they are about (request_id, account_id, backend, ...) is
bound once, where it becomes known, to structlog's context variables; from then on every line of that task or thread has
it as a field. Of a line's `extra` only the fields named here are shown: libraries put whole requests there.
"""

from __future__ import annotations

import json
import time
from typing import Any

import structlog
import uuid_utils.compat as uuids
from structlog.typing import EventDict, Processor, WrappedLogger

FORMATS = ("text", "json")
EXTRA = ("duration_ms", "status")


def config(*, form: str, level: str) -> dict[str, Any]:
    """Django's LOGGING.

    uvicorn configures itself before it loads us, so its loggers are made to speak like the rest. Its access log is off:
    it writes whole URLs, and those of the site hold links that work once, those of strangers whatever they typed.
    """
    ours = {"handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "flint.logs.formatter", "form": form}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "uvicorn": ours,
            "uvicorn.error": ours,
            "uvicorn.access": {"handlers": [], "propagate": False},
        },
        "root": {"handlers": ["console"], "level": level},
    }


def formatter(form: str) -> structlog.stdlib.ProcessorFormatter:
    fields: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.stdlib.ExtraAdder(allow=EXTRA)]
    writer = _json if form == "json" else _text
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=fields, processors=[structlog.processors.format_exc_info, writer]
    )


def new_request_id() -> str:
    """For a request of the site, of the same form as those of /v1."""
    return f"req_{uuids.uuid7().hex}"


def _json(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
    record = fields.pop("_record")
    del fields["_from_structlog"]
    line = {
        "time": _moment(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": fields.pop("event"),
        **fields,
        "pid": record.process,
    }
    return json.dumps(line, default=str)  # In ASCII, so that no text of others can break the line.


def _text(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
    record = fields.pop("_record")
    del fields["_from_structlog"]
    event, exception = fields.pop("event"), fields.pop("exception", None)
    ids = "".join(f" {name}={value}" for name, value in fields.items())
    trace = f"\n{exception}" if exception else ""
    return f"{_moment(record.created)} {record.levelname} {record.name} {event}{ids}{trace}"


def _moment(created: float) -> str:
    """In UTC, to the millisecond."""
    seconds, milliseconds = divmod(int(created * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"
