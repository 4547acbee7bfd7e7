"""How a command ended, as the error stream of the remote-command protocols says it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from zonal.cri.streaming.calls import RemoteCommand
from zonal.cri.streaming.handler import RemoteStreams, StreamHandler
from zonal.daemon.rpc import free_frames, shorten, single_cause
from zonal.errors import NotFoundError, ZonalError

log = logging.getLogger(__name__)

MAX_MESSAGE = 8192
"""Bytes of an error's text."""


@dataclass(frozen=True)
class Outcome:
    """The end of a command or of an attachment to one."""

    exit_status: int = 0
    message: str = ""
    reason: str = ""
    code: int = 0
    """As HTTP has it; 0 for a command that ran."""

    def status(self) -> bytes:
        """A ``v1.Status`` in JSON, of protocol v4 on."""
        status: dict[str, object] = {"metadata": {}, "status": "Failure" if self.message else "Success"}
        if self.message:
            status |= {"message": self.message, "reason": self.reason}
        if self.exit_status:
            # "reason" is how metav1.StatusCause spells its Type.
            status["details"] = {"causes": [{"reason": "ExitCode", "message": str(self.exit_status)}]}
        if self.code:
            status["code"] = self.code
        return json.dumps(status).encode()

    def text(self) -> bytes:
        """As the protocols before v4 have it: nothing for a success."""
        return self.message.encode()


def exited(status: int) -> Outcome:
    """The command has run and ended with that status."""
    if not status:
        return Outcome()
    return Outcome(status, f"command terminated with non-zero exit code: exit status {status}", "NonZeroExitCode")


def failed(error: ZonalError) -> Outcome:
    """It could not be run."""
    message = shorten(str(error), MAX_MESSAGE)
    return Outcome(0, message, "NotFound", 404) if isinstance(error, NotFoundError) else _internal(message)


async def perform(handler: StreamHandler, call: RemoteCommand, streams: RemoteStreams) -> Outcome:
    """Has the handler do it. Raises nothing: what goes wrong is an outcome too."""
    verb = "attach" if call.command is None else "exec"
    try:
        if call.command is None:
            await handler.attach(call.container_id, streams)
            return exited(0)
        return exited(await handler.exec(call.container_id, call.command, streams))
    except Exception as error:
        return outcome_of(error, f"{verb} in {call.container_id}")


def outcome_of(error: Exception, what: str) -> Outcome:
    """Of an error: a ``ZonalError``'s message, or a sentence for a fault of ours, which is logged."""
    cause = single_cause(error) if isinstance(error, BaseExceptionGroup) else error
    if isinstance(cause, ZonalError):
        log.info("%s: %s", what, cause)
        free_frames(error)
        return failed(cause)
    if isinstance(cause, ConnectionError):
        log.info("%s: %s", what, cause)
        return _internal(f"{what}: {cause}")
    log.error("%s failed", what, exc_info=error)
    return _internal(f"an internal error in zonald while it served {what}; its log has the details")


def _internal(message: str) -> Outcome:
    return Outcome(0, message, "InternalError", 500)
