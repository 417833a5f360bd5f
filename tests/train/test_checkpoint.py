"""Checkpoints that are kept, passed over, refused, and survive being killed while written."""

import collections
import logging
import os
import random
import signal
import subprocess
import sys
import time
import uuid

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from runs import ROOT, assert_same_bits

from benchmarks import drill
from data_pipelines import stores
from data_pipelines.errors import InputError
from retina_jax.train import restore
from retina_jax.train.checkpoint import ITEMS, Checkpointer, Retention
from retina_jax.types import TrainState

pytestmark = pytest.mark.fast


def state(step, size=8, **extra):
    params = {"tower": {"kernel": jnp.arange(float(size)) + step}, **extra}
    return TrainState(step=jnp.int32(step), params=params, model_state={},
                      opt_state=(jnp.full(size, 0.5 * step), jnp.int32(step)),
                      skipped=jnp.zeros(2, jnp.int32))  # fmt: skip


def abstract(tree):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


def save(directory, steps, retention=None):
    checkpointer = Checkpointer(directory, retention or Retention(last=5))
    for step in steps:
        checkpointer.save(state(step))
    checkpointer.close()


def test_keeps_the_last_and_the_best_over_restarts(tmp_path):
    retention = Retention(last=2, best="eval/accuracy")
    accuracy = {1: 0.5, 2: 0.9, 4: 0.7}
    for part in ((1, 2, 3), (4, 5), (6,)):  # three processes in turn
        checkpointer = Checkpointer(tmp_path, retention)
        for step in part:
            metrics = {"eval/accuracy": accuracy[step]} if step in accuracy else None
            checkpointer.save(state(step), metrics)
        checkpointer.close()
    checkpointer = Checkpointer(tmp_path, retention)
    assert checkpointer.steps() == [2, 5, 6]
    assert checkpointer.best_step() == 2
    assert_same_bits(checkpointer.restore(abstract(state(0))), state(6))
    assert_same_bits(checkpointer.restore(abstract(state(0)), step=2), state(2))
    checkpointer.close()


def test_a_run_at_an_address_goes_on_on_another_machine(tmp_path, monkeypatch):
    run = f"memory://{uuid.uuid4().hex}/run"
    for machine, steps in (("a", [1, 2]), ("b", [3])):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        with stores.mirrored(run, "--workdir") as folder:
            save(folder / "checkpoints", steps, Retention(last=2))
    with stores.mirrored(run, "--workdir") as folder:
        checkpointer = Checkpointer(folder / "checkpoints", Retention(last=2))
        assert checkpointer.steps() == [2, 3]  # and the first is deleted there too
        assert_same_bits(checkpointer.restore(abstract(state(0))), state(3))
        checkpointer.close()


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpointer(tmp_path).restore(abstract(state(0))) is None


def flip_a_byte(directory):
    """Changes one byte in the middle of the largest file."""
    path = max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_a_flipped_byte_is_passed_over_for_the_checkpoint_before(tmp_path, caplog):
    save(tmp_path, (3, 6))
    flip_a_byte(tmp_path / "6" / "model")
    checkpointer = Checkpointer(tmp_path, Retention(last=5))
    with caplog.at_level(logging.WARNING, logger="retina_jax"):
        restored = checkpointer.restore(abstract(state(0)))
    assert_same_bits(restored, state(3))
    assert "Checkpoint 6" in caplog.text and "the one before" in caplog.text
    checkpointer.save(state(6))  # the run goes on and reaches the same step again
    checkpointer.wait()
    assert_same_bits(checkpointer.restore(abstract(state(0))), state(6))
    checkpointer.close()
    assert (tmp_path / "unreadable-6").is_dir()  # set aside, not deleted


def as_before(directory, step):
    """Writes a checkpoint without checksums, as version 0.1 did."""
    handlers = {item: ocp.StandardCheckpointHandler() for item in ITEMS}
    with ocp.CheckpointManager(directory, item_handlers=handlers) as manager:
        made = state(step)
        items = {item: {name: getattr(made, name) for name in ITEMS[item]} for item in ITEMS}
        args = {item: ocp.args.StandardSave(tree) for item, tree in items.items()}
        manager.save(step, args=ocp.args.Composite(**args))


