"""What is trained on is not evaluated on, and how pictures were prepared is not forgotten."""

import json
import logging

import corpora
import numpy as np
import pytest
from PIL import Image
from runs import config, program

from data_pipelines import build
from data_pipelines.errors import InputError
from data_pipelines.images import preparation
from data_pipelines.images.preparation import Preparation
from data_pipelines.records import sources, storage
from retina_jax import experiment, inputs, record
from retina_jax.train import loop, run_directory
from retina_jax.train.checkpoint import Checkpointer

pytestmark = pytest.mark.fast
DECODE = {"name": "decode", "size": 16}


def photograph(seed):
    """A disc with a smooth pattern of its own."""
    coarse = np.random.default_rng(seed).integers(40, 220, (12, 12, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((120, 120), Image.Resampling.BICUBIC)).copy()
    y, x = np.mgrid[:120, :120]
    image[np.hypot(y - 60, x - 60) > 56] = 0
    return Image.fromarray(image)


def write(folder, rows, **saving):
    """A folder of photographs, {file: seed}, with a manifest that names their splits."""
    folder.mkdir()
    table = [["file", "label", "caption", "patient", "split"]]
    for number, (name, seed) in enumerate(rows.items()):
        photograph(seed).save(folder / name, "JPEG", **saving)
        label = ("normal", "cataract")[number % 2]
        table.append([name, label, f"{label} {seed}", f"p{seed}", name.partition("_")[0]])
    corpora.write_csv(folder / "manifest.csv", table)
    return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """'manifest/mine': six patients to train on and six to test; 'manifest/theirs': others, one of
    whose test pictures is one of our training pictures, encoded again, under another name."""
    root = tmp_path_factory.mktemp("inputs")
    mine = {f"train_{i}.jpg": i for i in range(6)} | {f"test_{i}.jpg": 20 + i for i in range(6)}
    theirs = {f"train_{i}.jpg": 40 + i for i in range(6)}
    theirs |= {"test_0.jpg": 60, "test_copy.jpg": 3}
    for name, rows, quality in (("mine", mine, 95), ("theirs", theirs, 70)):
        source = write(root / name, rows, quality=quality)
        build.build("manifest", name, str(root / "data"), source=source, processes=1)
    return str(root / "data")


def spec(dataset="manifest/mine", split="test", transforms=(DECODE,), **options):
    return {"dataset": dataset, "split": split, "batch_size": 1, "transforms": transforms,
            **options}  # fmt: skip


def evaluations(data_dir, trained=("manifest/mine:train",), **evaluators):
    context = inputs.Context(None, data_dir)
    known = [sources.load(*text.split(":"), data_dir) for text in trained]
    return inputs.evaluations(evaluators, context, known)


def test_an_evaluation_on_other_records_has_its_data_and_no_remark(data_dir):
    other = {"name": "retrieval", "data": spec()}
    made = evaluations(data_dir, a={"name": "retrieval", "data": spec(), "gallery": 3}, b=other)
    assert list(made["a"].data) == ["data"] and len(made["a"].data["data"]) == 6
    assert made["b"].data["data"] is made["a"].data["data"]  # so that it is encoded once
    assert made["a"].overlap == ""


def test_an_evaluation_on_training_records_is_refused_by_name(data_dir):
    with pytest.raises(InputError) as refused:
        evaluations(data_dir, mistaken={"name": "retrieval", "data": spec(split="test+train[:2]")})
    sentence = str(refused.value)
    assert sentence.startswith(
        "The evaluation 'mistaken' would be scored on training data: 2 of "
        "the 8 records of manifest/mine:test+train[:2] are in manifest/"
    )
    train = sources.load("manifest/mine", "train", data_dir)
    assert all(name in sentence for name in train.column("id")[:2])
    assert "allow_overlap=True in its 'data'" in sentence
    assert "--config.evaluators.mistaken.data.allow_overlap=True" in sentence
    assert "--config.stages.STAGE" in sentence and "(--config.evaluators={})." in sentence


def test_a_copy_under_another_name_in_another_data_set_is_found(data_dir):
    with pytest.raises(InputError, match=r"1 of the 2 records of manifest/theirs:test are in "
                       r"manifest/mine:train: 1 the same picture or nearly \(test_copy.jpg#\d+ = "
                       r"train_3.jpg#\d+\)"):  # fmt: skip
        evaluations(data_dir, a={"name": "retrieval", "data": spec("manifest/theirs")})


def test_evaluations_of_other_records_of_one_split_are_compared_one_by_one(data_dir):
    def only(label):
        data = spec("manifest/theirs", where={"labels": label})
        return {"name": "retrieval", "data": data}

    evaluations(data_dir, fine=only("normal"))
    with pytest.raises(InputError, match="'leaky' .* 1 of the 1 records"):
        evaluations(data_dir, fine=only("normal"), leaky=only("cataract"))


def test_allowed_overlap_is_logged_and_kept(data_dir, caplog):
    both = {"name": "retrieval", "data": spec("manifest/theirs", allow_overlap=True)}
    with caplog.at_level(logging.WARNING):
        made = evaluations(data_dir, leaky=both)
    assert "test_copy.jpg" in made["leaky"].overlap
    (line,) = [r.getMessage() for r in caplog.records if "leaky" in r.getMessage()]
    assert "as its config allows" in line and "test_copy.jpg" in line


def test_the_training_part_of_a_probe_may_have_been_trained_on(data_dir):
    probe = {"name": "linear_probe", "train": spec(split="train"), "test": spec()}
    assert evaluations(data_dir, probe=probe)["probe"].overlap == ""
    with pytest.raises(InputError, match="6 of the 6 records .* in its 'train'"):
        evaluations(data_dir, folds={"name": "linear_probe", "train": spec(split="train")})


def test_the_training_part_of_a_probe_must_not_be_in_its_test_part(data_dir):
    probe = {"name": "linear_probe", "train": spec(split="test[2:]"), "test": spec()}
    with pytest.raises(InputError, match=r"4 of the 6 records of manifest/mine:test are in "
                       r"manifest/mine:test\[2:\]"):  # fmt: skip
        evaluations(data_dir, trained=(), probe=probe)
    # The same pair of sets under other conditions is another pair.
    other = {"name": "linear_probe", "train": spec(split="test[2:]", ban={"words": ["normal"]}),
             "test": spec(where={"labels": "normal"})}  # fmt: skip
    assert evaluations(data_dir, trained=(), fine=other)["fine"].overlap == ""


def test_banned_words_leave_records_out_of_streams_and_evaluations(data_dir):
    ban = {"words": ["cataract"]}
    made = evaluations(data_dir, a={"name": "retrieval", "data": spec(ban=ban)})
    assert len(made["a"].data["data"]) == 3
    streams = inputs.streams(
        {"s": spec(split="train", ban=ban)}, "s", inputs.Context(None, data_dir), 1
    )
    assert len(streams["s"].source) == 3


RECORDS = {"dataset": "manifest/mine", "split": "train"}


def flair(data_dir, evaluators=None, **stream):
    """The smoke config on our photographs, of which it reads the captions."""
    made = config("flair", data_dir=data_dir, total={"steps": 1})
    made.streams.public.update({**RECORDS, "batch_size": 2, **stream})
    made.streams.public.transforms = ({"name": "decode", "size": 32},
                                      {"name": "tokenize", "source": "caption", "length": 8},
                                      {"name": "group", "source": "caption"})  # fmt: skip
    with made.unlocked():
        made.evaluators = evaluators or {}
    return made


def retrieval(dataset, **options):
    read = ({"name": "decode", "size": 32}, {"name": "tokenize", "source": "caption", "length": 8},
            {"name": "group", "source": "caption"})  # fmt: skip
    return {"name": "retrieval", "data": spec(dataset, transforms=read, **options)}


def test_a_run_that_would_be_scored_on_its_training_data_does_not_begin(data_dir, tmp_path):
    with pytest.raises(InputError, match="'leaky' would be scored on training data"):
        experiment.build_all(flair(data_dir, {"leaky": retrieval("manifest/theirs")}), tmp_path)
    (made,) = experiment.build_all(flair(data_dir, {"fine": retrieval("manifest/mine")}), tmp_path)
    assert made.overlaps == {}


def test_what_earlier_stages_were_trained_on_counts(data_dir, tmp_path):
    made = config("mmretinal_v2", data_dir=data_dir)
    text = {"transforms": made.stages.text.streams.text.transforms, "batch_size": 2}
    stage = flair(data_dir, {"a": retrieval("manifest/mine")}, dataset="manifest/theirs")
    with made.unlocked():
        made.stages.knowledge = stage
        for dataset in ("manifest/mine", "manifest/theirs"):
            made.stages.text.streams.text = {**text, "dataset": dataset, "split": "test"}
            made.stages.text.streams.text.transforms[0]["source"] = "caption"
            if dataset == "manifest/mine":
                with pytest.raises(InputError, match="'a' .* 6 of the 6 records"):
                    experiment.build_all(made, tmp_path)
            else:
                assert experiment.build_all(made, tmp_path)[1].overlaps == {}


# --------------------------------------------------------------------------- preparation


@pytest.fixture
def prepared(data_dir):
    """Says that a data set was prepared with a size; takes it back after the test."""
    places = []

    def write(dataset, size):
        place = storage.find(dataset, data_dir) / preparation.FILE
        place.write_text(json.dumps(preparation.parameters(Preparation(size))))
        places.append(place)

    yield write
    for place in set(places):
        place.unlink()


def test_a_run_does_not_go_on_with_pictures_prepared_otherwise(data_dir, prepared, tmp_path):
    def claimed(size=None, workdir=tmp_path):
        if size:
            prepared("manifest/mine", size)
        (made,) = experiment.build_all(flair(data_dir), workdir)
        run_directory.check_run_directory(workdir, made, 0)
        return json.loads((workdir / "config.json").read_text())["preparation"]

    assert claimed() == {"manifest/mine": None}
    with pytest.raises(InputError, match="other pictures: manifest/mine: prepared instead of not "):
        claimed(64)
    (tmp_path / "again").mkdir()
    assert claimed(64, tmp_path / "again")["manifest/mine"]["size"] == 64
    with pytest.raises(InputError, match="mine: size 32 instead of 64; prepare them as before"):
        claimed(32, tmp_path / "again")
    claimed(64, tmp_path / "again")


def test_pictures_that_were_prepared_smaller_than_they_are_shown_are_told(
    data_dir, prepared, tmp_path, caplog
):
    made = flair(data_dir)
    read = made.streams.public.transforms
    crop = {"name": "random_resized_crop", "size": None}  # keeps the size
    made.streams.public.transforms = (*read, crop)
    for size, told in ((read[0]["size"], 0), (read[0]["size"] - 1, 1)):
        prepared("manifest/mine", size)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            experiment.build_all(made, tmp_path)
        lines = [line for line in caplog.text.splitlines() if "are enlarged to" in line]
        assert len(lines) == told
        assert all(f"manifest/mine were prepared with --size={size}" in line for line in lines)


def test_a_run_from_before_preparations_were_recorded_goes_on(data_dir, tmp_path):
    (made,) = experiment.build_all(flair(data_dir), tmp_path)
    run_directory.check_run_directory(tmp_path, made, 0)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert {"given", "preparation", "resolved"} < set(stored)
    (tmp_path / "config.json").write_text(json.dumps(stored["given"]))
    run_directory.check_run_directory(tmp_path, made, 0)


def test_the_preparation_is_in_the_checkpoint_and_a_difference_is_told(
    data_dir, prepared, tmp_path, caplog
):
    prepared("manifest/mine", 64)
    made = flair(data_dir, {"a": retrieval("manifest/mine")})
    with caplog.at_level(logging.WARNING):
        loop.train(experiment.build_all(made, tmp_path)[0], tmp_path)
    assert "pictures unlike those" not in caplog.text
    reader = Checkpointer(tmp_path / "checkpoints", read_only=True)
    assert reader.preparation(1)["manifest/mine"]["size"] == 64
    reader.close()
    # The data are prepared again in another way, and the checkpoint remembers the first one.
    prepared("manifest/mine", 48)
    options = (f"--config.data_dir={data_dir}", f"--workdir={tmp_path}")
    script = tmp_path / "config.py"
    script.write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict({made.to_dict()!r})\n"
    )
    done = program("retina_jax.evaluate", f"--config={script}", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line for line in done.stderr.splitlines() if "pictures unlike those" in line]
    assert len(told) == 1 and "manifest/mine: size 48 instead of 64" in told[0]


