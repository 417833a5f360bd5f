"""A spec becomes an object, or one sentence that says what would have been accepted."""

import dataclasses

import flax.linen as nn
import pytest

from data_pipelines.errors import InputError
from data_pipelines.text.tokenizers import SentencePiece
from retina_jax import experiment, inputs
from retina_jax.build import build, check_options, options
from retina_jax.models import MODELS

pytestmark = pytest.mark.fast
CONTEXT = inputs.Context(tokenizer=None, data_dir=None)


@dataclasses.dataclass(frozen=True)
class Probe:
    """Something to build."""

    data: object
    folds: int = 5
    penalty: float = 0.3


class Tower(nn.Module):
    """A module with two options of its own."""

    width: int
    depth: int = 2


TABLE = {"probe": Probe, "tower": Tower, "any": lambda **anything: anything}


def test_it_calls_the_named_entry():
    assert build(TABLE, {"name": "probe", "folds": 3}, data="d") == Probe("d", folds=3)
    spec = {"name": "tower", "width": 8}
    assert build(TABLE, spec) == Tower(width=8)
    assert spec == {"name": "tower", "width": 8}, "the config is not to be changed"
    assert build(TABLE, {"name": "any", "x": 1}, y=2) == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"name": "prob"}, r"no 'prob' here. Known names: any, probe, tower. .* 'probe'\?"),
        ({"name": "zzz"}, r"no 'zzz' here. Known names: any, probe, tower\.$"),
        ({}, "no 'None' here"),
        (
            {"name": "probe", "data": 0, "fold": 3},
            r"'probe' has no option 'fold'. It accepts: data, folds, penalty. "
            r"Did you mean 'folds'\?",
        ),
        ({"name": "probe"}, r"'probe': missing a required argument: 'data'. It accepts: data, "),
        ({"name": "tower"}, r"'tower': missing a required argument: 'width'"),
    ],
)
def test_it_refuses(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        build(TABLE, spec)


def test_the_fields_that_flax_adds_are_no_options():
    assert options(Tower) == ("width", "depth")
    assert options(MODELS["dual"])[:2] == ("towers", "dim")
    for field in ("parent", "name", "self"):
        assert field not in options(MODELS["keepfit"])
    with pytest.raises(InputError, match="'tower' has no option 'parent'.*: width, depth"):
        build(TABLE, {"name": "tower", "width": 1, "parent": None})


def test_a_config_cannot_set_what_the_program_sets():
    """Else a learning rate written beside the optimizer's name would be ignored in silence."""
    with pytest.raises(InputError, match="'data' is no option of 'probe': the program sets it"):
        build(TABLE, {"name": "probe", "data": 1}, data=2)


def test_check_options_names_the_place():
    with pytest.raises(InputError, match="^The stream 'public' has no option 'depht'. .*'depth'"):
        check_options("The stream 'public'", Tower, {"depht": 1, "width": 2})
    check_options("anything", TABLE["any"], {"depht": 1})


def test_unknown_transforms_and_evaluators_are_refused_by_name():
    with pytest.raises(InputError, match=r"no 'decoed' here.*Did you mean 'decode'\?"):
        inputs._transform({"name": "decoed", "size": 8}, SentencePiece())
    with pytest.raises(InputError, match=r"no 'zeroshoot' here.*Did you mean 'zeroshot'\?"):
        experiment._evaluator({"name": "zeroshoot"}, None, None, {}, {})


def test_a_stream_and_an_evaluation_may_have_conditions():
    """Their option `where` is not to be taken for an argument of the code that checks them."""
    spec = {"dataset": "synthetic_retina/smoke", "split": "test", "batch_size": 1,
            "transforms": (), "where": {"no such field": "a"}}  # fmt: skip
    with pytest.raises(InputError, match="has no field 'no such field'"):
        inputs.evaluations({"": {"name": "retrieval", "data": spec}}, CONTEXT, ())


def test_an_evaluation_that_does_not_divide_over_the_devices_is_refused(monkeypatch):
    """It would be noticed after the last step, when the evaluators run."""
    monkeypatch.setattr("jax.device_count", lambda: 8)
    spec = {"dataset": "synthetic_retina/smoke", "split": "test", "batch_size": 12,
            "transforms": ()}  # fmt: skip
    with pytest.raises(InputError, match="batch of 12 of the evaluation on .* over 8 devices"):
        inputs.evaluations({"": {"name": "retrieval", "data": spec}}, CONTEXT, ())