def test_checkpoints_without_checksums_are_read(tmp_path):
    as_before(tmp_path, 3)
    checkpointer = Checkpointer(tmp_path, Retention(last=5))
    assert_same_bits(checkpointer.restore(abstract(state(0))), state(3))
    np.testing.assert_array_equal(
        restore.read_variables(tmp_path)["params"]["tower"]["kernel"],
        state(3).params["tower"]["kernel"],
    )
    checkpointer.save(state(4))
    checkpointer.close()
    assert_same_bits(Checkpointer(tmp_path).restore(abstract(state(0))), state(4))


def test_no_flipped_bit_is_silent(tmp_path, caplog):
    """In every file of a checkpoint: the same state or the one before, never another."""
    values = {"head": jax.random.normal(jax.random.key(1), (50, 40))}  # as random as weights are
    checkpointer = Checkpointer(tmp_path, Retention(last=5))
    for step in (3, 6):
        checkpointer.save(state(step, 300, **values))
    checkpointer.close()
    target, chance = abstract(state(0, 300, **values)), random.Random(5)
    noticed = collections.Counter()
    for path in sorted(p for p in (tmp_path / "6").rglob("*") if p.stat().st_size and p.is_file()):
        whole = path.read_bytes()
        for _ in range(3 if len(whole) > 2000 else 1):
            path.write_bytes(drill.flipped(whole, chance))
            try:
                found = Checkpointer(tmp_path, Retention(last=5), read_only=True).restore(target)
            except InputError as error:
                assert "damaged" in str(error), error
                noticed["refused"] += 1
                continue
            assert_same_bits(found, state(int(found.step), 300, **values))
            noticed[int(found.step)] += 1
        path.write_bytes(whole)
    assert noticed[3] >= 10, noticed
    assert "cannot be read (a checksum does not fit what is stored)" in caplog.text


def test_a_damaged_description_is_told(tmp_path):
    save(tmp_path, (3,))
    about = tmp_path / "3" / "_CHECKPOINT_METADATA"
    about.write_text(about.read_text().replace("performance_metrics", "performance_metric3"))
    with pytest.raises(InputError, match="_CHECKPOINT_METADATA in .* is damaged .* move the"):
        Checkpointer(tmp_path, Retention(last=5))


def test_reading_only_changes_nothing(tmp_path):
    save(tmp_path, (3, 6))
    flip_a_byte(tmp_path / "6" / "model")
    reader = Checkpointer(tmp_path, Retention(last=1), read_only=True)
    restored = reader.restore_model(abstract(state(0)))
    assert_same_bits(restored.params, state(3).params)
    assert int(restored.step) == 3  # what is made of it is of the step that took over
    with pytest.raises(InputError, match="Checkpoint 6 in .* cannot be read .* it is damaged"):
        restore.read_variables(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["3", "6"]
    with pytest.raises(InputError, match="no checkpoint in .*typo"):
        Checkpointer(tmp_path / "typo", read_only=True)
    assert not (tmp_path / "typo").exists()


def test_all_broken_is_one_sentence_and_nothing_is_touched(tmp_path):
    save(tmp_path, (1,))
    flip_a_byte(tmp_path / "1" / "model")
    with pytest.raises(InputError, match=r"None of the checkpoints \[1\].*start in another"):
        Checkpointer(tmp_path).restore(abstract(state(0)))
    assert (tmp_path / "1").is_dir()


@pytest.mark.parametrize(("other", "words"),
                         [(state(0, size=9),
                           r"has params/tower/kernel of shape \(8,\) instead of \(9,\)"),
                          (state(0, head=jnp.zeros(3)), "lacks params/head")])  # fmt: skip
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other, words):
    save(tmp_path, (1,))
    with pytest.raises(InputError, match=f"Checkpoint 1 .* is of another model: it {words}"):
        Checkpointer(tmp_path).restore(abstract(other))


