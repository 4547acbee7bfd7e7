"""Answers of two runtimes made into one.

Protocol Buffers' own rule does most of it: the bytes of two messages, one after the other, are the message with the
lists of both ("Last One Wins", encoding specification). Here is what needs more than that. The first is ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from zonal.cri.api import runtime_pb2 as cri

OTHER_RUNTIME_READY = "OtherRuntimeReady"
"""The condition in ``Status`` that tells of the other runtime; a kubelet shows it and does not act on it."""
INFO_PREFIX = "other-runtime."


def merge_images(ours: Iterable[cri.Image], theirs: Iterable[cri.Image]) -> list[cri.Image]:
    """Each image once: with the names that either has for it, and the bytes that it takes in both."""
    merged = {image.id: image for image in ours}
    for image in theirs:
        same = merged.get(image.id)
        if same is None:
            merged[image.id] = image
            continue
        same.repo_tags.extend(tag for tag in image.repo_tags if tag not in same.repo_tags)
        same.repo_digests.extend(digest for digest in image.repo_digests if digest not in same.repo_digests)
        # The collection of unused images frees this much: it removes from both.
        same.size += image.size
        same.pinned = same.pinned or image.pinned
    return list(merged.values())


def merge_status(
    ours: cri.StatusResponse, theirs: cri.StatusResponse | None, our_handlers: frozenset[str], trouble: str
) -> cri.StatusResponse:
    """Ours, with the other's handlers, what both can, and a condition that tells how the other is.

    Whether the node is ready is ours to say: the kubelet would else stop our pods with the other runtime.
    """
    ready, reason, message = False, "NoAnswer", trouble
    if theirs is not None:
        unmet = [condition for condition in theirs.status.conditions if not condition.status]
        ready = not unmet
        reason = unmet[0].reason if unmet else ""
        message = "; ".join(f"{each.type}: {each.message}" for each in unmet)
        known = {handler.name for handler in ours.runtime_handlers} | our_handlers
        ours.runtime_handlers.extend(each for each in theirs.runtime_handlers if each.name not in known)
        # The kubelet takes these for every pod of the node.
        for feature in ours.features.DESCRIPTOR.fields:
            if not getattr(theirs.features, feature.name) and getattr(ours.features, feature.name):
                ours.features.ClearField(feature.name)
        for key, value in theirs.info.items():
            ours.info[INFO_PREFIX + key] = value
    ours.status.conditions.add(type=OTHER_RUNTIME_READY, status=ready, reason=reason, message=message)
    return ours


def merge_file_systems(ours: cri.ImageFsInfoResponse, theirs: cri.ImageFsInfoResponse) -> cri.ImageFsInfoResponse:
    """Ours first, which the kubelet watches for space; the other's after it, unless both are on the same."""
    mounted = {each.fs_id.mountpoint for each in ours.image_filesystems}
    ours.image_filesystems.extend(each for each in theirs.image_filesystems if each.fs_id.mountpoint not in mounted)
    # A kubelet compares the first of these with the first of those; with none of ours it must see none.
    if ours.container_filesystems:
        mounted = {each.fs_id.mountpoint for each in ours.container_filesystems}
        extra = (each for each in theirs.container_filesystems if each.fs_id.mountpoint not in mounted)
        ours.container_filesystems.extend(extra)
    return ours


def merge_descriptors(
    ours: cri.ListMetricDescriptorsResponse, theirs: cri.ListMetricDescriptorsResponse
) -> cri.ListMetricDescriptorsResponse:
    """Each metric once, as the first describes it."""
    names = {each.name for each in ours.descriptors}
    ours.descriptors.extend(each for each in theirs.descriptors if each.name not in names)
    return ours


def matches_sandbox(sandbox: cri.PodSandbox, wanted: cri.PodSandboxFilter) -> bool:
    """Whether ``ListPodSandbox`` with this filter lists it."""
    return (
        sandbox.id.startswith(wanted.id)
        and (not wanted.HasField("state") or sandbox.state == wanted.state.state)
        and all(sandbox.labels.get(key) == value for key, value in wanted.label_selector.items())
    )


def matches_container(container: cri.Container, wanted: cri.ContainerFilter) -> bool:
    """Whether ``ListContainers`` with this filter lists it."""
    return (
        container.id.startswith(wanted.id)
        and container.pod_sandbox_id.startswith(wanted.pod_sandbox_id)
        and (not wanted.HasField("state") or container.state == wanted.state.state)
        and all(container.labels.get(key) == value for key, value in wanted.label_selector.items())
    )
