"""An interrupted run ends in the same bits as one that was left alone."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
from runs import assert_same_bits, config

from data_pipelines.errors import InputError
from retina_jax import experiment
from retina_jax.settings import Keep
from retina_jax.train import loop, run_directory
from retina_jax.train.checkpoint import Checkpointer
from retina_jax.train.preemption import Preempted
from retina_jax.types import Results, Score

pytestmark = pytest.mark.fast
STEPS = 6


def build(name, workdir, **options):
    options = {"total": {"steps": STEPS}, "every": EVERY, **options}
    return experiment.build_all(config(name, **options), workdir)


EVERY = {"log": {"steps": 1}, "evaluate": {"steps": 0}, "checkpoint": {"steps": 2}}


class StopAt:
    """Training data whose reader is told to stop while it fetches one batch."""

    def __init__(self, data, step):
        self._data, self._step = data, step

    def example(self):
        return self._data.example()

    def batches(self, start=0, stop=None):
        inner = self._data.batches(start, stop)

        class Reader:
            position = start

            def __iter__(self):
                return self

            def __next__(reader):
                reader.position += 1
                if reader.position == self._step:
                    os.kill(os.getpid(), signal.SIGTERM)
                return next(inner)

            def close(self):
                inner.close()

        return Reader()


def stopped_at(made, step):
    return dataclasses.replace(made, data=StopAt(made.data, step))


def final_state(made, directory):
    checkpointer = Checkpointer(directory / "checkpoints")
    state = checkpointer.restore(loop.abstract_state(made))
    checkpointer.close()
    assert int(state.step) == made.total
    return state


# The first part of the image tower and all of the text tower.
FROZEN = (("image/(conv1|bn1|layer1_.)/.*|text/.*", {"frozen": True}), (".*", {}))


@pytest.mark.parametrize(("name", "rules"), [("flair", FROZEN), ("keepfit", None)])
def test_stopped_by_sigterm_and_resumed_is_bit_equal(name, rules, tmp_path):
    given = {**config(name).optimization.to_dict(), **({"rules": rules} if rules else {})}
    (straight,) = build(name, tmp_path / "straight", optimization=given)
    loop.train(straight, tmp_path / "straight")
    (again,) = build(name, tmp_path / "stopped", optimization=given)
    with pytest.raises(Preempted, match="after step 3 of 6"):
        loop.train(stopped_at(again, 3), tmp_path / "stopped")
    loop.train(again, tmp_path / "stopped")
    assert_same_bits(
        final_state(straight, tmp_path / "straight"), final_state(again, tmp_path / "stopped")
    )
    lines = (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_stages_resume_in_the_stage_they_were_in(tmp_path):
    def run(workdir, stop_in=None, at=0):
        for made in build_stages(workdir):
            if made.name == stop_in:
                made = stopped_at(made, at)
            loop.train(made, experiment.stage_directory(workdir, made.name))
        return made

    def build_stages(workdir):
        stages = config("mmretinal_v2", every=EVERY)
        stages.stages.text.total = {"steps": 3}
        stages.stages.knowledge.total = {"steps": 4}
        return experiment.build_all(stages, workdir)

    last = run(tmp_path / "straight")
    stopped = tmp_path / "stopped"
    with pytest.raises(Preempted, match="after step 2 of 3"):
        run(stopped, "text", 2)
    with pytest.raises(Preempted, match="after step 2 of 4"):
        run(stopped, "knowledge", 2)
    text = (stopped / "text" / "metrics.jsonl").read_text()
    run(stopped)
    assert_same_bits(
        final_state(last, tmp_path / "straight" / "knowledge"),
        final_state(last, stopped / "knowledge"),
    )
    assert (stopped / "text" / "metrics.jsonl").read_text() == text  # the first stage did not rerun


def test_the_second_stage_starts_from_the_text_tower_of_the_first(tmp_path):
    first, second = experiment.build_all(config("mmretinal_v2", every=EVERY), tmp_path)
    loop.train(first, tmp_path / "text")
    trained = final_state(first, tmp_path / "text").params
    started = loop.fresh_state(second, loop.abstract_state(second))
    assert_same_bits(trained["text"], started.params["text"])
    assert "mlm_head" not in started.params


class Broken:
    """An evaluator that fails."""

    def run(self, state):
        raise InputError("no class here")


def test_an_evaluation_that_fails_costs_no_training(tmp_path):
    (made,) = build("flair", tmp_path, total={"steps": 2})
    with pytest.raises(InputError, match="no class here"):
        loop.train(dataclasses.replace(made, evaluators={"broken": Broken()}), tmp_path)
    assert int(final_state(made, tmp_path).step) == 2
    loop.train(made, tmp_path)  # only evaluates
    assert (tmp_path / "results.json").exists()


def test_a_misspelt_best_metric_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"keep.best is 'eval/zero/auc'.*evaluators \[\]"):
        build("flair", tmp_path, keep={"last": 2, "best": "eval/zero/auc"})
    (made,) = build("flair", tmp_path, total={"steps": 1})
    for rank in ("mean_rank", "pool_100_median_rank"):
        best = {"last": 2, "best": f"eval/retrieval/image_to_text_{rank}"}
        with pytest.raises(InputError, match="a rank is better when it is low"):
            experiment.build_all(config("flair", keep=best), tmp_path)
    settings = dataclasses.replace(made.settings, keep=Keep(best="eval/zeroshot/acu"))
    made = dataclasses.replace(made, settings=settings)
    with pytest.raises(InputError, match="keep.best is 'eval/zeroshot/acu', but the metrics are"):
        loop.train(made, tmp_path)


def test_a_finished_run_is_left_alone(tmp_path):
    (made,) = build("flair", tmp_path, total={"steps": 2})
    loop.train(made, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json*")}
    loop.train(made, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json*") if p in before} == before


def test_a_directory_of_another_run_is_refused_and_left_alone(tmp_path):
    (made,) = build("flair", tmp_path, total={"steps": 2})
    loop.train(made, tmp_path)
    before = (tmp_path / "config.json").read_text()
    (other,) = build("flair", tmp_path, total={"steps": 2}, seed=7, weights={"x": 1.0})
    with pytest.raises(InputError, match="holds a run with another seed, weights"):
        loop.train(other, tmp_path)
    (shorter,) = build("flair", tmp_path, total={"steps": 1})
    with pytest.raises(InputError, match="is at step 2, beyond the 1 steps of this config"):
        loop.train(shorter, tmp_path)
    assert (tmp_path / "config.json").read_text() == before


VIT = {"name": "vit", "width": 8, "depth": 2, "heads": 2, "mlp_dim": 16, "patch_size": 8}


def build_vit(workdir, ways, blockwise, **options):
    """A run without dropout, whose microbatches draw numbers of their own."""
    settings = config("flair", total={"steps": 4}, every=EVERY, **options)
    with settings.unlocked():
        settings.model.towers.image = {**VIT, **ways}
        settings.model.towers.text.dropout = 0.0
        settings.objectives.contrastive.blockwise = blockwise
    return experiment.build_all(settings, workdir)


def logged_losses(workdir):
    logged = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in logged if "train/loss" in line}


def test_a_run_may_go_on_computed_in_another_way(tmp_path):
    """A loop, all kept, whole batches; then layers written out, remat, tiles, microbatches."""
    (begun,) = build_vit(tmp_path, {"scan": True, "remat": "none"}, None)
    loop.train(begun, tmp_path)
    before = logged_losses(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "4")  # so that it goes on from step 2
    other = {"scan": False, "remat": "full", "attention": "xla"}
    (changed,) = build_vit(tmp_path, other, 3, microbatch=2)
    loop.train(changed, tmp_path)
    assert int(final_state(changed, tmp_path).step) == 4
    after = logged_losses(tmp_path)
    assert before.keys() == after.keys() == {1, 2, 3, 4}
    assert after != before  # the last two steps were computed again
    np.testing.assert_allclose(list(after.values()), list(before.values()), rtol=1e-4)
    (another,) = build_vit(tmp_path, {**other, "drop_path": 0.5}, 3)
    with pytest.raises(InputError, match="holds a run with another model "):
        run_directory.check_run_directory(tmp_path, another, 4)


def test_a_microbatch_with_statistics_of_its_own_has_to_stay(tmp_path):
    (made,) = build("flair", tmp_path, microbatch=4, statistics_per_microbatch=True)
    run_directory.check_run_directory(tmp_path, made, 0)
    (smaller,) = build("flair", tmp_path, microbatch=2, statistics_per_microbatch=True)
    with pytest.raises(InputError, match="holds a run with another microbatch "):
        run_directory.check_run_directory(tmp_path, smaller, 0)


def test_a_finished_run_with_other_evaluators_is_evaluated_again(tmp_path):
    (made,) = build("flair", tmp_path, total={"steps": 2})
    loop.train(made, tmp_path)
    settings = dataclasses.replace(made.settings, evaluators={"fixed": {"name": "fixed"}})
    again = dataclasses.replace(made, evaluators={"fixed": Fixed()}, settings=settings)
    loop.train(again, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [score["value"] for score in results["scores"]] == [0.25]


class Fixed:
    """An evaluator that knows its answer."""

    def run(self, state):
        return Results({"accuracy": Score(0.25)})


class StopInEvaluation:
    """An evaluator during which the run is told to stop."""

    def run(self, state):
        os.kill(os.getpid(), signal.SIGTERM)
        return Results({})


def test_sigterm_during_the_last_evaluation_ends_the_run(tmp_path):
    (made,) = build("flair", tmp_path, total={"steps": 1})
    with pytest.raises(Preempted, match="after step 1 of 1"):
        loop.train(dataclasses.replace(made, evaluators={"stop": StopInEvaluation()}), tmp_path)
    assert int(final_state(made, tmp_path).step) == 1