def test_another_optimizer_is_refused_but_its_model_can_be_evaluated(tmp_path):
    save(tmp_path, (1,))
    other = state(0).replace(opt_state=(jnp.zeros(8), jnp.zeros(8), jnp.int32(0)))
    with pytest.raises(InputError, match="is of another training"):
        Checkpointer(tmp_path).restore(abstract(other))
    restored = Checkpointer(tmp_path).restore_model(abstract(other))
    assert_same_bits(restored.params, state(1).params)


_KILLED = """
import sys
import jax.numpy as jnp
from retina_jax.train.checkpoint import Checkpointer, Retention
from retina_jax.types import TrainState
checkpointer = Checkpointer(sys.argv[1], Retention(last=5))
for step in range(1, 50):
    size = 4_000_000 if step > 1 else 4
    checkpointer.save(TrainState(jnp.int32(step), {"w": jnp.full((4_000_000,), float(step))}, {},
                                 (jnp.full((size,), 2.0 * step),), jnp.zeros(2, jnp.int32)))
    if step == 1:
        checkpointer.wait()
        print("one is complete", flush=True)
"""


def test_killed_while_saving_resumes_from_the_last_complete_checkpoint(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "one is complete\n"
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*tmp*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    half = [p.name for p in tmp_path.glob("*tmp*")]
    assert half, "the process was not killed in the middle of a save"
    checkpointer = Checkpointer(tmp_path, Retention(last=5))
    last = max(checkpointer.steps())
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def leaf(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    size = 4 if last == 1 else 4_000_000
    target = TrainState(
        leaf((), jnp.int32), {"w": leaf((4_000_000,))}, {}, (leaf((size,)),), leaf((2,), jnp.int32)
    )
    restored = checkpointer.restore(target)
    assert int(restored.step) == last
    np.testing.assert_array_equal(np.asarray(restored.params["w"]), np.float32(last))
    checkpointer.save(restored.replace(step=jnp.int32(last + 1)))  # over what was left behind
    checkpointer.close()
    assert last + 1 in Checkpointer(tmp_path, Retention(last=5)).steps()


_FULL_DISK = """
import resource, signal, sys
import jax, jax.numpy as jnp
from data_pipelines import stores
from data_pipelines.errors import InputError
from retina_jax.train.checkpoint import Checkpointer, Retention
from retina_jax.types import TrainState
state = lambda step, size: TrainState(jnp.int32(step), {"w": jax.random.normal(jax.random.key(step),
    (size,))}, {}, (jnp.zeros(4),), jnp.zeros(2, jnp.int32))
checkpointer = Checkpointer(sys.argv[1], Retention(last=5))
checkpointer.save(state(1, 100)); checkpointer.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # no file may grow: as on a full disk
try:
    checkpointer.save(state(2, 1_000_000)); checkpointer.wait()
except InputError as error:
    print("SENTENCE:", error)
print("COMPLETE:", Checkpointer(sys.argv[1], Retention(last=5)).steps(), flush=True)
import os; os._exit(0)
"""


def test_a_full_disk_is_one_sentence_and_costs_no_finished_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(tmp_path)], cwd=ROOT,
                          capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert "SENTENCE:" in done.stdout and "free some space" in done.stdout, done.stderr[-2000:]
    assert "COMPLETE: [1]" in done.stdout


def test_a_checkpoint_says_what_was_frozen(tmp_path):
    """One without the record, of before there was one, is refused by the names of its arrays."""
    for name, frozen in (("with", ["text/.*"]), ("without", None)):
        checkpointer = Checkpointer(tmp_path / name, Retention(last=5), frozen=frozen or ())
        if frozen is None:
            del checkpointer._about["frozen"]
        checkpointer.save(state(1))
        checkpointer.close()
    other = abstract(state(0)).replace(opt_state=())
    now = Checkpointer(tmp_path / "with", frozen=["image/.*"])
    assert_same_bits(now.restore(abstract(state(0))), state(1))
    sentence = r"another training: it was trained with \['text/.\*'\] frozen, and this config "
    with pytest.raises(InputError, match=sentence + r"freezes \['image/.\*'\]\. Use the config"):
        now.restore(other)
    with pytest.raises(InputError, match="another training: it has in excess opt_state"):
        Checkpointer(tmp_path / "without", frozen=["image/.*"]).restore(other)
