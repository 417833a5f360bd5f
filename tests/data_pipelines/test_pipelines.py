"""Batch k depends on the seed and on k: not on workers, threads, processes or the start."""

import collections
import dataclasses
from typing import Any

import grain
import numpy as np
import pytest

from data_pipelines import batch, pipelines
from data_pipelines import transforms as T
from data_pipelines.errors import InputError
from data_pipelines.pipelines import Stream, evaluate, train
from data_pipelines.records.sources import Source
from data_pipelines.text.tokenizers import SentencePiece

Batch = dict[str, Any]


def augmented(source: Source, **options: Any) -> Stream:
    tokenizer = SentencePiece()
    steps = (
        T.Decode(24), T.RandomFlip(), T.RandomAffine(1.0), T.ColorJitter(1.0), T.Prompt(),
        T.Tokenize(tokenizer, 12, "prompt"), T.MaskTokens(tokenizer), T.Group(),
    )  # fmt: skip
    return Stream(source, steps, **{"batch_size": 8, **options})


@pytest.fixture(scope="module")
def streams(expert: Source) -> dict[str, Stream]:
    return {"public": augmented(expert),
            "expert": augmented(expert, batch_size=4, replacement=True),
            "balanced": augmented(expert, batch_size=4, balance="labels"),
            "distinct": augmented(expert, batch_size=8, distinct="patient")}  # fmt: skip


@pytest.fixture(scope="module")
def reference(streams: dict[str, Stream]) -> list[Batch]:
    return take(train(streams, seed=3), 0, 9)


def take(data: pipelines.TrainData, start: int, stop: int) -> list[Batch]:
    with data.batches(start, stop) as batches:
        return list(batches)


def assert_same(left: Batch, right: Batch) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, dict):
            assert_same(value, right[key])
        else:
            assert value.dtype == right[key].dtype
            np.testing.assert_array_equal(value, right[key], err_msg=key)


def join(parts: list[Batch]) -> Batch:
    return {stream: {key: np.concatenate([part[stream][key] for part in parts])
                     for key in parts[0][stream]} for stream in parts[0]}  # fmt: skip


def test_batches_keep_the_contract(reference: list[Batch]) -> None:
    assert len(reference) == 9
    for one in reference:
        batch.check(one)
    made = {"image", "text", "text_mask", "masked_text", "masked", "group"}
    assert set(reference[0]["public"]) == made
    assert reference[0]["public"]["image"].shape == (8, 24, 24, 3)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("threads", [0, 2])
def test_any_start_and_threads(
    streams: dict[str, Stream], reference: list[Batch], start: int, threads: int
) -> None:
    for k, one in enumerate(take(train(streams, seed=3, num_threads=threads), start, 8), start):
        assert_same(one, reference[k])


@pytest.mark.parametrize("processes", [2, 4])
def test_joined_processes_are_one(
    streams: dict[str, Stream], reference: list[Batch], processes: int
) -> None:
    each = [take(train(streams, seed=3, process_index=p, process_count=processes), 2, 6)
            for p in range(processes)]  # fmt: skip
    for k in range(4):
        assert_same(join([part[k] for part in each]), reference[2 + k])


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_any_number_of_workers(
    streams: dict[str, Stream], reference: list[Batch], workers: int
) -> None:
    data = train(streams, seed=3, num_workers=workers, process_index=1, process_count=2)
    other = take(train(streams, seed=3, process_count=2), 3, 8)
    for k, one in enumerate(take(data, 3, 8)):
        assert_same(join([other[k], one]), reference[3 + k])


def test_seeds_and_names_matter(streams: dict[str, Stream], reference: list[Batch]) -> None:
    (other,) = take(train(streams, seed=4), 0, 1)
    assert (other["public"]["image"] != reference[0]["public"]["image"]).any()
    (twins,) = take(train({"a": streams["public"], "b": streams["public"]}, seed=3), 0, 1)
    assert (twins["a"]["image"] != twins["b"]["image"]).any()


@dataclasses.dataclass(frozen=True)
class Counted(grain.transforms.Map):
    """Notes the records that it sees."""

    seen: list[str]

    def map(self, record: Batch) -> Batch:
        self.seen.append(record["id"])
        return record


