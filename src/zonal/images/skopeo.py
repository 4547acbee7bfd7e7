"""Registries, by way of skopeo: its image proxy fetches, its ``copy`` pushes.

The proxy is a process that opens one image, and hands its documents and blobs over pipes; registries.conf, mirrors,
certificates, credentials and redirects are its business. The protocol is that of containers-image-proxy 0.2.3: requests
in JSON on a SOCK_SEQPACKET socket, answers with at most one descriptor, and ``FinishPipe`` after each pipe.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

from zonal.errors import (
    AccessDeniedError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    ZonalError,
)
from zonal.images.limits import Limits
from zonal.images.reference import Reference
from zonal.images.work import Stop

PROGRAM: Final = "skopeo"
IDLE_SECONDS: Final = 60.0
"""Without a byte from the registry for so long, it is given up."""
PROBE_SECONDS: Final = 3.0
"""Without a byte for so long, the proxy is asked whether the blob has ended, which it does not tell by itself."""
_REPLY_BYTES: Final = 64 << 10
_PIECE: Final = 1 << 20
_SMALL: Final = 256 << 10
"""Bytes of a blob that are hardly worth the call which fetches them."""
_PAUSE_SECONDS: Final = 0.005
"""After a small piece, for more to come."""


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials for one registry: a user's, or an identity token with no user."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Login({self.username!r})"

    @property
    def given(self) -> bool:
        """Whether there are any."""
        return bool(self.username or self.identity_token)


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a registry."""

    login: Login = Login()
    verify_tls: bool | None = None
    """None for what registries.conf says."""


ANONYMOUS: Final = Access()


@contextlib.contextmanager
def options(reference: Reference, access: Access, folder: Path, *, prefix: str = "") -> Generator[list[str]]:
    """The options of skopeo for one registry; secrets go by way of a file in ``folder`` that only we can read."""
    found = [] if access.verify_tls is None else [f"--{prefix}tls-verify={str(access.verify_tls).lower()}"]
    with contextlib.ExitStack() as stack:
        if access.login.given:
            login = access.login
            entry = {"auth": base64.b64encode(f"{login.username}:{login.password}".encode()).decode()}
            if login.identity_token:
                entry = {
                    "auth": base64.b64encode(f"{login.username or '<token>'}:".encode()).decode(),
                    "identitytoken": login.identity_token,
                }
            host = "https://index.docker.io/v1/" if reference.domain == "docker.io" else reference.domain
            path = folder / "auth.json"
            stack.callback(path.unlink, missing_ok=True)
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(json.dumps({"auths": {host: entry, reference.domain: entry}}))
            found += [f"--{prefix}authfile" if prefix else "--authfile", str(path)]
        yield found


