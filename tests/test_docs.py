"""The guides show code that works, and name files that exist."""

import dataclasses
import re
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import retina_jax
from data_pipelines import build as builds
from data_pipelines import places, transforms
from data_pipelines.builders import BUILDERS
from data_pipelines.errors import InputError
from data_pipelines.records import sources
from retina_jax import build as tables
from retina_jax import experiment, objectives
from retina_jax.evals import EVALUATORS
from retina_jax.models import MODELS
from retina_jax.models.towers import TOWERS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GUIDES = (
    "architecture.md", "scale.md", "convert.md", "add_a_dataset.md", "add_an_objective.md",
    "add_an_evaluation.md", "add_a_model.md", "first_classifier.md", "predict.md", "faults.md",
)  # fmt: skip
# Files that a guide tells the reader to make.
EXAMPLES = {"data_pipelines/builders/disc_study.py", "retina_jax/losses/alignment.py",
            "retina_jax/models/patch_bag.py", "retina_jax/objectives/alignment.py",
            "retina_jax/evals/neighbours.py"}  # fmt: skip
_TOP = "|".join(("retina_jax", "data_pipelines", "configs", "docs", "tests", "launch"))


def blocks(guide: str) -> list[str]:
    """The Python code of a guide, block by block."""
    return re.findall(r"```python\n(.*?)```", (DOCS / guide).read_text("utf-8"), re.DOTALL)


def module(monkeypatch, name: str, code: str) -> types.ModuleType:
    """Runs code as the module `name`, importable until the test ends."""
    made = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(code, name, "exec"), made.__dict__)
    parent, _, child = name.rpartition(".")
    if parent:
        monkeypatch.setattr(sys.modules[parent], child, made, raising=False)
    return made


