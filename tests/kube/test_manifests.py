"""The pods of ``tests/manifests`` through a CRI socket, with this machine as their node.

``ZONAL_TEST_CRI`` is the socket; ``ZONAL_TEST_IMAGES`` says what the manifests' images are, such as
``app=127.0.0.1:5000/app:1,redis=…``. Any runtime will do; without a socket there is nothing to test.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.kube.documents import load
from tests.kube.kubelet import Node, RunningPod, node
from zonal.cri.api import runtime_pb2 as cri

MANIFESTS = Path(__file__).parent.parent / "manifests"
SOCKET = Path(os.environ.get("ZONAL_TEST_CRI", "/run/zonal/cri.sock"))
IMAGES = dict(pair.split("=", 1) for pair in os.environ.get("ZONAL_TEST_IMAGES", "").split(",") if pair)

pytestmark = pytest.mark.skipif(not SOCKET.is_socket(), reason=f"there is no CRI socket {SOCKET}")


def opened(folder: Path, name: str) -> AbstractAsyncContextManager[Node]:
    # YAML has no reader in the standard library; who ships the tests to a node may have made JSON of it.
    path = MANIFESTS / f"{name}.yaml"
    return node(SOCKET, load(path), folder, IMAGES)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


async def page(pod: RunningPod, port: int, path: str) -> dict[str, object]:
    """What a pod's web server answers from outside of it."""
    reader, writer = await asyncio.open_connection(pod.address, port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], answer
    return json.loads(body)


def test_a_web_application_and_its_database(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, "web") as made:
            database = await made.run("database-0")
            await database.ready()
            web = await made.run("web-0")
            # Where the database is comes to the running pod as a file that changes.
            made.objects.config_maps["web"]["database-address"] = database.address.encode()
            await web.sync()
            await web.ready()
            first = await page(web, 8000, "/count")
            assert first == {
                "visits": 1,
                "greeting": "Hello from a pod",
                "pod": "web-0",
                "address": web.address,
                "memory": "128",
                "tier": 'app="web"\ntier="front"',
                "user": 1000,
            }
            made.objects.config_maps["web"]["greeting"] = b"Another greeting"
            await web.sync()
            second = await page(web, 8000, "/count")
            assert (second["visits"], second["greeting"]) == (2, "Another greeting")
            # postStart, which read what the init container wrote, by a subPath into memory.
            assert (await web.exec("web", "cat", "/cache/note")).stdout == b"prepared for web-0\n"
            cache = web.volumes.places["cache"]
            assert cache.is_mount() and (cache / "note").read_text() == "prepared for web-0\n"
            assert (await web.exec("web", "touch", "/etc/passwd")).exit_code
            # Secrets are read by the pod's group alone.
            assert b"r--r-----" in (await web.exec("web", "ls", "-lL", "/etc/web/password")).stdout
            while "visit 2" not in web.log("log-reader"):  # noqa: ASYNC110 (a log is a file)
                await asyncio.sleep(0.1)
            assert await database.check_liveness() == []
            await web.stop()
            assert "the sidecar ends" in web.log("log-reader")
            assert (await web.status("web")).finished_at <= (await web.status("log-reader")).finished_at
            await database.stop()
            data = database.volumes.places["data"]
            assert (data / "stopped-in-order").exists() and (data / "dump.rdb").exists()
            for pod in (web, database):
                status = await made.client.call(
                    "PodSandboxStatus",
                    cri.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox),
                    cri.PodSandboxStatusResponse,
                )
                assert status.status.state == cri.SANDBOX_NOTREADY

    run(test)


def test_a_container_that_fails_its_liveness_probe_is_started_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, "web") as made:
            database = await made.run("database-0")
            await database.ready()
            # It answers no more, but it is there.
            await database.exec("redis", "sh", "-c", "redis-cli config set requirepass other")
            assert await database.check_liveness() == ["redis"]
            assert await database.sync()
            await database.ready()
            assert (await database.status("redis")).metadata.attempt == 1

    run(test)


def test_a_job_that_fails_at_first(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, "job") as made:
            pod = await made.run("primes-0")
            assert await pod.finished()
            assert (await pod.status("primes")).metadata.attempt == 1
            assert await pod.termination_message("primes") == "303 primes below 2000, by primes-0"
            assert await pod.termination_message("primes", 0) == "no luck at the first try"
            assert pod.log("primes", 0) == "the first try fails\n"
            assert pod.log("primes", 1) == "done with try 2\n"

    run(test)


def test_a_pod_of_a_stateful_set_and_the_one_after_it(tmp_path: Path) -> None:
    async def query(pod: RunningPod, text: str) -> str:
        done = await pod.exec("postgresql", "psql", "--host=/tmp", "--dbname=postgres", "-XAtqc", text)
        assert done.exit_code == 0, done.stderr
        return done.stdout.decode().strip()

    async def test() -> None:
        async with opened(tmp_path, "statefulset") as made:
            first = await made.run("postgresql-0")
            await first.ready()
            assert (await first.exec("postgresql", "hostname")).stdout == b"postgresql-0\n"
            await query(first, "CREATE TABLE kept (content text)")
            await query(first, "INSERT INTO kept SELECT 'row ' || n FROM generate_series(1, 1000) n")
            await first.remove()
            made.pods.remove(first)
            made.objects.pods["postgresql-0"].uid = "another"
            second = await made.run("postgresql-0")
            await second.ready()
            assert second.sandbox != first.sandbox
            assert await query(second, "SELECT count(*), max(content) FROM kept") == "1000|row 999"

    run(test)