class ImageProxy:
    """One image of a registry, open. Its calls block, and may be made by several threads at once.

    Also a context manager; leaving it ends the process, and with it whatever still waits for the registry.
    """

    def __init__(self, reference: Reference, arguments: Sequence[str], limits: Limits) -> None:
        self._reference = reference
        self._limits = limits
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [PROGRAM, *_PLATFORM, "experimental-image-proxy", f"--sockfd={theirs.fileno()}", *arguments],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
        except FileNotFoundError as error:
            ours.close()
            raise _missing() from error
        self._socket.settimeout(IDLE_SECONDS * 3)
        self._image = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """End the process, from any thread: all calls that wait for it fail."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process, and free what it took; no call may be under way any more."""
        self.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._socket.close()

    def open(self) -> None:
        """Have the registry asked for the image.

        Raises:
            ZonalError: it has none, refuses, or does not answer.
        """
        self._call("Initialize")
        self._image = self._call("OpenImage", f"docker://{self._reference}")[0]["value"]

    def manifest(self) -> tuple[bytes, str]:
        """The manifest for our platform in OCI's form, into which skopeo has put one of docker's; and the digest that
        the reference stands for: the manifest's own, or that of the index it is in."""
        reply, pipe = self._call("GetManifest", self._image)
        return self._document(reply, pipe), str(reply["value"])

    def blob(self, digest: str, size: int, target: int, *, stop: Stop, arrived: Callable[[int], None]) -> None:
        """Copy a blob to the descriptor ``target``; ``arrived`` is told the bytes of each piece.

        Raises:
            ZonalError: the registry fails, or sends something else than ``digest`` and ``size`` say.
        """
        reply, pipe = self._call("GetBlob", self._image, digest, size)
        end = _End(lambda: self._call("FinishPipe", reply["pipeid"]))
        with contextlib.suppress(OSError):  # a limit of the host's: then pieces are smaller
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIECE)
        try:
            left = size
            while left:
                self._await_data(pipe, stop, end)
                count = os.splice(pipe, target, min(left, _PIECE))
                if count == 0:
                    break
                left -= count
                arrived(count)
                if left and count < _SMALL:
                    # The proxy writes 32 KiB at once. To run for each of them takes time that it could have.
                    time.sleep(_PAUSE_SECONDS)
        finally:
            # With the pipe closed, a registry that sends too much fails instead of waiting for us.
            os.close(pipe)
        end.result()
        if left:
            raise UnavailableError(
                f"{self._reference.familiar}: the blob {digest} ended {left} bytes too early", hint="try again"
            )

    def _document(self, reply: dict[str, Any], pipe: int) -> bytes:
        data = bytearray()

        def read() -> None:
            while len(data) <= self._limits.document_bytes and (piece := os.read(pipe, _PIECE)):
                data.extend(piece)
            os.close(pipe)

        # The proxy closes its end only when it is told to, and then waits until all has been read.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            self._call("FinishPipe", reply["pipeid"])
        finally:
            reader.join()
        if len(data) > self._limits.document_bytes:
            raise InvalidInputError(
                f"{self._reference.familiar}: its manifest has more than {self._limits.document_bytes} bytes"
            )
        return bytes(data)

    def _await_data(self, pipe: int, stop: Stop, end: _End) -> None:
        begin = time.monotonic()
        while not select.select([pipe], [], [], min(0.5, PROBE_SECONDS))[0]:
            stop.check()
            if time.monotonic() - begin > IDLE_SECONDS:
                raise _silent(self._reference)
            if time.monotonic() - begin > PROBE_SECONDS:
                end.ask()
        stop.check()

    def _call(self, method: str, *arguments: str | int) -> tuple[dict[str, Any], int]:
        """The answer, and its pipe or -1. Raises ``ZonalError``."""
        request = json.dumps({"method": method, "args": arguments}).encode()
        with self._lock:
            try:
                self._socket.send(request)
                answer, descriptors, _, _ = socket.recv_fds(self._socket, _REPLY_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except TimeoutError as error:
                raise _silent(self._reference) from error
            except OSError as error:
                raise self._died() from error
        if not answer:
            raise self._died()
        reply = cast("dict[str, Any]", json.loads(answer))
        if not reply["success"]:
            for descriptor in descriptors:
                os.close(descriptor)
            raise explain(str(reply["error"]), self._reference)
        return reply, descriptors[0] if descriptors else -1

    def _died(self) -> ZonalError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        assert self._process.stderr is not None
        said = self._process.stderr.read(_REPLY_BYTES).decode(errors="replace").strip()
        return explain(said or "skopeo ended without a word", self._reference)


_PLATFORM: Final = ("--override-os=linux", "--override-arch=amd64")


def explain(said: str, reference: Reference) -> ZonalError:
    """skopeo's message as one of our errors, told apart by what to do next."""
    name = reference.familiar
    text = said.strip().splitlines()[-1][-800:] if said.strip() else "no reason given"
    for words, kind, what, hint in _KINDS:
        # Whole words: a digest or a port may well have 401 in it.
        if any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words):
            return kind(f"{name}: {what}: {text}", hint=hint.format(domain=reference.domain))
    return UnavailableError(f"{name}: {text}", hint=f"is {reference.domain} reachable, and a registry?")


_KINDS: Final[tuple[tuple[tuple[str, ...], type[ZonalError], str, str], ...]] = (
    (
        ("is blocked in",),
        AccessDeniedError,
        "the host's own settings forbid this registry",
        "see registries.conf and registries.conf.d in /etc/containers of the host",
    ),
    (
        ("loading registries configuration", "registries.conf.d"),
        InvalidInputError,
        "the host's settings of registries cannot be read",
        "mend that file on the host: containers-registries.conf(5)",
    ),
    (
        ("toomanyrequests", "too many requests", "429"),
        ResourceExhaustedError,
        "the registry asks for patience",
        "wait a while, or log in for a larger allowance: zonal login {domain}",
    ),
    (
        ("unauthorized", "authentication required", "denied", "invalid username", "401", "403"),
        AccessDeniedError,
        "the registry refuses",
        "check the name, and log in: zonal login {domain}",
    ),
    (
        ("manifest unknown", "name unknown", "not found", "404"),
        NotFoundError,
        "the registry has no such image",
        "check the name and the tag",
    ),
    (
        ("no image found in image index", "no image found in manifest list", "choosing image instance"),
        InvalidInputError,
        "there is none for this platform",
        "a zone runs linux/amd64 only",
    ),
    (
        ("x509", "certificate", "tls"),
        UnavailableError,
        "the registry's certificate is not trusted",
        "put its authority's certificate into /etc/containers/certs.d/{domain}/ca.crt on the host",
    ),
    (
        ("server gave http response to https client",),
        UnavailableError,
        "the registry speaks plain HTTP",
        "pull with --tls-verify=false, or mark {domain} as insecure in registries.conf",
    ),
    (
        ("digest did not match", "corrupt blob", "does not match", "unexpected eof", "expected size", "mismatch"),
        UnavailableError,
        "what arrived is not what it should be",
        "try again; if it stays so, the registry's copy is damaged",
    ),
)


