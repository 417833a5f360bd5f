"""RET-CLIP's config: published optimiser and inputs, options of the loss, patients of one eye."""

import base64
import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import paired_samples
import pytest
from ml_collections import ConfigDict
from runs import bert_vocabulary, config, logged, whole_config

from data_pipelines import build as builds
from data_pipelines.records import sources
from data_pipelines.transforms import TRANSFORMS
from retina_jax import experiment, starts
from retina_jax.build import build
from retina_jax.models import MODELS
from retina_jax.objectives import OBJECTIVES
from retina_jax.settings import Optimization
from retina_jax.train import loop, schedule
from retina_jax.train import optimizer as optimizers

PATIENTS, LEVELS = 193_865, ("left", "right", "patient")
SMALL = {"name": "vit", "width": 8, "depth": 1, "heads": 1, "mlp_dim": 8, "patch_size": 16}


@pytest.fixture(scope="module")
def full():
    """The settings of the published recipe."""
    return config("retclip", "full").to_dict()


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 6e-7), (49, 3e-5), (50, 3e-5), (3815, 1.5e-5), (7579, 1.305e-12)]
)
def test_learning_rates_are_the_published_ones(full, step, rate):
    _, rates = experiment._optimization(
        Optimization(**full["optimization"]), batch_size=256, records=PATIENTS, total=7580
    )
    # The last one is below the resolution of the cosine in float32, which is 2e-12.
    assert float(rates(step)) == pytest.approx(rate, rel=1e-5, abs=2e-12)


def test_an_epoch_is_not_filled_up_with_its_first_patients(full):
    epoch = {"batch_size": full["streams"]["patients"]["batch_size"], "records": PATIENTS}
    assert schedule.steps(full["total"], **epoch) == 7573  # 7580 as published
    assert full["seed"] == 123


@pytest.fixture(scope="module")
def parameters(full):
    """Shapes of the published model's parameters."""
    batch = {"eyes": jax.ShapeDtypeStruct((2, 2, 224, 224, 3), "uint8"),
             "eye_mask": jax.ShapeDtypeStruct((2, 2), "bool"),
             "text": jax.ShapeDtypeStruct((2, 100), "int32"),
             "text_mask": jax.ShapeDtypeStruct((2, 100), "bool")}  # fmt: skip
    model = build(MODELS, full["model"])
    assert "bias" not in jax.eval_shape(model.init_with_output, jax.random.key(0), batch)[0]
    return jax.eval_shape(model.init, jax.random.key(0), batch)["params"]


def test_full_is_the_published_model(parameters):
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters)) == 191_871_235


def test_what_does_not_decay_is_as_published(full, parameters):
    """By the published names: what holds bn, ln, bias or logit_scale."""
    rules = full["optimization"]["rules"]
    assigned = optimizers.assign(parameters, rules)
    spared = {
        optimizers.parameter_name(path): math.prod(leaf.shape)
        for (path, leaf), rule in zip(
            jax.tree_util.tree_leaves_with_path(parameters), jax.tree.leaves(assigned), strict=True
        )
        if not rules[int(rule)][1].get("decay", True)
    }
    # Two norms around the image tower and two in each layer, with gain and bias; then the biases
    # of query, key and value, of the output, and of both maps of the MLP.
    image = 4 * 768 + 12 * (4 * 768 + 3 * 768 + 768 + 3072 + 768)
    # The gains of the text tower's norms, which are called LayerNorm there, decay.
    text = 768 + 12 * (2 * 768 + 3 * 768 + 768 + 3072 + 768)
    heads = 3 * (768 + 512) + 3
    parts = {"image": 0, "text": 0}
    for name, size in spared.items():
        parts[name.split("/")[0]] = parts.get(name.split("/")[0], 0) + size
    assert parts.pop("image") == image and parts.pop("text") == text
    assert sum(parts.values()) == heads