def pictures(folder: Path, header: str, rows: list[str], table: str) -> Path:
    """A folder of tiny photographs and their table; each row begins with its picture's name."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for row in rows:
        pixels = rng.integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / row.split(",")[0])
    (folder / table).write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_the_section_on_addresses_that_a_sentence_names_is_there():
    with pytest.raises(InputError, match="gs:// and s3:// work is in docs/scale.md"):
        places.local("gs://bucket", "--workdir")
    _, _, told = (DOCS / "scale.md").read_text("utf-8").partition("data and runs live\n")
    assert "gs://" in told and "s3://" in told


@pytest.mark.parametrize("guide", GUIDES)
def test_named_files_exist(guide):
    text = (DOCS / guide).read_text("utf-8")
    named = set(re.findall(rf"(?<![\w/.])((?:{_TOP})/[\w/.]*\w)", text))
    assert [name for name in sorted(named - EXAMPLES) if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert [name for name in linked if not (DOCS / name).exists()] == []


def test_the_config_of_the_dataset_guide_is_accepted(tmp_path, monkeypatch):
    rows = [f"{i}.jpg,report {i % 7} of an eye,normal,p{i // 2},OD" for i in range(400)]
    source = pictures(tmp_path / "in", "file,report,label,patient,eye", rows, "manifest.csv")
    said = builds.build("manifest", "clinic", str(tmp_path), source=str(source),
                        columns={"caption": "report"})  # fmt: skip
    assert said.splitlines()[-1] == "manifest/clinic"
    (tmp_path / "clinic.py").write_text(blocks("add_a_dataset.md")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = {**retina_jax.get_config("clinic.py"), "data_dir": str(tmp_path)}
    (stage,) = experiment.build_all(config, tmp_path / "run")
    assert stage.examples == 64 and set(stage.evaluators) == {"retrieval"}


def test_the_classes_of_the_dataset_guide_are_those_of_its_objective():
    settings: dict = {}
    exec(blocks("add_a_dataset.md")[1], settings)
    settings = settings["settings"]
    transform = dict(settings["streams"]["graded"]["transforms"][-1])
    label = tables.build(transforms.TRANSFORMS, transform)
    eye = {"dataset": "odir", "labels": ["glaucoma"], "dr_grade": "severe diabetic retinopathy"}
    found = label.map(eye)["labels"]
    assert np.flatnonzero(found == 1).tolist() == [3, 7] and np.isnan(found[9:]).all()
    logits = np.zeros((1, settings["model"]["classes"]), np.float32)
    objective = tables.build(objectives.OBJECTIVES, settings["objectives"]["classes"])
    assert np.isfinite(objective({"logits": logits}, {"labels": found[None]})["classification"])


def test_the_builder_of_the_dataset_guide_builds(tmp_path, monkeypatch):
    disc_study = module(
        monkeypatch, "data_pipelines.builders.disc_study", blocks("add_a_dataset.md")[2]
    ).DiscStudy
    monkeypatch.setitem(BUILDERS, "disc_study", disc_study)
    rows = [f"{i}.jpg,{i % 2}" for i in range(20)]
    source = pictures(tmp_path / "in", "ImgName,Label", rows, "index.csv")
    builds.build("disc_study", "all", str(tmp_path), source=str(source))
    found = [r for split in ("train", "test")
             for r in sources.load("disc_study/all", split, tmp_path).column("labels")]  # fmt: skip
    assert {label for labels in found for label in labels} == {"glaucoma", "no glaucoma"}


def test_the_objective_of_the_guide_passes_its_own_tests(monkeypatch):
    loss, objective, config, tests = blocks("add_an_objective.md")
    module(monkeypatch, "retina_jax.losses.alignment", loss)
    made = module(monkeypatch, "retina_jax.objectives.alignment", objective)
    checks = module(monkeypatch, "guide_tests", "")
    checks.__dict__.update(Alignment=made.Alignment, alignment=made.alignment)
    exec(tests, checks.__dict__)
    checks.test_alignment_by_hand()
    checks.test_alignment_has_a_gradient_where_pairs_agree()
    settings: dict = {}
    exec(config, settings)
    table = {**objectives.OBJECTIVES, "alignment": made.Alignment}
    for spec in settings["settings"]["objectives"].values():
        tables.build(table, spec)


def test_the_model_of_the_guide_passes_its_own_tests(monkeypatch):
    module_, config, tests = blocks("add_a_model.md")
    made = module(monkeypatch, "retina_jax.models.patch_bag", module_)
    checks = module(monkeypatch, "guide_tests", "")
    checks.__dict__.update(PatchBag=made.PatchBag)
    exec(tests, checks.__dict__)
    checks.test_a_picture_is_the_mean_of_its_patches()
    checks.test_patches_that_do_not_divide_a_picture_are_refused()
    settings: dict = {}
    exec(config, settings)
    monkeypatch.setitem(TOWERS, "patch_bag", made.PatchBag)
    model = tables.build(MODELS, settings["settings"]["model"])
    tokens = np.ones((2, 5), np.int32)
    batch = {"image": np.zeros((2, 16, 16, 3), np.uint8), "text": tokens, "text_mask": tokens > 0}
    out = jax.eval_shape(model.init_with_output, jax.random.key(0), batch)[0]
    assert {key: z.shape for key, z in out["z"].items()} == {"image": (2, 16), "text": (2, 16)}


def test_the_evaluation_of_the_guide_passes_its_own_test(monkeypatch):
    evaluator, config, test = blocks("add_an_evaluation.md")
    made = module(monkeypatch, "retina_jax.evals.neighbours", evaluator)
    settings: dict = {}
    exec(config, settings)
    options = settings["evaluators"]["neighbours"]
    fields = {field.name for field in dataclasses.fields(made.Neighbours)}
    assert set(options) - {"name"} <= fields and "neighbours" not in EVALUATORS
    checks = module(monkeypatch, "guide_tests", "")
    checks.__dict__.update(Neighbours=made.Neighbours, np=np)
    exec(test, checks.__dict__)
    checks.test_neighbours_vote()
