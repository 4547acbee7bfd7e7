"""The CRI's ImageService on the store of images."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.credentials import login_for
from zonal.daemon.services import ImageService
from zonal.errors import InvalidInputError, NotFoundError, UnavailableError, ZonalError
from zonal.images.image import Image
from zonal.images.reference import parse
from zonal.images.skopeo import Access

_REGISTRY_UNAVAILABLE = "RegistryUnavailable"
_MAX_UID = (1 << 63) - 1


class RegistryUnavailableError(ZonalError):
    """A registry does not answer. A kubelet tells this from other failures, which it shows as its reason for a pod's
    waiting, by how the message begins, and has the message alone where the code says nothing (its images' errors)."""

    grpc_code = "UNKNOWN"


class Images:
    """See the module."""

    def __init__(self, images: ImageService, folder: Path) -> None:
        """``folder``: where the store is, for the kubelet to see how full the disk is."""
        self._images = images
        self._folder = folder

    def list(self, wanted: pb.ImageFilter) -> list[pb.Image]:
        """Those that are wanted."""
        if name := wanted.image.image:
            found = self.find(name)
            return [] if found is None else [self.message(found)]
        return [self.message(each) for each in self._images.list()]

    def find(self, name: str) -> Image | None:
        """By name or id."""
        try:
            return self._images.resolve(name)
        except NotFoundError:
            return None

    def status(self, request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
        """Without an image where there is none. Raises ``InvalidInputError`` for what is no name."""
        if not request.image.image:
            raise InvalidInputError("no image is named")
        found = self.find(request.image.image)
        if found is None:
            return pb.ImageStatusResponse()
        info: dict[str, str] = {}
        if request.verbose:
            document = json.loads(self._images.read_config(found.id))
            info["info"] = json.dumps({"chainID": found.chain_id, "imageSpec": document})
        return pb.ImageStatusResponse(image=self.message(found), info=info)

    async def pull(self, request: pb.PullImageRequest) -> pb.PullImageResponse:
        """Raises what a registry's answer comes to; ``RegistryUnavailableError`` where there is none."""
        name = request.image.image
        if not name:
            raise InvalidInputError("no image is named")
        access = Access(login_for(request.auth, parse(name).domain))
        try:
            pulled = await self._images.pull(name, access)
        except UnavailableError as error:
            raise RegistryUnavailableError(f"{_REGISTRY_UNAVAILABLE}: {error.message}", hint=error.hint) from error
        return pb.PullImageResponse(image_ref=pulled.image.id)

    def remove(self, name: str) -> None:
        """All its names; one that is not there is removed already."""
        if not name:
            raise InvalidInputError("no image is named")
        found = self.find(name)
        if found is not None:
            self._images.remove(found.id, force=True)

    async def usage(self) -> pb.ImageFsInfoResponse:
        """Bytes and files of the store."""
        files = await asyncio.to_thread(_files_below, self._folder)
        usage = pb.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=pb.FilesystemIdentifier(mountpoint=str(self._folder)),
            used_bytes=pb.UInt64Value(value=self._images.usage().size),
            inodes_used=pb.UInt64Value(value=files),
        )
        return pb.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    def message(self, image: Image) -> pb.Image:
        """One, as the CRI has it."""
        names = [parse(name) for name in image.references]
        message = pb.Image(
            id=image.id,
            repo_tags=[f"{each.repository}:{each.tag}" for each in names if each.tag],
            repo_digests=[f"{each.repository}@{each.digest}" for each in names if each.digest],
            size=image.size,
            spec=pb.ImageSpec(image=image.id),
        )
        user = self._images.config(image.id).user.partition(":")[0]
        if user.isascii() and user.isdecimal():
            message.uid.value = min(int(user[:20]), _MAX_UID)
        elif user:
            message.username = user
        return message


def _files_below(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))
