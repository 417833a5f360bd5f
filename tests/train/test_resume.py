"""An interrupted run ends in the same bits as one that was left alone."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
from ml_collections import ConfigDict
from runs import assert_same_bits, config, logged, whole_config

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax import experiment
from retina_jax.settings import Keep
from retina_jax.train import early_stopping, loop, run_directory
from retina_jax.train.checkpoint import Checkpointer, Retention
from retina_jax.train.preemption import Preempted
from retina_jax.types import Results, Score


def build(name, workdir, **options):
    return experiment.build_all(config(name, **{"every": EVERY, **options}), workdir)


EVERY = {"log": {"steps": 1}, "evaluate": {"steps": 0}, "checkpoint": {"steps": 2}}


def stopped_at(made, step):
    """The experiment, told to stop while it logs a step."""

    def rate(count):
        if count == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return made.learning_rate(count)

    return dataclasses.replace(made, learning_rate=rate)


def final_state(made, directory):
    checkpointer = Checkpointer(directory / "checkpoints")
    state = checkpointer.restore(loop.abstract_state(made))
    checkpointer.close()
    assert int(state.step) == made.total
    return state


# The first part of the image tower and all of the text tower.
FROZEN = (("image/(conv1|bn1|layer1_.)/.*|text/.*", {"frozen": True}), (".*", {}))


def stop_and_resume(made, workdir, step):
    """The final state of a run that was told to stop in `step`, and ran to its end later."""
    with pytest.raises(Preempted, match=f"after step {step} of {made.total}"):
        loop.train(stopped_at(made, step), workdir)
    loop.train(made, workdir)
    steps = list(logged(workdir))
    assert steps == list(range(1, made.total + 1))
    return final_state(made, workdir)


@pytest.mark.fast
def test_stopped_by_sigterm_and_resumed_is_bit_equal(tmp_path):
    """In the second epoch of 32 records, with frozen parts, an average, and texts of 24 or 32."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    given = {**config("flair").optimization.to_dict(), "rules": FROZEN, "ema": 0.99}
    (made,) = build("flair", straight, total={"steps": 6}, optimization=given, text_lengths=(24,))
    loop.train(made, straight)
    assert set(logged(straight, "text_length").values()) == {24, 32}
    assert_same_bits(final_state(made, straight), stop_and_resume(made, stopped, 5))


def test_stages_resume_in_the_stage_they_were_in(smoke_run, tmp_path):
    """The second one reads two streams, and ends in the bits of one that was left alone."""
    parts = {"pictures": config("flair", every=EVERY), "streams": config("keepfit", every=EVERY)}
    stages = experiment.build_all(ConfigDict({"stages": parts}), tmp_path)

    def run(stop_in=None):
        for made in stages:
            if made.name == stop_in:
                made = stopped_at(made, 1)
            loop.train(made, experiment.stage_directory(tmp_path, made.name))
        return made

    for stage in parts:
        with pytest.raises(Preempted, match="after step 1 of 2"):
            run(stage)
    first = (tmp_path / "pictures" / "metrics.jsonl").read_text()
    last = run()
    straight = final_state(last, smoke_run("keepfit").workdir)
    assert_same_bits(straight, final_state(last, tmp_path / "streams"))
    # The first stage did not rerun.
    assert (tmp_path / "pictures" / "metrics.jsonl").read_text() == first


def test_the_second_stage_starts_from_the_text_tower_of_the_first(smoke_run):
    workdir = smoke_run("mmretinal_v2").workdir
    first, second = experiment.build_all(config("mmretinal_v2"), workdir)
    trained = final_state(first, workdir / "text").params
    started = loop.fresh_state(second, loop.abstract_state(second))
    assert_same_bits(trained["text"], started.params["text"])
    assert "mlm_head" not in started.params


class Broken:
    """An evaluator that fails."""

    def run(self, state):
        raise InputError("no class here")


def test_an_evaluation_that_fails_costs_no_training(tmp_path):
    (made,) = build("flair", tmp_path)
    with pytest.raises(InputError, match="no class here"):
        loop.train(dataclasses.replace(made, evaluators={"broken": Broken()}), tmp_path)
    assert int(final_state(made, tmp_path).step) == 2
    loop.train(made, tmp_path)  # only evaluates
    assert (tmp_path / "results.json").exists()


