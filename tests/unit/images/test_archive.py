from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.images.tarballs import (
    OciLayout,
    configuration,
    digest,
    docker_archive,
    file,
    folder,
    source,
    symlink,
    tarball,
)
from zonal.errors import InvalidInputError
from zonal.images.archive import Contents, read_archive
from zonal.images.limits import Limits

LOWER = tarball(folder("bin"), file("bin/sh", b"shell"))
UPPER = tarball(file("app", b"application"))


def read(data: bytes, format: str = "auto", limits: Limits | None = None) -> Contents:
    with source(data, "test.tar") as archive:
        return read_archive(archive, format, limits or Limits())


def test_a_root_filesystem_is_recognised() -> None:
    for root in (
        LOWER,
        tarball(folder("./"), folder("./blobs"), file("./etc/passwd")),
        tarball(file("index.json"))[:512] * 0 + UPPER,
    ):
        contents = read(root)
        assert (contents.format, contents.config, len(contents.layers)) == ("rootfs", None, 1)


def test_an_oci_layout_is_recognised() -> None:
    data = OciLayout().add([LOWER, UPPER], annotations={"org.opencontainers.image.ref.name": "app:1"}).tar()
    for format in ("auto", "oci"):
        contents = read(data, format)
        assert contents.format == "oci"
        assert [layer.diff_id for layer in contents.layers] == [digest(LOWER), digest(UPPER)]
        assert contents.names == ("app:1",)
        assert contents.config == configuration([LOWER, UPPER])
        assert contents.manifest is not None


def test_a_docker_archive_is_recognised() -> None:
    for format in ("auto", "docker"):
        contents = read(docker_archive([LOWER, UPPER], names=["app:1", "app:2"]), format)
        assert (contents.format, contents.names) == ("docker", ("app:1", "app:2"))
        assert [layer.source.size for layer in contents.layers] == [len(LOWER), len(UPPER)]


def test_a_docker_archive_may_share_a_layer_by_a_link() -> None:
    config = configuration([LOWER, LOWER])
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["a" * 64 + "/layer.tar", "b" * 64 + "/layer.tar"]}]
    data = tarball(
        file("a" * 64 + "/layer.tar", LOWER),
        symlink("b" * 64 + "/layer.tar", "../" + "a" * 64 + "/layer.tar"),
        file("c.json", config),
        file("manifest.json", json.dumps(manifest).encode()),
    )
    first, second = read(data, "docker").layers
    assert first.source == second.source


def test_a_nested_index_gives_the_image_for_our_platform() -> None:
    layout = OciLayout()
    ours = layout.image([LOWER], platform={"os": "linux", "architecture": "amd64"})
    others = [
        layout.image(
            [UPPER], configuration([UPPER], architecture="arm64"), platform={"os": "linux", "architecture": "arm64"}
        ),
        layout.image([UPPER], platform={"os": "unknown", "architecture": "unknown"}),
    ]
    index = json.dumps({"schemaVersion": 2, "manifests": [*others, ours]}).encode()
    layout.manifests = [
        {
            **layout.blob(index, "application/vnd.oci.image.index.v1+json"),
            "annotations": {"io.containerd.image.name": "docker.io/library/app:1"},
        }
    ]
    contents = read(layout.tar())
    assert contents.layers[0].diff_id == digest(LOWER)
    assert contents.names == ("docker.io/library/app:1",)


def test_two_names_of_one_image_are_one_image() -> None:
    layout = OciLayout()
    for name in ("app:1", "app:2"):
        layout.add([LOWER], annotations={"io.containerd.image.name": name})
    assert read(layout.tar()).names == ("app:1", "app:2")


def test_what_skopeo_writes(tmp_path: Path) -> None:
    (tmp_path / "app.tar").write_bytes(docker_archive([LOWER, UPPER]))
    for target in ("oci-archive:oci.tar:app:1", "docker-archive:docker.tar:app:1"):
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "docker-archive:app.tar", target]
        subprocess.run(command, cwd=tmp_path, check=True)
    for format in ("oci", "docker"):
        contents = read((tmp_path / f"{format}.tar").read_bytes())
        assert contents.format == format
        assert [layer.diff_id for layer in contents.layers] == [digest(LOWER), digest(UPPER)]
        assert any(name.endswith("app:1") for name in contents.names)