def test_an_example_has_the_looks_of_a_batch_out_of_one_record(
    streams: dict[str, Stream], reference: list[Batch]
) -> None:
    data = train(streams, seed=3)
    for stream, arrays in data.example().items():
        for key, value in reference[0][stream].items():
            assert (arrays[key].shape, arrays[key].dtype) == (value.shape, value.dtype)
            np.testing.assert_array_equal(arrays[key], np.broadcast_to(value[:1], value.shape))
    seen: list[str] = []
    public = streams["public"]
    large = Stream(public.source, (Counted(seen), *public.transforms), 8192)
    example = train({"": large}, seed=0).example()
    assert example["image"].shape == (8192, 24, 24, 3) and example["image"].strides[0] == 0
    scored = evaluate(public.source, (Counted(seen), T.Decode(16)), batch_size=64)
    assert scored.example()["_id"].tolist() == [0] * 64
    assert len(seen) == 2, "one record of each"


def test_one_unnamed_stream_is_flat(streams: dict[str, Stream]) -> None:
    data = train({"": streams["public"]}, seed=0)
    assert data.example()["image"].shape == (8, 24, 24, 3)
    assert data.records == {"": 32} and data.batch_sizes == {"": 8}
    with pytest.raises(InputError, match="all have names"):
        train({"": streams["public"], "expert": streams["expert"]}, seed=0)


@dataclasses.dataclass(frozen=True)
class Index(grain.transforms.Map):
    """Numbers the eyes: twice the patient's number, odd for left eyes, into `label`."""

    def map(self, record: Batch) -> Batch:
        number = 2 * int(record["patient"][-3:]) + (record["eye"] == "OS")
        return {**record, "label": np.int32(number)}


def labels(source: Source, batches: int, **options: Any) -> np.ndarray:
    stream = Stream(source, (Index(),), 8, **options)
    return np.concatenate([one["label"] for one in take(train({"": stream}, seed=1), 0, batches)])


def test_epochs_hold_each_record_once_in_new_order(expert: Source) -> None:
    seen = labels(expert, 12).reshape(3, 32)
    assert all(len(set(epoch)) == 32 for epoch in seen)
    assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()
    ordered = labels(expert, 8, shuffle=False).reshape(2, 32)
    assert (ordered[0] == ordered[1]).all() and len(set(ordered[0])) == 32


def test_augmentation_changes_with_the_epoch(expert: Source) -> None:
    stream = Stream(expert, (T.Decode(24), T.RandomAffine(1.0)), 32, shuffle=False)
    first, second = take(train({"": stream}, seed=1), 0, 2)
    assert (first["image"] != second["image"]).any(axis=(1, 2, 3)).mean() > 0.9


def test_replacement_draws_uniformly(expert: Source) -> None:
    counts = collections.Counter(labels(expert, 200, replacement=True).tolist())
    assert len(counts) == 32 and 25 < min(counts.values()) and max(counts.values()) < 85
    assert len(set(labels(expert, 4, replacement=True).tolist())) < 32


def test_balance_makes_values_equally_likely(expert: Source) -> None:
    few = expert.subset(
        [i for i, eye in enumerate(expert.column("eye")) if eye == "OS"][:2]
        + [i for i, eye in enumerate(expert.column("eye")) if eye == "OD"]
    )
    drawn = labels(few, 100, balance="eye")
    assert 0.43 < (drawn % 2).mean() < 0.57, "two left eyes must be drawn as often as 16 right ones"
    with pytest.raises(InputError, match="no field 'corpus'"):
        labels(few, 1, balance="corpus")


def test_balance_counts_every_label_of_a_record(expert: Source) -> None:
    """Of a record with two labels, only the second of which is rare, as many draws are of it."""
    names = expert.column("labels")
    pair = next(value for value in names if len(value) == 2)
    one = [i for i, value in enumerate(names) if value == pair][:1]
    others = [i for i, value in enumerate(names) if len(value) == 1 and pair[1] not in value]
    few = expert.subset(one + others)
    number = Index().map(few[0])["label"]
    values = {name for value in few.column("labels") for name in value}
    alone = [name for name in pair if all(name not in value for value in few.column("labels")[1:])]
    assert pair[1] in alone
    expected = len(alone) / len(values)
    drawn = labels(few, 200, balance="labels")
    assert expected < (drawn == number).mean() + 4 * (expected / len(drawn)) ** 0.5


