"""What a run needs before it can begin: a zonald, and the image if nobody has it yet.

Making the lab and making an image both take minutes the first time, so they go on side by side.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from zonal.cli.client import Control
from zonal.cli.connect import open_lab, open_socket, shown_progress, socket_path
from zonal.errors import NotFoundError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb
    from zonal.images.bootstrap import BootstrappedRoot
    from zonal.lab.access import Endpoint
    from zonal.lab.progress import Progress


class Supply:
    """Opens the way to a zonald, and gets an image for it; what is under way is given up at the block's end."""

    def __init__(self, host: str | None, lab: str | None, image: str) -> None:
        self._socket = socket_path(host, lab)
        self._lab = lab
        self._image = image
        self.stack = ExitStack()
        """For what is to end with the block, before the connection does."""
        self._making: ImageMaking | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def control(self) -> Control:
        """The control API; brings the lab up where that is what is meant. Raises ``ZonalError``."""
        channel = open_socket(self._socket) if self._socket else open_lab(self._lab_up())
        return Control(self.stack.enter_context(channel), self._socket)

    def image_missing(self, control: Control) -> bool:
        """Whether the image is not in the store."""
        from zonal.api import control_pb2 as pb

        try:
            control.call("InspectImage", pb.ImageRef(reference=self._image), pb.ImageDetails)
        except NotFoundError:
            return True
        return False

    def fetched_image(self, control: Control, *, tls_verify: bool | None) -> None:
        """Has zonald pull the image from its registry. Raises ``ZonalError``."""
        from zonal.cli.registry import pull_image

        pull_image(control, self._image, tls_verify=tls_verify)
        self._save()

    def missing_image(self, control: Control, *, tls_verify: bool | None) -> None:
        """Gets an image that is not in the store: makes it, if it is one of Debian's, else pulls it."""
        if _can_be_made(self._image):
            self.image(control)
        else:
            self.fetched_image(control, tls_verify=tls_verify)

    def image(self, control: Control, *, refresh: bool = False) -> pb.Image:
        """Makes the image, or takes the one made before, and puts it into the store. Raises ``ZonalError``."""
        from zonal.cli.image import upload_image

        with shown_progress() as progress:
            making = self._making or self._make(progress, refresh=refresh)
            root = making.result()
            with progress.step(f"Importing {self._image}") as step, root.path.open("rb") as file:
                made = upload_image(
                    control,
                    file,
                    reference=self._image,
                    source=root.source,
                    format="rootfs",
                    config_json=root.settings.decode(),
                    tell=step.detail,
                )
        self._save()
        return made

    def _save(self) -> None:
        """What came into a lab survives whatever happens to its QEMU."""
        if self._socket:
            return
        from zonal.lab import checkpoint

        with shown_progress() as progress:
            checkpoint(self._lab, progress)

    def _lab_up(self) -> Endpoint:
        from zonal.lab import ensure_up

        with shown_progress() as progress:
            # A lab that is still to be made has no images; then this one is made meanwhile.
            if not _lab_exists(self._lab) and _can_be_made(self._image):
                self._making = self._make(progress)
            endpoint = ensure_up(self._lab, progress)
            if self._making:
                self._making.result()
        return endpoint

    def _make(self, progress: Progress, *, refresh: bool = False) -> ImageMaking:
        making = ImageMaking(self._image, progress, refresh=refresh)
        self.stack.callback(making.give_up)
        return making


class ImageMaking:
    """An image being made of Debian's packages, in a thread of its own."""

    def __init__(self, name: str, progress: Progress, *, refresh: bool = False) -> None:
        self._future: Future[BootstrappedRoot] = Future()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[BootstrappedRoot] | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._run, args=(name, progress, refresh), name=f"make {name}")
        self._thread.start()

    def result(self) -> BootstrappedRoot:
        """The finished root filesystem, as soon as it is. Raises ``ZonalError``."""
        return self._future.result()

    def give_up(self) -> None:
        """Stops the making, if it still goes on, and waits for its end."""
        self._given_up = True
        # The loop is closed once the thread is through.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()

    def _cancel(self) -> None:
        if self._task:
            self._task.cancel()

    def _run(self, name: str, progress: Progress, refresh: bool) -> None:
        from zonal.images.bootstrap import bootstrap

        async def make() -> BootstrappedRoot:
            self._task = asyncio.current_task()
            if self._given_up:
                raise asyncio.CancelledError
            with progress.step(f"Making {name} of Debian's packages") as step:
                return await bootstrap(name, refresh=refresh, progress=step.detail)

        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                result = runner.run(make())
        except asyncio.CancelledError:
            self._future.set_exception(CancelledError())
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(result)


def _can_be_made(image: str) -> bool:
    from zonal.images.bootstrap import known

    return known(image) is not None


def _lab_exists(name: str | None) -> bool:
    from zonal.lab.paths import cache
    from zonal.lab.spec import check_name, default_name

    return cache().lab(check_name(name) if name else default_name()).folder.exists()
