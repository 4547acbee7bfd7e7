"""URLs and their tokens: what is refused before there is one, and how often and how long one is good for."""

from __future__ import annotations

import pytest

from tests.unit.cri.streaming.local_handler import LocalHandler
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.streaming.calls import MAX_PORTS
from zonal.cri.streaming.server import StreamingServer
from zonal.cri.streaming.tokens import Tokens
from zonal.errors import InvalidInputError, ResourceExhaustedError, UnavailableError


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (pb.ExecRequest(container_id="c", stdout=True), "exec is without a command"),
        (pb.ExecRequest(cmd=["true"], stdout=True), "exec names no container"),
        (pb.ExecRequest(container_id="c", cmd=["true"]), "exec with no stream"),
        (pb.ExecRequest(container_id="c", cmd=["true"], tty=True, stderr=True), "no stderr of its own"),
    ],
)
async def test_exec_requests_that_are_refused(
    server: StreamingServer, request_: pb.ExecRequest, complaint: str
) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        server.exec_url(request_)


async def test_attach_requests_that_are_refused(server: StreamingServer) -> None:
    with pytest.raises(InvalidInputError, match="attach names no container"):
        server.attach_url(pb.AttachRequest(stdin=True))
    with pytest.raises(InvalidInputError, match="attach with no stream"):
        server.attach_url(pb.AttachRequest(container_id="c"))
    with pytest.raises(InvalidInputError, match="no stderr of its own"):
        server.attach_url(pb.AttachRequest(container_id="c", tty=True, stdout=True, stderr=True))


@pytest.mark.parametrize("ports", [[0], [-1], [65536], [80, 70000]])
async def test_ports_that_are_none(server: StreamingServer, ports: list[int]) -> None:
    with pytest.raises(InvalidInputError, match="is not between 1 and 65535"):
        server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="s", port=ports))


async def test_port_forward_requests_that_are_refused(server: StreamingServer) -> None:
    with pytest.raises(InvalidInputError, match="names no sandbox"):
        server.port_forward_url(pb.PortForwardRequest())
    with pytest.raises(InvalidInputError, match="more than"):
        server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="s", port=range(1, MAX_PORTS + 2)))


async def test_a_server_that_was_not_started_has_no_urls() -> None:
    with pytest.raises(UnavailableError):
        StreamingServer(LocalHandler()).attach_url(pb.AttachRequest(container_id="c", stdin=True))


async def test_an_address_that_is_taken(server: StreamingServer) -> None:
    with pytest.raises(UnavailableError, match=f"port {server.port}"):
        await StreamingServer(LocalHandler(), port=server.port).start()


def test_a_token_works_once() -> None:
    tokens: Tokens[str] = Tokens()
    token = tokens.make("a")
    assert tokens.take("another") is None
    assert tokens.take(token) == "a"
    assert tokens.take(token) is None


def test_tokens_are_all_different_and_long() -> None:
    tokens: Tokens[int] = Tokens()
    made = {tokens.make(number) for number in range(500)}
    assert len(made) == 500
    assert all(len(token) == 22 for token in made)


def test_a_token_expires() -> None:
    now = 0.0
    tokens: Tokens[str] = Tokens(lifetime=60, clock=lambda: now)
    early = tokens.make("early")
    now = 30
    late = tokens.make("late")
    now = 60
    assert tokens.take(early) is None
    assert tokens.take(late) == "late"


def test_tokens_are_bounded_and_room_comes_back() -> None:
    now = 0.0
    tokens: Tokens[int] = Tokens(lifetime=60, limit=3, clock=lambda: now)
    first = [tokens.make(number) for number in range(3)]
    with pytest.raises(ResourceExhaustedError, match="3 streaming URLs"):
        tokens.make(3)
    assert tokens.take(first[1]) == 1
    tokens.make(4)
    now = 61
    for number in range(3):
        tokens.make(number)