def test_distinct_patients_in_a_batch(expert: Source) -> None:
    """Both eyes of 16 patients: four whole batches of eight are an epoch."""
    seen = labels(expert, 12, distinct="patient").reshape(3, 4, 8)
    for epoch in seen:
        assert len(set(epoch.reshape(-1))) == 32
        assert all(len(set(row // 2)) == 8 for row in epoch)
    assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()
    shuffled = labels(expert, 12).reshape(12, 8)
    assert any(len(set(row // 2)) < 8 for row in shuffled), "the option would prove nothing"


def test_more_rows_than_patients_are_refused(expert: Source) -> None:
    stream = Stream(expert, (Index(),), 32, distinct="patient")
    with pytest.raises(InputError, match="Stream 'a': a batch of 32 rows .* 'patient' .* has 16"):
        train({"a": stream}, seed=0)


ORDER = ["balance", "replacement", "distinct", "shuffle"]


@pytest.mark.parametrize("options",
                         [{"balance": "eye", "replacement": True},
                          {"balance": "eye", "distinct": "patient"},
                          {"replacement": True, "distinct": "patient"},
                          {"distinct": "patient", "shuffle": False},
                          {"balance": "eye", "shuffle": False},
                          {"replacement": True, "shuffle": False}])  # fmt: skip
def test_ways_of_drawing_exclude_each_other(expert: Source, options: dict[str, Any]) -> None:
    first, second = (
        "shuffle=False" if name == "shuffle" else name for name in sorted(options, key=ORDER.index)
    )
    with pytest.raises(InputError, match=f"'{first}' and '{second}' exclude each other; drop one"):
        labels(expert, 1, **options)


@dataclasses.dataclass(frozen=True)
class Repeat(grain.transforms.Map):
    """Gives all records of an eye the same caption, in other letters and blanks."""

    def map(self, record: Batch) -> Batch:
        caption = {"OD": "A right eye.", "OS": "A left eye."}[record["eye"]]
        odd = int(record["patient"][-3:]) % 2
        return {**record, "caption": f" {caption.upper()} " if odd else caption}


def test_equal_captions_share_a_group_in_all_processes(expert: Source) -> None:
    stream = Stream(expert, (Repeat(), T.Group("caption"), Index()), 16)
    parts = [take(train({"": stream}, seed=2, process_index=p, process_count=4), 0, 2)
             for p in range(4)]  # fmt: skip
    left: set[int] = set()
    right: set[int] = set()
    for part in parts:
        for one in part:
            left |= set(one["group"][one["label"] % 2 == 1].tolist())
            right |= set(one["group"][one["label"] % 2 == 0].tolist())
    assert len(left) == len(right) == 1 and left != right


def test_what_processes_cannot_share_is_refused(streams: dict[str, Stream]) -> None:
    with pytest.raises(InputError, match="Stream 'public': batch_size 8 .* 3 processes"):
        train(streams, seed=0, process_count=3)
    with pytest.raises(InputError, match="0 <= start"):
        train(streams, seed=0).batches(3, 2)


def test_empty_sources_are_refused(expert: Source) -> None:
    with pytest.raises(InputError, match="no records.*synthetic_retina/smoke"):
        train({"": Stream(expert.subset([]), (Index(),), 8)}, seed=0)
    with pytest.raises(InputError, match="no records"):
        evaluate(expert.subset([]), [Index()], batch_size=8)


@dataclasses.dataclass(frozen=True)
class Spoil(grain.transforms.Map):
    """Makes NaN pixels in one record."""

    record: str

    def map(self, record: Batch) -> Batch:
        image = record["image"].astype(np.float32)
        return {**record, "image": image * np.nan if record["id"] == self.record else image}


def test_nan_pixels_name_record_and_data_set(expert: Source) -> None:
    bad = expert[20]["id"]
    stream = Stream(expert, (T.Decode(16), Spoil(bad)), 8, shuffle=False)
    data = train({"": stream}, seed=0)
    assert data.example()["image"].dtype == np.float32
    with pytest.raises(InputError) as error, data.batches() as batches:
        list(zip(range(4), batches, strict=False))
    assert str(error.value) == (
        f"Record '{bad}' of synthetic_retina/smoke, Select: "
        "'image' has values that are NaN or infinite."
    )


@dataclasses.dataclass(frozen=True)
class Cut(grain.transforms.Map):
    """Truncates the picture file."""

    def map(self, record: Batch) -> Batch:
        return {**record, "image": record["image"][:300]}


@pytest.mark.parametrize("workers", [0, 1])
def test_failures_name_record_and_data_set(expert: Source, workers: int) -> None:
    data = evaluate(expert, (Cut(), T.Decode(16)), batch_size=8, num_workers=workers)
    with pytest.raises(InputError) as error, data.batches() as batches:
        next(batches)
    message = f"Record '{expert[0]['id']}' of synthetic_retina/smoke, Decode: The 300 bytes"
    assert str(error.value).startswith(message) and "truncated" in str(error.value)


def test_missing_keys_say_what_was_made(expert: Source) -> None:
    stream = Stream(expert, (T.Decode(16),), 8, keys=("image", "text"))
    with pytest.raises(InputError, match=r"batch keys \['text'\].*made were \['image'\]"):
        train({"": stream}, seed=0).example()
    with pytest.raises(InputError, match="made were none"):
        train({"": Stream(expert, (), 8)}, seed=0).example()
    kept = train({"": dataclasses.replace(augmented(expert), keys=("text",))}, seed=0).example()
    assert list(kept) == ["text"]


@pytest.mark.parametrize(("processes", "size"), [(1, 32), (1, 5), (2, 6), (3, 9), (4, 48)])
def test_evaluation_sees_each_record_once(expert: Source, processes: int, size: int) -> None:
    seen: list[int] = []
    lengths = set()
    for p in range(processes):
        data = evaluate(expert, [T.Decode(16), Index()], batch_size=size, process_index=p,
                        process_count=processes)  # fmt: skip
        with data.batches() as batches:
            mine = list(batches)
        lengths.add(len(mine))
        for one in mine:
            batch.check(one)
            assert len(one["_mask"]) == size // processes
            assert not one["image"][~one["_mask"]].any() and (one["_id"][~one["_mask"]] == -1).all()
            for i, label in zip(one["_id"][one["_mask"]], one["label"][one["_mask"]], strict=True):
                assert Index().map(expert[int(i)])["label"] == label
                seen.append(int(i))
    assert sorted(seen) == list(range(32)) == sorted(set(seen))
    assert lengths == {-(-32 // size)} and len(data) == 32


def test_evaluation_is_in_order_and_refuses_chance(expert: Source) -> None:
    data = evaluate(expert, [Index()], batch_size=5)
    with data.batches() as batches:
        ids = np.concatenate([one["_id"] for one in batches])
    assert ids.tolist() == [*range(32), -1, -1, -1]
    with pytest.raises(InputError, match="RandomFlip"):
        evaluate(expert, [T.Decode(16), T.RandomFlip()], batch_size=8)
    with pytest.raises(InputError, match="multiple of the 2"):
        evaluate(expert, [Index()], batch_size=5, process_count=2)


def test_rows_of_different_shape_are_refused(expert: Source) -> None:
    @dataclasses.dataclass(frozen=True)
    class Uneven(grain.transforms.Map):
        def map(self, record: Batch) -> Batch:
            side = 4 + int(record["eye"] == "OD")
            return {**record, "image": np.zeros((side, side, 3), np.uint8)}

    with pytest.raises(InputError, match="differ in shape.*image"):
        next(train({"": Stream(expert, (Uneven(),), 8)}, seed=0).batches())


def test_closing_twice_and_reading_on(streams: dict[str, Stream]) -> None:
    batches = train(streams, seed=0).batches()
    next(batches)
    batches.close()
    batches.close()
    assert list(batches) == []
