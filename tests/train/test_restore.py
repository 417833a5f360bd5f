"""Starting from another model: what is taken, and the sentences about what does not fit."""

import jax
import numpy as np
import pytest
from runs import assert_same_bits

from data_pipelines.errors import InputError
from retina_jax.train import restore
from retina_jax.train.checkpoint import Checkpointer

pytestmark = pytest.mark.fast


def variables(fill, width=4, head="image_projection"):
    """Variables of a two-tower model; every array is `fill`."""

    def full(*shape):
        return np.full(shape, fill, np.float32)

    return {"params": {"image": {"conv": {"kernel": full(3, width)}, "bn": {"scale": full(width)}},
                       "text": {"embedding": full(5, width)}, head: {"kernel": full(width, 2)},
                       "logit_scale": full()},
            "batch_stats": {"image": {"bn": {"mean": full(width),
                                             "var": full(width)}}}}  # fmt: skip


def test_the_parts_that_are_taken_change_and_no_other():
    new, old = variables(0), variables(1)
    merged = restore.subtrees(
        new, old, take=("image", "logit_scale"), ignore=("text", "image_projection")
    )
    params = merged["params"]
    assert_same_bits(params["image"], old["params"]["image"])
    assert_same_bits(params["logit_scale"], old["params"]["logit_scale"])  # a scalar is a part
    assert_same_bits(params["text"], new["params"]["text"])
    assert_same_bits(params["image_projection"], new["params"]["image_projection"])
    assert_same_bits(merged["batch_stats"], old["batch_stats"])
    assert jax.tree.structure(merged) == jax.tree.structure(new)
    assert_same_bits(new, variables(0))  # the arguments are left alone
    assert_same_bits(old, variables(1))


def test_the_statistics_stay_with_the_tower_that_stays():
    merged = restore.subtrees(variables(0), variables(1), take=("text",),
                              ignore=("image", "image_projection", "logit_scale"))  # fmt: skip
    assert_same_bits(merged["batch_stats"], variables(0)["batch_stats"])
    assert_same_bits(merged["params"]["text"], variables(1)["params"]["text"])


def test_a_source_without_statistics_can_give_its_text_tower():
    source = {"params": {"text": variables(1)["params"]["text"], "mlm_head": {"bias": np.ones(9)}}}
    merged = restore.subtrees(variables(0), source, take=("text",), ignore=("mlm_head",))
    assert_same_bits(merged["params"]["text"], source["params"]["text"])
    assert_same_bits(merged["batch_stats"], variables(0)["batch_stats"])


def test_parts_left_over_are_named():
    with pytest.raises(InputError, match=r"has \['logit_scale', 'text'\] which .*neither takes"):
        restore.subtrees(variables(0), variables(1), take=("image",), ignore=("image_projection",))
    only_statistics = {"params": {"text": variables(1)["params"]["text"]},
                       "memory": {"queue": {"rows": np.ones(3)}}}  # fmt: skip
    with pytest.raises(InputError, match=r"has \['queue'\]"):
        restore.subtrees(variables(0), only_statistics, take=("text",))


def test_parts_that_are_missing_are_named_with_their_owner():
    ignore = ("text", "logit_scale", "image", "image_projection")
    with pytest.raises(InputError, match="take names 'vision', but the checkpoint .* has"):
        restore.subtrees(variables(0), variables(1), take=("vision",), ignore=ignore)
    old = variables(1, head="projection")
    ignore = ("text", "logit_scale", "image")
    with pytest.raises(InputError, match="names 'projection', but the new model has .*'image_pr"):
        restore.subtrees(variables(0), old, take=("projection",), ignore=ignore)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("text", "has params/text/embedding of shape (5, 6) instead of (5, 4)."),
        ("image", "has batch_stats/image/bn/mean of shape (6,) instead of (4,);"),
    ],
)
def test_other_shapes_are_named_with_both(part, sentence):
    new, old = variables(0, width=4), variables(1, width=6)
    with pytest.raises(InputError) as refusal:
        restore.subtrees(new, old, take=(part,), ignore=tuple(set(old["params"]) - {part}))
    assert sentence in str(refusal.value)


def test_other_parameters_inside_a_part_are_named():
    ignore = ("text", "logit_scale", "image_projection")
    lacking = variables(1)
    del lacking["params"]["image"]["bn"]
    with pytest.raises(InputError, match="it lacks params/image/bn/scale"):
        restore.subtrees(variables(0), lacking, take=("image",), ignore=ignore)
    excess = variables(1)
    excess["params"]["image"]["extra"] = {"bias": np.zeros(2)}
    with pytest.raises(InputError, match="it has in excess params/image/extra/bias"):
        restore.subtrees(variables(0), excess, take=("image",), ignore=ignore)
    without = variables(1)
    del without["batch_stats"]
    with pytest.raises(InputError, match="it lacks batch_stats/image/bn/mean, batch_"):
        restore.subtrees(variables(0), without, take=("image",), ignore=ignore)


def test_statistics_that_the_new_model_does_not_have_are_refused():
    new = {"params": variables(0)["params"]}
    ignore = ("text", "logit_scale", "image_projection")
    with pytest.raises(InputError, match="has in excess batch_stats/image/bn/mean"):
        restore.subtrees(new, variables(1), take=("image",), ignore=ignore)


def test_a_folder_without_checkpoints_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="no checkpoint to start from in .*nowhere"):
        restore.read_variables(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no complete checkpoint to start from"):
        restore.read_variables(tmp_path)
    for read in (restore.read_variables, lambda path: Checkpointer(path, read_only=True)):
        with pytest.raises(InputError, match=r"There is no folder .*/typo: name the folder of"):
            read(tmp_path / "typo" / "checkpoints")


def test_one_process_of_several_may_look_at_a_checkpoint_alone(tmp_path, monkeypatch):
    """The first one does when it writes results, while the others are elsewhere."""
    restore.write_variables(tmp_path / "checkpoints", variables(1), {"source": {"run": "tiny"}})

    def met(*args, **options):
        raise AssertionError(f"the others are not here: {args}")

    monkeypatch.setattr("orbax.checkpoint.checkpoint_manager.multihost.sync_global_processes", met)
    assert restore.about(tmp_path / "checkpoints") == {"source": {"run": "tiny"}}
    assert restore.newest_step(tmp_path / "checkpoints") == 0
    assert restore.step_of_run(tmp_path / "checkpoints", {"patience": 2, "best": "a"}) == 0