def test_a_misspelt_best_metric_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"keep.best is 'eval/zero/auc'.*evaluators \[\]"):
        build("flair", tmp_path, keep={"last": 2, "best": "eval/zero/auc"})
    (made,) = build("flair", tmp_path)
    names = (
        "text_mean_rank",
        "image_to_text_pool_100_median_rank",
        "mae",
        "mae_5_shots",
        "squared_error",
    )
    for low in names:
        best = {"last": 2, "best": f"eval/retrieval/{low}"}
        with pytest.raises(InputError, match=f"'{low}' is better when it is low"):
            experiment.build_all(config("flair", keep=best), tmp_path)
    for high in ("auc_refractive_error", "average_precision_low_rank"):
        kept = {"keep": Keep(best=f"eval/probe/{high}"), "evaluators": {"probe": {}}, "at_end": ()}
        experiment._check_best(dataclasses.replace(made.settings, **kept))
    settings = dataclasses.replace(made.settings, keep=Keep(best="eval/zeroshot/acu"))
    made = dataclasses.replace(made, settings=settings)
    with pytest.raises(InputError, match="keep.best is 'eval/zeroshot/acu', but the metrics are"):
        loop.train(made, tmp_path)


@pytest.fixture
def finished(smoke_run, tmp_path):
    """The folder of a finished run of two steps and its experiment, evaluators included."""
    workdir = shutil.copytree(smoke_run("flair").workdir, tmp_path / "finished")
    (made,) = experiment.build_all(whole_config("flair"), workdir)
    return made, workdir


def test_a_finished_run_is_left_alone(finished):
    made, workdir = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json*")}
    assert len(before) > 2
    loop.train(made, workdir)
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json*") if p in before} == before


def test_a_directory_of_another_run_is_refused_and_left_alone(finished):
    _, workdir = finished
    before = (workdir / "config.json").read_text()
    (other,) = build("flair", workdir, seed=7, weights={"contrastive/image-text": 2.0})
    told = r"another seed, weights: seed is 7 instead of 0, weights\..* is 2.0 instead of null; use"
    with pytest.raises(InputError, match=told):
        loop.train(other, workdir)
    (shorter,) = build("flair", workdir, total={"steps": 1})
    with pytest.raises(InputError, match="is at step 2, beyond the 1 steps of this config"):
        loop.train(shorter, workdir)
    assert (workdir / "config.json").read_text() == before


VIT = {"name": "vit", "width": 8, "depth": 2, "heads": 2, "mlp_dim": 16, "patch_size": 8}


def build_vit(workdir, ways, blockwise, **options):
    """A run without dropout, whose microbatches draw numbers of their own."""
    settings = config("flair", total={"steps": 4}, every=EVERY, **options)
    with settings.unlocked():
        settings.model.towers.image = {**VIT, **ways}
        settings.model.towers.text.dropout = 0.0
        settings.objectives.contrastive.blockwise = blockwise
    return experiment.build_all(settings, workdir)


@pytest.mark.slow
def test_a_run_may_go_on_computed_in_another_way(tmp_path):
    """A loop, all kept, whole batches and texts; then written out, remat, tiles, in pieces."""
    (begun,) = build_vit(tmp_path, {"scan": True, "remat": "none"}, None)
    loop.train(begun, tmp_path)
    before = logged(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "4")  # so that it goes on from step 2
    other = {"scan": False, "remat": "full", "attention": "xla"}
    (changed,) = build_vit(tmp_path, other, 3, microbatch=2, text_lengths=(24,))
    loop.train(changed, tmp_path)
    assert int(final_state(changed, tmp_path).step) == 4
    after = logged(tmp_path)
    assert before.keys() == after.keys() == {1, 2, 3, 4}
    assert (tmp_path / "checkpoints" / "4").is_dir()  # the last two steps were computed again
    np.testing.assert_allclose(list(after.values()), list(before.values()), rtol=1e-4)
    (another,) = build_vit(tmp_path, {**other, "drop_path": 0.5}, 3)
    with pytest.raises(InputError, match="another model: model.towers.image.drop_path is 0.5 "):
        run_directory.check_run_directory(tmp_path, another, 4)