def _layout(change: str) -> bytes:
    """A layout with one thing wrong."""
    layout = OciLayout().add([LOWER])
    descriptor = layout.manifests[0]
    name = f"blobs/sha256/{descriptor['digest'][7:]}"
    manifest: dict[str, Any] = json.loads(layout.files[name])

    def rewrite() -> None:
        layout.manifests = [layout.blob(json.dumps(manifest).encode(), descriptor["mediaType"])]

    match change:
        case "no manifest":
            del layout.files[name]
        case "no layer":
            del layout.files[f"blobs/sha256/{manifest['layers'][0]['digest'][7:]}"]
        case "size":
            descriptor["size"] += 1
        case "digest":
            layout.files[name] = layout.files[name].replace(b"2", b"3", 1)
        case "config digest":
            config = f"blobs/sha256/{manifest['config']['digest'][7:]}"
            layout.files[config] = layout.files[config].replace(b"amd64", b"AMD64")
        case "weak digest":
            descriptor["digest"] = "md5:" + "0" * 32
        case "traversal":
            descriptor["digest"] = "sha256:../../../../etc/passwd"
        case "layer type":
            manifest["layers"][0]["mediaType"] += "+encrypted"
            rewrite()
        case "artifact":
            manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
            rewrite()
        case "too many layers":
            manifest["layers"] *= 2
            rewrite()
        case "no layers":
            manifest["layers"] = []
            rewrite()
        case "version":
            layout.files["oci-layout"] = b'{"imageLayoutVersion": "9"}'
        case "two images":
            layout.add([UPPER])
        case "nothing":
            layout.manifests = []
        case "other platform":
            descriptor["platform"] = {"os": "linux", "architecture": "s390x"}
        case "type confusion":
            layout.manifests = ["x"]  # pyright: ignore[reportAttributeAccessIssue]
        case "big manifest":
            layout.manifests = [layout.blob(b" " * (5 << 20), descriptor["mediaType"])]
        case "deep":
            for _ in range(8):
                index = json.dumps({"manifests": layout.manifests}).encode()
                layout.manifests = [layout.blob(index, "application/vnd.oci.image.index.v1+json")]
        case "many":
            index = json.dumps({"manifests": [{"mediaType": "x"}] * 600}).encode()
            layout.manifests = [layout.blob(index, "application/vnd.oci.image.index.v1+json")] * 600
        case _:
            raise AssertionError(change)
    return layout.tar()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("no manifest", "lacks blobs"),
        ("no layer", "lacks blobs"),
        ("size", "its descriptor says"),
        ("digest", "corrupt"),
        ("config digest", "corrupt"),
        ("weak digest", "not a sha256 digest"),
        ("traversal", "not a sha256 digest"),
        ("layer type", "not a layer's"),
        ("artifact", "not a container image"),
        ("too many layers", "has 2 layers, the configuration 1"),
        ("no layers", "no layers"),
        ("version", "imageLayoutVersion"),
        ("two images", "holds 2 images"),
        ("nothing", "holds no image"),
        ("other platform", "is for linux/s390x"),
        ("type confusion", "not an object"),
        ("big manifest", "more than 4194304"),
        ("deep", "nested too deep"),
        ("many", "more than 1024 manifests"),
    ],
)
def test_a_spoilt_layout_is_refused(change: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        read(_layout(change))
    assert "test.tar" in caught.value.message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (docker_archive([LOWER], Config="missing.json"), "lacks missing.json"),
        (docker_archive([LOWER], Config="../../etc/passwd"), "lacks"),
        (docker_archive([LOWER], Layers=["x/layer.tar"]), "lacks the layer"),
        (docker_archive([LOWER], Layers=[]), "no layers"),
        (docker_archive([LOWER], configuration([LOWER, UPPER])), "1 layers, "),
        (docker_archive([LOWER], configuration([LOWER], architecture="arm64")), "arm64"),
        (docker_archive([LOWER], Config=5), "not a string"),
        (tarball(file("manifest.json", b"{}")), "not an array"),
        (tarball(file("manifest.json", b"[]")), "holds 0 images"),
        (tarball(file("repositories", b"{}")), "neither index nor manifest"),
        (tarball(file("manifest.json", b"[{}, {}]")), "lacks"),
    ],
)
def test_a_spoilt_docker_archive_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        read(data)


def test_a_wrong_format_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no image format"):
        read(LOWER, "zip")
    with pytest.raises(InvalidInputError, match="lacks oci-layout"):
        read(LOWER, "oci")
    with pytest.raises(InvalidInputError, match=r"lacks manifest\.json"):
        read(LOWER, "docker")


def test_layers_are_counted() -> None:
    with pytest.raises(InvalidInputError, match="3 layers, more than 2"):
        read(docker_archive([LOWER] * 3), limits=Limits(layers=2))


@given(st.data())
def test_a_spoilt_archive_is_read_or_refused(draw: st.DataObject) -> None:
    data = bytearray(draw.draw(st.sampled_from([OciLayout().add([LOWER]).tar(), docker_archive([LOWER])])))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        read(bytes(data), draw.draw(st.sampled_from(["auto", "oci", "docker"])))
    except InvalidInputError as error:
        assert error.message


def test_names_of_python_tars_are_taken_in_every_format() -> None:
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        assert read(tarball(file("etc/hostname", b"x"), format=format)).format == "rootfs"