def push(source: str, reference: Reference, arguments: Sequence[str], folder: Path, *, stop: Stop) -> str:
    """``skopeo copy`` from ``source`` (``oci:…``) to a registry, but for what that has; the manifest's digest there.

    That may be another than here: skopeo compresses layers that are not. ``folder`` is for a file of ours.

    Raises:
        ZonalError: it cannot be reached, refuses, or does not answer.
    """
    told = folder / "digest"
    options = ["--quiet", "--retry-times=2", f"--digestfile={told}"]
    _run(["copy", *options, *arguments, source, f"docker://{reference}"], reference, _REPLY_BYTES, stop)
    return told.read_text().strip()


class _End:
    """The end of a blob's pipe, which the proxy closes only when it is asked for the end, and answers only then.

    Meanwhile it answers nothing else; so it is asked when all has come, or, beside the reading, when nothing comes.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def ask(self) -> None:
        """Asks, if nobody has, and does not wait for the answer."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def result(self) -> None:
        """Waits for the answer. Raises what the registry's failure was."""
        self.ask()
        assert self._thread is not None
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self._failure = error


def check_login(domain: str, access: Access, folder: Path, *, stop: Stop) -> None:
    """Whether a registry takes credentials, by ``skopeo login``; a password goes by standard input, nothing is kept.

    Raises:
        AccessDeniedError: it refuses them.
        ZonalError: it cannot be reached, or does not answer.
    """
    reference = Reference(domain, "login", None, None)
    verify = [] if access.verify_tls is None else [f"--tls-verify={str(access.verify_tls).lower()}"]
    kept = folder / "login.json"
    command = [
        "login",
        f"--authfile={kept}",
        f"--username={access.login.username}",
        "--password-stdin",
        *verify,
        domain,
    ]
    try:
        _run(command, reference, _REPLY_BYTES, stop, said=access.login.password.encode())
    finally:
        kept.unlink(missing_ok=True)


def raw_manifest(reference: Reference, arguments: Sequence[str], limits: Limits, *, stop: Stop) -> bytes:
    """A manifest or index as the registry has it, by ``skopeo inspect --raw``.

    Raises:
        ZonalError: as for the proxy.
    """
    command = ["inspect", "--raw", *arguments, f"docker://{reference}"]
    document = _run(command, reference, limits.document_bytes + 1, stop)
    if len(document) > limits.document_bytes:
        raise InvalidInputError(f"{reference.familiar}: its manifest has more than {limits.document_bytes} bytes")
    return document


def _run(command: Sequence[str], reference: Reference, most: int, stop: Stop, *, said: bytes = b"") -> bytes:
    """What skopeo prints when it is told ``said``, at most ``most`` bytes of it. Raises ``ZonalError``."""
    try:
        process = subprocess.Popen(
            [PROGRAM, *_PLATFORM, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _missing() from error
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    found = {process.stdout: bytearray(), process.stderr: bytearray()}
    waiting = list(found)
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(said)  # a few bytes: they fit into the pipe
        while waiting:
            stop.check()
            for pipe in select.select(waiting, [], [], 0.5)[0]:
                piece = os.read(pipe.fileno(), _REPLY_BYTES)
                if not piece:
                    waiting.remove(pipe)
                elif len(found[pipe]) < most:
                    found[pipe] += piece
        status = process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
    if status:
        reason = found[process.stderr].decode(errors="replace")
        raise explain(reason or f"skopeo ended with status {status}", reference)
    return bytes(found[process.stdout][:most])


def _silent(reference: Reference) -> UnavailableError:
    return UnavailableError(
        f"{reference.familiar}: the registry has stopped answering",
        hint="try again; layers that have arrived whole are kept",
    )


def _missing() -> UnavailableError:
    return UnavailableError("the program skopeo is missing", hint="apt-get install skopeo")