def test_a_microbatch_with_statistics_of_its_own_has_to_stay(tmp_path):
    (made,) = build("flair", tmp_path, microbatch=4, statistics_per_microbatch=True)
    run_directory.check_run_directory(tmp_path, made, 0)
    (smaller,) = build("flair", tmp_path, microbatch=2, statistics_per_microbatch=True)
    with pytest.raises(InputError, match="another microbatch: microbatch is 2 instead of 4;"):
        run_directory.check_run_directory(tmp_path, smaller, 0)


def test_a_finished_run_with_other_evaluators_is_evaluated_again(finished):
    made, workdir = finished
    settings = dataclasses.replace(made.settings, evaluators={"fixed": {"name": "fixed"}})
    again = dataclasses.replace(made, evaluators={"fixed": Fixed()}, settings=settings)
    loop.train(again, workdir)
    results = json.loads((workdir / "results.json").read_text())
    assert [score["value"] for score in results["scores"]] == [0.25]


def test_a_finished_run_is_evaluated_again_with_a_flip(finished):
    made, workdir = finished
    given = whole_config("flair")
    given.test_time_flip = True
    (again,) = experiment.build_all(given, workdir)
    assert all(evaluator.encoder.flip for evaluator in again.evaluators.values())
    assert run_directory.check_run_directory(workdir, made, made.total)
    assert not run_directory.check_run_directory(workdir, again, made.total)


def test_results_of_other_evaluators_never_stand_as_those_of_a_config(finished):
    """A run that is killed while other evaluators score it, and started again."""
    made, workdir = finished
    given = whole_config("flair")
    given.evaluators.zeroshot.template = "retina {}"
    (other,) = experiment.build_all(given, workdir)
    for _ in range(2):  # the second time `config.json` is that of the new evaluators
        assert not run_directory.check_run_directory(workdir, other, made.total)
        assert not (workdir / "results.json").exists()
    before = json.loads((workdir / "results-before.json").read_text())["of"]
    assert before == run_directory.identity(made, made.total)
    assert before["configuration"] != run_directory.identity(other, made.total)["configuration"]
    assert before["step"] == made.total and "synthetic_retina/smoke" in before["data"]


def test_a_data_set_that_was_built_again_with_another_content(finished):
    made, workdir = finished
    (address,) = made.fingerprints
    other = dataclasses.replace(made, fingerprints={address: "other"})
    with pytest.raises(InputError, match=f"was trained on another content of {address}"):
        run_directory.check_run_directory(workdir, other, made.total)
    config = json.loads((workdir / "config.json").read_text())
    config["fingerprints"] = {}  # as if this one were for the evaluators alone
    (workdir / "config.json").write_text(json.dumps(config))
    assert not run_directory.check_run_directory(workdir, other, made.total)
    assert not (workdir / "results.json").exists()


def test_a_directory_has_one_run_at_a_time(finished):
    made, workdir = finished
    with (
        places.claimed(workdir, "trains in this directory"),
        pytest.raises(InputError, match="Another process trains in this directory"),
    ):
        loop.train(made, workdir)
    with run_directory.claimed(workdir):  # what the program has claimed it trains in
        loop.train(made, workdir)