def test_the_optimizer_is_the_published_adamw(full):
    """Two steps of a parameter that decays and of one that does not, in float64 by hand."""
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=4), "bias": rng.normal(size=4)}
    rules = ((".*bias", {"decay": False}), (".*", {}))
    transformation, _ = experiment._optimization(
        Optimization(**{**full["optimization"], "rules": rules}),
        batch_size=256,
        records=PATIENTS,
        total=7580,
    )
    given = jax.tree.map(np.float32, params)
    state, first, second = transformation.init(given), np.zeros(4), np.zeros(4)
    for i, gradient in enumerate(rng.normal(size=(2, 4)) * 1e-3):
        both = dict.fromkeys(params, gradient.astype(np.float32))
        updates, state = transformation.update(both, state, given)
        first = 0.9 * first + 0.1 * gradient
        second = 0.98 * second + 0.02 * gradient**2
        moment = np.sqrt(second / (1 - 0.98 ** (i + 1))) + 1e-6
        step = first / (1 - 0.9 ** (i + 1)) / moment
        rate = 3e-5 * (i + 1) / 50
        decayed = -rate * (step + 1e-3 * params["kernel"])
        np.testing.assert_allclose(updates["kernel"], decayed, rtol=2e-5)
        np.testing.assert_allclose(updates["bias"], -rate * step, rtol=2e-5)


REPORT = "双眼：" + "视盘边界清，" * 40


@pytest.fixture(scope="module")
def published_batch(tmp_path_factory):
    """A batch of `:full` on four patients, one of them without a left photograph."""
    folder = tmp_path_factory.mktemp("ret_clip")
    eyes = [base64.b64encode(paired_samples.jpeg(i)).decode() for i in range(8)]
    eyes[2] = ""
    (folder / "train_imgs.tsv").write_text(
        "".join(f"p{i}\t{eyes[2 * i]}\t{eyes[2 * i + 1]}\n" for i in range(4))
    )
    texts = [REPORT, "Drusen.", "正常眼底", REPORT]
    (folder / "train_texts.jsonl").write_text(
        "\n".join(
            json.dumps({"text_id": i, "text": text, "image_ids": [f"p{i}"]})
            for i, text in enumerate(texts)
        )
    )
    (folder / "test_imgs.tsv").write_text(f"p9\t{eyes[0]}\t{eyes[1]}\n")
    (folder / "test_texts.jsonl").write_text('{"text_id": 9, "text": "a", "image_ids": ["p9"]}')
    builds.build("ret_clip", "default", str(folder), source=str(folder), processes=1)
    rows = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rows += sorted({*REPORT, *"正常眼底", "drusen", "."})
    rows += [f"[unused{i}]" for i in range(100, 100 + 21_128 - len(rows))]
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join(rows) + "\n", encoding="utf-8")
    chosen = config("retclip", "full", data_dir=str(folder))
    del chosen.restore_from  # the folder of weights is not there
    chosen.tokenizer.vocab = str(vocab)
    chosen.streams.patients.batch_size = 4
    chosen.loading.num_workers = 0
    chosen.model.towers.image = ConfigDict(SMALL)
    chosen.model.towers.text.update(width=8, depth=1, heads=1, mlp_dim=8)
    (made,) = experiment.build_all(chosen, folder / "run")
    return SimpleNamespace(
        batch=next(made.data.batches(0, 1)), words=dict(zip(rows, range(len(rows)), strict=True))
    )


def test_full_reads_patients_in_the_published_form(published_batch):
    batch = published_batch.batch
    assert batch["eyes"].shape == (4, 2, 224, 224, 3) and batch["eyes"].dtype == np.uint8
    assert batch["text"].shape == batch["text_mask"].shape == (4, 100)
    one = (~batch["eye_mask"]).any(axis=1)
    assert one.sum() == 1 and batch["eye_mask"][one].tolist() == [[False, True]]
    words, lengths = published_batch.words, batch["text_mask"].sum(axis=1)
    long, short = batch["text"][lengths == 100], batch["text"][lengths < 100]
    assert len(long) == 2 and len(short) == 2
    for row in long:  # cut, and still closed
        assert row[0] == 101 and row[-1] == 102
        assert row[1:99].tolist() == [words[letter] for letter in REPORT[:98]]
    english = next(row for row in short if row[1] == words["drusen"])
    assert english[:4].tolist() == [101, words["drusen"], words["."], 102]
    assert not english[4:].any()
    assert batch["group"][lengths == 100][0] == batch["group"][lengths == 100][1]