def test_allowed_overlap_is_in_the_results_and_unlike_pictures_are_told(
    data_dir, prepared, tmp_path, caplog
):
    prepared("manifest/theirs", 48)
    leaky = {"leaky": retrieval("manifest/theirs", allow_overlap=True)}
    (made,) = experiment.build_all(flair(data_dir, leaky), tmp_path)
    with caplog.at_level(logging.WARNING):
        loop.train(made, tmp_path)
    told = [line for line in caplog.text.splitlines() if "pictures unlike those" in line]
    assert len(told) == 1 and "manifest/theirs: prepared instead of not prepared" in told[0]
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["overlaps"]) == ["leaky"] and "test_copy" in results["overlaps"]["leaky"]
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["resolved"]["evaluators"]["leaky"]["data"]["allow_overlap"] is True


def test_a_checkpoint_without_a_record_of_its_preparation_is_read(tmp_path):
    from train.test_checkpoint import save  # noqa: PLC0415

    save(tmp_path, [1])
    checkpointer = Checkpointer(tmp_path, read_only=True)
    assert checkpointer.preparation(1) == {}
    checkpointer.close()


def test_a_transform_may_change_some_of_the_records_of_a_stream(tmp_path):
    """And the record of the run says which."""
    changed = {"name": "random_gamma", "probability": 1.0, "where": {"category": ("normal",)}}
    pictures = []
    for extra in ((), (changed,)):
        given = config("flair")
        given.streams.public.transforms = (*given.streams.public.transforms, *extra)
        (made,) = experiment.build_all(given, tmp_path)
        pictures.append(next(made.data.batches(0, 1))["image"])
    same = [np.array_equal(*pair) for pair in zip(*pictures, strict=True)]
    assert 0 < sum(same) < len(same)
    resolved = record.resolve(record.tree(made.settings), made.calls)
    last = resolved["streams"]["public"]["transforms"][-1]
    assert last["where"] == {"category": ["normal"]} and tuple(last["gamma"]) == (0.7, 1.4)
