"""The recipe and its digest."""

from __future__ import annotations

from zonal.lab.recipe import PACKAGES, recipe


def test_the_same_recipe_has_the_same_digest() -> None:
    assert recipe().digest == recipe().digest
    assert len(recipe().digest) == 16


def test_a_package_more_is_another_recipe_but_one_that_is_in_already_is_not() -> None:
    assert recipe(("docker.io",)).digest != recipe().digest
    assert recipe((PACKAGES[0],)).digest == recipe().digest


def test_the_lab_gets_what_zonald_imports_and_not_what_only_the_outside_needs() -> None:
    names = {pin.split("==")[0] for pin in recipe().wheels}
    assert {"grpcio", "numpy", "protobuf", "pyelftools", "rich"} <= names
    assert not {"cryptography", "qemu.qmp", "pytest"} & names


def test_no_secret_is_on_the_disk_that_labs_share() -> None:
    assert not any("PRIVATE KEY" in text or "authorized_keys" in name for name, text in recipe().files.items())