def test_the_augmentation_is_the_published_one(full):
    eyes, crop, flip, jitter, erasing = full["streams"]["patients"]["transforms"][:5]
    assert eyes == {"name": "eyes", "size": 512, "fit": "squash"}
    assert (crop["name"], crop["size"], crop["area"]) == ("random_resized_crop", 224, (0.9, 1.0))
    assert flip["name"] == "random_flip" and build(TRANSFORMS, flip).probability == 0.5
    strengths = [jitter[name] for name in ("brightness", "contrast", "saturation")]
    assert (jitter["name"], jitter["probability"], strengths) == ("color_jitter", 1, [0.2] * 3)
    assert erasing["name"] == "random_erasing" and build(TRANSFORMS, erasing).probability == 0.1
    assert all(one["share"] is False for one in (crop, flip, jitter))
    assert all(one["source"] == "eyes" for one in (crop, flip, jitter, erasing))
    # The mean that is subtracted is what erased pixels have.
    np.testing.assert_allclose(np.multiply(full["model"]["mean"], 255), [123, 117, 104], atol=0.5)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Outputs of `:smoke`'s model with learned biases for a batch of 8, and its objective."""
    chosen = config("retclip")
    chosen.model.bias_init = -1.0
    (made,) = experiment.build_all(chosen, tmp_path_factory.mktemp("run"))
    batch = next(made.data.batches(0, 1))
    variables = jax.jit(made.model.init)(jax.random.key(0), batch)
    out = jax.jit(made.model.apply)(variables, batch)
    return SimpleNamespace(out=out, batch=batch, spec=chosen.to_dict()["objectives"])


def terms(smoke, rows=slice(None), **options):
    (spec,) = smoke.spec.values()
    cut = {key: {name: value[rows] for name, value in smoke.out[key].items()}
           for key in ("z", "row_mask")}  # fmt: skip
    batch = {key: value[rows] for key, value in smoke.batch.items()}
    return build(OBJECTIVES, {**spec, **options})({**smoke.out, **cut}, batch)


def test_each_level_is_a_term_with_its_own_scale(smoke):
    found = terms(smoke)
    assert set(found) == {f"contrastive/{level}-text_{level}" for level in LEVELS}
    # Reports of the embedded patients differ, so that groups are single rows: softmax by hand.
    for level in LEVELS:
        logits = np.float64(smoke.out["z"][level]) @ np.float64(smoke.out["z"][f"text_{level}"]).T
        logits *= float(smoke.out["scale"][level])
        both = (logits, logits.T)
        loss = np.mean([np.log(np.exp(x).sum(1)) - np.diagonal(x) for x in both])
        assert float(found[f"contrastive/{level}-text_{level}"]) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_options_of_the_loss(smoke, kind):
    dense = terms(smoke, kind=kind)
    tiles = terms(smoke, kind=kind, blockwise=4)
    local = terms(smoke, kind=kind, local_negatives=4)
    halves = [terms(smoke, rows, kind=kind) for rows in (slice(0, 4), slice(4, 8))]
    for name, value in dense.items():
        assert np.isfinite(value)
        assert float(tiles[name]) == pytest.approx(float(value), rel=1e-5)
        apart = np.mean([float(half[name]) for half in halves])
        assert float(local[name]) == pytest.approx(apart, rel=1e-5)
        assert float(local[name]) != float(value)


def test_microbatches(tmp_path):
    (made,) = experiment.build_all(config("retclip", microbatch=4), tmp_path)
    assert made.microbatching.count == 2


ODIR = {  # patient -> what its left and its right eye have; None for no photograph
    "a": ("normal", "normal"), "b": ("glaucoma", None), "c": (None, "cataract+other"),
    "d": ("normal", "cataract"), "e": ("glaucoma", "glaucoma"), "f": ("cataract", "normal"),
}  # fmt: skip


@pytest.fixture(scope="module")
def odir(tmp_path_factory):
    """The folder of the data sets that `configs/odir.py` reads: 6 patients, twice."""
    folder = tmp_path_factory.mktemp("odir")
    rows = [["file", "label", "caption", "eye", "patient", "split", "dataset"]]
    for split, start in (("train", 0), ("test", 100)):
        for i, (patient, eyes) in enumerate(ODIR.items()):
            for j, label in enumerate(eyes):
                if label is not None:
                    name = f"{split}_{patient}{j}.jpg"
                    photograph = paired_samples.jpeg(start + 2 * i + j)
                    paired_samples.put(folder / "odir" / name, photograph)
                    rows.append([name, label, label.replace("+", ", "),
                                 ("OS", "OD")[j], f"{split}{patient}", split, "odir"])  # fmt: skip
    paired_samples.table(folder / "odir" / "manifest.csv", rows)
    for name, own in (("odir_patients", {"unit": "patient"}), ("retina", {"dr_grade": "caption"})):
        builds.build("manifest", name, str(folder), source=str(folder), processes=1,
                     csv="*/manifest.csv", label_separator="+", **own)  # fmt: skip
    bert_vocabulary(folder / "vocab.txt")
    return folder


