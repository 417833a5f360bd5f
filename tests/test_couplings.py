"""Parts that do not fit each other are one sentence before anything is compiled or trained."""

import re

import jax
import pytest
from runs import config, whole_config

from data_pipelines.errors import InputError
from retina_jax import experiment
from retina_jax.train import loop, sharding, step

VIT = {"name": "vit", "width": 32, "depth": 1, "heads": 4, "mlp_dim": 64, "patch_size": 8}


def edited(*path, **values):
    """Sets options of a group of a config."""

    def edit(config):
        for key in path:
            config = config[key]
        config.update(values)

    return edit


def all_of(*edits):
    def edit(config):
        for each in edits:
            each(config)

    return edit


def captioning(config):
    data = config["evaluators"]["retrieval"]["data"]
    config["evaluators"]["captioning"] = {"name": "captioning", "test": data}


def without_group(config):
    public = config["streams"]["public"]
    public["transforms"] = public["transforms"][:-1]


def other_pictures(config):
    test = config["evaluators"]["linear_probe"]["test"]
    first, *others = test["transforms"]
    test["transforms"] = ({**first, "size": 64}, *others)


TEXT, IMAGE = ("model", "towers", "text"), ("model", "towers")
KNOWLEDGE = ("stages", "knowledge")

WRONG = {
    "a caption objective on towers": (
        edited("objectives", caption={"name": "caption"}),
        r"model, objectives and streams .* CaptionLoss needs 'caption_logits', but .*'z'.* choose",
    ),
    "a captioning evaluator on towers": (
        captioning,
        "evaluator 'captioning' and the model .* asks for 'generate', which Dual has not: remove",
    ),
    "another vocabulary": (
        edited(*TEXT, vocab_size=100),
        "model's vocab_size is 100, the tokenizer's 2000; make them equal",
    ),
    "patches that do not divide": (
        edited(*IMAGE, image={**VIT, "patch_size": 7}),
        "model, optimizer and streams .* 32 x 32 pixels cannot be cut into patches of 7: choose",
    ),
    "a pair that names no output": (
        edited("objectives", "contrastive", pairs=(("image", "report"),)),
        r"Contrastive needs 'report', but .* embeddings \['image', 'text'\].*: name what is there",
    ),
    "groups without a group": (
        without_group,
        r"Contrastive needs 'group', .* the batch has \['image', 'text', 'text_mask'\].*transform",
    ),
    "a tower without its batch key": (
        edited(*IMAGE, oct={"name": "resnet3d", "width": 4}),
        "model's 'oct' tower needs 'oct', but the batch has only",
    ),
    "a text longer than the positions": (
        edited(*TEXT, max_length=16),
        "model, optimizer and streams .* 32 tokens .* 16 positions: lower the text length or",
    ),
    "prompts longer than the positions": (
        all_of(edited(*TEXT, max_length=32), edited("evaluators", "zeroshot", length=64)),
        "evaluator 'zeroshot' and the model .* 64 tokens .* 32 positions: lower the text length",
    ),
    "an evaluator of eyes without eyes": (
        edited("evaluators", "linear_probe", image="eyes"),
        r"evaluator 'linear_probe' .* needs 'eyes', but its data give \['image', 'label'\]; add",
    ),
    "a ViT that is scored at another size": (
        all_of(edited(*IMAGE, image=VIT), other_pictures),
        "evaluator 'linear_probe' and the model .* 17 learned positions, but images of 64 x 64",
    ),
    "a sigmoid without a bias": (
        edited("objectives", "contrastive", kind="sigmoid"),
        "needs the model's 'bias': set the model's bias_init",
    ),
    "a weight of nothing": (
        edited(weights={"reference": 1.0}),
        r"No objective gives the term 'reference' of 'weights'; terms: \['contrastive/image-text'",
    ),
    "a rule of nothing": (
        edited("optimization", rules=(("imge/.*", {"frozen": True}), (".*", {}))),
        "The optimizer rule 'imge/.*' comes to no parameter; remove it",
    ),
}
WRONG_STAGES = {
    "towers of two stages that differ": (
        edited("stages", "text", "model", "encoder", width=64),
        r"stage 'text' and that of stage 'knowledge' .* params/text/.* of shape \(64,\) instead of",
    ),
    "a head that is neither taken nor ignored": (
        edited(*KNOWLEDGE, "restore_from", ignore=()),
        r"stage 'text' and that of stage 'knowledge' .* has \['mlm_head'\] which .* neither .*name",
    ),
    "a stage that does not come before": (
        edited(*KNOWLEDGE, "restore_from", stage="txet"),
        r"names the stage 'txet', but before stage 'knowledge' run \['text'\]",
    ),
    "more nearest than experts": (
        all_of(
            edited(*KNOWLEDGE, "model", memory=0), edited(*KNOWLEDGE, "model", "local", nearest=20)
        ),
        "of stage 'knowledge' .* takes the 20 nearest of 8 expert items; lower 'nearest' or raise",
    ),
}


@pytest.fixture
def no_compilation(monkeypatch):
    """Compiling is an error: nothing else can begin to train."""

    def refuse(*_, **__):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    monkeypatch.setattr("jax._src.compiler.compile_or_get_cached", refuse)


def refusal(settings, tmp_path):
    with pytest.raises(InputError) as error:
        experiment.build_all(settings, tmp_path)
    message = str(error.value)
    assert "\n" not in message and "Traceback" not in message
    return message


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_one_sentence(wrong, tmp_path, no_compilation):
    edit, sentence = WRONG[wrong]
    settings = whole_config("flair").to_dict()
    edit(settings)
    assert re.search(sentence, refusal(settings, tmp_path))


@pytest.mark.parametrize("wrong", WRONG_STAGES)
def test_stages_that_do_not_fit_are_refused_before_the_first_one_trains(
    wrong, tmp_path, no_compilation
):
    edit, sentence = WRONG_STAGES[wrong]
    whole = whole_config("mmretinal_v2").to_dict()
    for stage in whole["stages"].values():
        stage["evaluators"] = {}
    edit(whole)
    assert re.search(sentence, refusal(whole, tmp_path))


def test_an_error_of_jax_is_one_sentence_too(tmp_path):
    """A mean of two channels for pictures of three."""
    settings = whole_config("flair").to_dict()
    settings["model"]["mean"], settings["model"]["std"] = (0.5, 0.5), (1.0, 1.0)
    message = refusal(settings, tmp_path)
    assert message.startswith("The model, optimizer and streams of the config do not fit, compare")


def test_what_is_checked_is_not_traced_again(tmp_path, monkeypatch):
    traced, terms = [], step._terms
    monkeypatch.setattr(step, "_terms", lambda *given: traced.append(given) or terms(*given))
    (built,) = experiment.build_all(config("flair"), tmp_path)
    placed = sharding.put(built.data.example(), built.mesh)
    state = loop.abstract_state(built)
    rng = jax.jit(lambda: jax.random.key(0), out_shardings=sharding.replicated(built.mesh))()
    loop.jit_step(built, state).trace(state, placed, rng)
    assert len(traced) == len(built.settings.objectives)