def test_a_stage_that_began_from_another_one_is_refused(smoke_run, tmp_path):
    workdir = shutil.copytree(smoke_run("ffa_captioner").workdir, tmp_path / "run")
    stages = experiment.build_all(whole_config("ffa_captioner"), workdir)
    folders = [workdir / stage.name for stage in stages]
    run_directory.check_stages(stages, folders)
    assert run_directory.check_run_directory(folders[1], stages[1], stages[1].total)
    longer = dataclasses.replace(stages[0], total=4)
    with pytest.raises(InputError, match="'contrastive' at step 2, and it is at step 4 now"):
        run_directory.check_stages([longer, stages[1]], folders)
    stored = folders[0] / "config.json", folders[1] / "config.json"
    first, second = (json.loads(path.read_text()) for path in stored)
    # Evaluated otherwise, it is the same stage; and so it is where an older version began from it.
    flipped = dataclasses.replace(stages[0].settings, test_time_flip=True)
    evaluated = dataclasses.replace(stages[0], settings=flipped)
    assert not run_directory.check_run_directory(folders[0], evaluated, evaluated.total)
    assert json.loads(stored[0].read_text())["configuration"] != first["configuration"]
    run_directory.check_stages(stages, folders)
    assert run_directory.check_run_directory(folders[1], stages[1], stages[1].total)
    (began,) = second["began"].values()
    del began["trained"]
    stored[0].write_text(json.dumps(first))
    stored[1].write_text(json.dumps(second))
    assert run_directory.check_run_directory(folders[1], stages[1], stages[1].total)
    began["trained"] = "another"
    stored[1].write_text(json.dumps(second))
    with pytest.raises(InputError, match="at step 2, and it was trained anew since"):
        run_directory.check_run_directory(folders[1], stages[1], stages[1].total)


def test_a_start_that_will_not_do_is_refused_before_any_stage_is_trained(tmp_path):
    """Of a stage that has not begun; one that has is as it began."""

    class Unlike:
        def check(self):
            raise InputError("other pixels")

        def began(self):
            return {}

    first, last = build("ffa_captioner", tmp_path)
    stages = [first, dataclasses.replace(last, warm_start=Unlike())]
    folders = [tmp_path / stage.name for stage in stages]
    with pytest.raises(InputError, match="other pixels"):
        run_directory.check_stages(stages, folders)
    folders[1].mkdir()
    run_directory.check_run_directory(folders[1], last, 0)
    run_directory.check_stages(stages, folders)


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
    (made,) = build("flair", tmp_path)
    with pytest.raises(Preempted, match="after step 2 of 2"):
        loop.train(dataclasses.replace(made, evaluators={"stop": StopInEvaluation()}), tmp_path)
    assert int(final_state(made, tmp_path).step) == 2


class BestAtTwo:
    """An evaluator for which step 2 is the best."""

    def run(self, state):
        return Results({"accuracy": Score(0.9 if int(state.step) == 2 else 0.5)})


class CountedOther:
    """An evaluator that says at which steps it was asked."""

    def __init__(self):
        self.steps = []

    def run(self, state):
        self.steps.append(int(state.step))
        return Results({"accuracy": Score(0.25)})


def test_an_evaluation_that_a_stop_left_out_is_made_later(tmp_path):
    """The best checkpoint is that of a run that was left alone, and so is where it ends."""
    best = "eval/chosen/accuracy"
    every = {**EVERY, "evaluate": {"steps": 2}}
    (made,) = build("flair", tmp_path, total={"steps": 8}, every=every)
    keep = dataclasses.replace(made.settings.keep, last=1, best=best, patience=2)
    settings = dataclasses.replace(made.settings, keep=keep)
    made = dataclasses.replace(made, evaluators={"chosen": BestAtTwo()}, settings=settings)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    loop.train(made, straight)
    with pytest.raises(Preempted, match="after step 2 of 8"):
        loop.train(stopped_at(made, 2), stopped)
    assert early_stopping.history(stopped, keep, 2) == []
    loop.train(made, stopped)
    assert early_stopping.history(stopped, keep, 8) == [0.9, 0.5, 0.5]
    for workdir in (straight, stopped):
        checkpointer = Checkpointer(workdir / "checkpoints", Retention(1, best))
        assert checkpointer.best_step() == 2 and checkpointer.steps() == [2, 6]
        checkpointer.close()
        assert json.loads((workdir / "results.json").read_text())["step"] == 2
    # Another metric is asked for on resume: the checkpoint gets its value, and is evaluated once.
    asked = CountedOther()
    settings = dataclasses.replace(settings, keep=Keep(last=1, best="eval/other/accuracy"))
    later = dataclasses.replace(made, total=6, evaluators={"other": asked}, settings=settings)
    loop.train(later, stopped)
    assert asked.steps == [6]
    # A third, which no checkpoint has: the newest counts.
    other = Checkpointer(stopped / "checkpoints", Retention(1, "eval/third/accuracy"))
    assert other.best_step() == 6
    other.close()