def study(odir, variant):
    """The stage of `configs/odir.py` from small random towers."""
    chosen = starts.scratch(whole_config("odir", variant).to_dict()["stages"][variant])
    chosen.pop("restore_from")
    small = {"width": 8, "depth": 1, "heads": 1, "mlp_dim": 8}
    model = {**chosen["model"], "towers": {
        "image": SMALL, "text": {**chosen["model"]["towers"]["text"], **small}}}  # fmt: skip
    vocabulary = {"name": "wordpiece", "vocab": str(odir / "vocab.txt")}
    (stream,) = chosen["streams"].values()
    stream["batch_size"] = 6
    del stream["distinct"]
    changed = {"model": model, "tokenizer": vocabulary, "data_dir": str(odir)}
    optimization = {**chosen["optimization"], "rules": ((".*", {}),)}
    return {**chosen, **changed, "optimization": optimization, "total": {"steps": 1}}


def test_patients_of_one_eye_take_part(odir, tmp_path):
    """In training, and in every evaluation."""
    assert len(sources.load("manifest/odir_patients", "train", str(odir))) == 6
    (made,) = experiment.build_all(study(odir, "retclip"), tmp_path)
    batch = next(made.data.batches(0, 1))
    assert made.data.records == {"": 6}
    masks = sorted(batch["eye_mask"].tolist())
    assert masks == [[False, True], [True, False]] + [[True, True]] * 4
    loop.train(made, tmp_path)
    losses = list(logged(tmp_path).values())
    assert losses and np.isfinite(losses).all()
    scores = json.loads((tmp_path / "results.json").read_text())["scores"]
    counts = {
        score["evaluator"]: score["count"]
        for score in scores
        if score["metric"] in ("auc_glaucoma", "eyes_to_text_recall_at_1")
    }
    assert counts == dict.fromkeys(("zeroshot", "probe", "retrieval"), 6)


def test_single_photographs_are_trained_on_apart(odir, tmp_path):
    (made,) = experiment.build_all(study(odir, "retclip_eyes"), tmp_path)
    assert made.data.records == {"": 10}
    assert set(made.evaluators) == {"zeroshot", "probe", "retrieval"}


def test_a_classifier_is_probed_on_the_same_patients(odir, tmp_path):
    """The first rows of the table: what RET-CLIP's tower knew before, and ImageNet's."""
    stage = starts.scratch(whole_config("odir", "classifier").to_dict()["stages"]["classifier"])
    assert stage["evaluators"]["probe"] == study(odir, "retclip")["evaluators"]["probe"]
    model = {**stage["model"], "tower": SMALL}
    (stream,) = stage["streams"].values()
    stream = {**stream, "batch_size": 6, "where": {"dataset": "odir"}}
    optimization = {**stage["optimization"], "rules": ((".*", {}),)}
    changed = {"model": model, "data_dir": str(odir), "optimization": optimization}
    stage = {**stage, **changed, "streams": {"public": stream}}
    (made,) = experiment.build_all(stage, tmp_path)
    state = loop.fresh_state(made, loop.abstract_state(made))
    scores = made.evaluators["probe"].run(state).scores
    assert {scores[name].count for name in ("auc", "average_precision")} == {6}
    data = made.evaluators["probe"].test
    patients = made.evaluators["probe"].encoder.encode_dataset(
        state, data, "features", ["eyes"], ["eye_mask"])  # fmt: skip
    (width,) = {patients["eyes"].shape[1]}
    first, second = patients["eyes"][:, : width // 2], patients["eyes"][:, width // 2 :]
    alone = ~patients["eye_mask"].all(axis=1)
    same = (first == second).all(axis=1)
    np.testing.assert_array_equal(same, alone)  # the eye that is there stands for the other
