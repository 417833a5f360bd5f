"""CLIP with ResNets, and CLOOB, against open_clip's networks.

CLOOB's own module has the same networks with other names and without open_clip's loss; `Renamed`
gives them these names. The stored fixtures are made anew by
`python tests/convert/test_clip_resnet.py`, with PyTorch installed.
"""

import math
from functools import partial

import numpy as np
import pytest
from convert import contrast, networks, parity

from data_pipelines.errors import InputError
from retina_jax.convert import files, formats, rules
from retina_jax.convert.clip_resnet import CHINESE_CLIP_RESNET, CLIP_RESNET
from retina_jax.convert.cloob import CLOOB
from retina_jax.losses import cloob

SIZE, LENGTH, VOCABULARY, DIM = 64, 9, 60, 12
HEADS = {"heads": 4, "text_heads": 3}
BATCH = {"image": contrast.photographs(SIZE),
         **contrast.texts(LENGTH, VOCABULARY, end=VOCABULARY - 1)}  # fmt: skip
STATISTICS = (CLIP_RESNET.preprocessing["mean"], CLIP_RESNET.preprocessing["std"])


def original(seed: int = 0):
    """A tiny model of open_clip with a ResNet and OpenAI's QuickGELU."""
    torch = parity.torch_or_skip()
    open_clip = pytest.importorskip("open_clip")

    vision = {"image_size": SIZE, "layers": [1, 2, 1, 1], "width": 2, "head_width": 16}
    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 24, "heads": 3,
            "layers": 2}  # fmt: skip
    model = open_clip.model.CLIP(DIM, vision, text, quick_gelu=True)
    networks.lively(model, pictures(), torch.tensor(BATCH["text"].astype(np.int64)), seed=seed)
    with torch.no_grad():
        model.visual.attnpool.q_proj.weight.mul_(5)  # so that the positions weigh unevenly
    return model


def pictures():
    return contrast.normalized(BATCH["image"], *STATISTICS)


def embeddings(model):
    """Unit rows of both modalities and the scale, by the original."""
    torch = parity.torch_or_skip()
    return (model.encode_image(pictures(), normalize=True),
            model.encode_text(torch.tensor(BATCH["text"].astype(np.int64)), normalize=True),
            model.logit_scale.exp())  # fmt: skip


def same_outputs(out, theirs):
    image, text, scale = (value.detach() for value in theirs)
    for key, expected in (("image", image), ("text", text)):
        parity.close(out["z"][key], expected)
        parity.differ(out["z"][key])
    parity.close(out["scale"] * out["z"]["image"] @ out["z"]["text"].T, scale * image @ text.T)


def test_outputs_statistics_and_gradients_are_the_originals():
    model = original()
    state = networks.state_of(model)
    assert formats.find("clip_resnet", rules.shapes_of(state)) is CLIP_RESNET
    converted = rules.convert(CLIP_RESNET, state, **HEADS)
    parity.same_tree(converted, SIZE)
    assert converted.preprocessing["size"] == SIZE
    evaluated, trained, updated = networks.run(converted, BATCH)
    same_outputs(evaluated, embeddings(model.eval()))
    theirs = embeddings(model.train())
    same_outputs(trained, theirs)
    contrast.torch_loss(*theirs).backward()
    networks.same_statistics(CLIP_RESNET, converted, updated, model)
    loss = partial(networks.in_training, contrast.loss_of, batch=BATCH)
    parity.same_gradients(CLIP_RESNET, converted, loss, model)
    parity.round_trip(CLIP_RESNET, state, **HEADS)


def test_exported_weights_load_into_the_original():
    torch = parity.torch_or_skip()
    model, fresh = original(), original(seed=1)
    converted = rules.convert(CLIP_RESNET, parity.tensors(model), **HEADS)
    back = rules.export(CLIP_RESNET, converted.spec, converted.variables)
    fresh.load_state_dict({name: torch.tensor(value) for name, value in back.items()})
    for ours, theirs in zip(embeddings(fresh.eval()), embeddings(model.eval()), strict=True):
        assert torch.equal(ours, theirs)


def cloobs(state):
    """The same tensors under the names of CLOOB's `CLIPGeneral`."""
    renamed = {}
    for name, value in state.items():
        if name == "logit_scale":
            renamed["logit_inv_tau"] = value
        else:
            renamed[name if name.startswith("visual.") else f"transformer.{name}"] = value
    return renamed


def cloobs_loss(image, text, inv_tau, beta):
    """CLOOB's objective in PyTorch: Hopfield retrieval, then InfoLOOB both ways."""
    torch = parity.torch_or_skip()

    def retrieved(state, memory):
        found = torch.softmax(beta * state @ memory.T, dim=1) @ memory
        return found / found.norm(dim=1, keepdim=True)

    def left_out(anchor, sample):
        scores = inv_tau * anchor @ sample.T
        own = torch.eye(len(scores), dtype=torch.bool)
        others = torch.logsumexp(scores.masked_fill(own, -torch.inf), dim=1)
        return (others - scores.diag()).mean() / inv_tau

    return left_out(retrieved(image, image), retrieved(text, image)) + left_out(
        retrieved(text, text), retrieved(image, text)
    )


def our_cloob_loss(out):
    return cloob.cloob(out["z"]["image"], out["z"]["text"], out["scale"], 8.0)


def test_cloob_in_training():
    torch = parity.torch_or_skip()
    model = original()
    torch.nn.init.constant_(model.logit_scale, math.log(30.0))
    state = cloobs(networks.state_of(model))
    state["logit_scale_hopfield"] = np.log(8.0).astype(np.float32)
    assert formats.find("cloob", rules.shapes_of(state)) is CLOOB
    converted = rules.convert(CLOOB, state, **HEADS)
    assert list(converted.ignored)[0] == "logit_scale_hopfield"
    parity.same_tree(converted, SIZE)
    _, trained, updated = networks.run(converted, BATCH)
    theirs = embeddings(model.train())
    same_outputs(trained, theirs)
    assert float(trained["scale"]) == pytest.approx(30)
    cloobs_loss(*theirs[:2], theirs[2], 8.0).backward()
    networks.same_statistics(CLOOB, converted, updated, Renamed(model))
    loss = partial(networks.in_training, our_cloob_loss, batch=BATCH)
    parity.same_gradients(CLOOB, converted, loss, model, prepared=cloobs)
    parity.round_trip(CLOOB, state, **HEADS)


class Renamed:
    """The state dict of a model under CLOOB's names."""

    def __init__(self, model):
        self.model = model

    def state_dict(self):
        return cloobs(self.model.state_dict())


def test_a_file_of_cloobs_training(tmp_path):
    """Wrapped names, an optimizer beside them, and the half precision of some of its layers."""
    torch = parity.torch_or_skip()
    state, _ = parity.stored("clip_resnet")
    tensors = {name: torch.tensor(value) for name, value in cloobs(state).items()}
    mixed = {n: t.half() if "conv" in n or "_proj" in n else t for n, t in tensors.items()}
    parameters = [torch.nn.Parameter(t) for t in mixed.values() if t.is_floating_point()]
    torch.save(
        {
            "epoch": 28,
            "name": "cloob_rn50_yfcc",
            "model_config_file": "RN50.json",
            "state_dict": {f"module.{name}": value for name, value in mixed.items()},
            "optimizer": torch.optim.AdamW(parameters).state_dict(),
        },
        tmp_path / "cloob.pt",
    )
    read = files.read_tensors(tmp_path / "cloob.pt")
    assert formats.find("cloob", rules.shapes_of(read)) is CLOOB
    converted = rules.convert(CLOOB, read, **HEADS)
    whole = rules.convert(CLOOB, cloobs(state), **HEADS)
    rounded = 0
    for name, value in rules.flatten(converted.variables).items():
        exact = rules.flatten(whole.variables)[name]
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, exact, rtol=2e-3, atol=1e-6)
        rounded += not np.array_equal(value, exact)
    assert rounded


def test_the_file_of_openai_is_a_program(tmp_path):
    torch = parity.torch_or_skip()
    state, _ = parity.stored("clip_resnet")

    class Archive(torch.nn.Module):
        """Modules named as in CLIP, without what they compute."""

        def __init__(self, tensors):
            super().__init__()
            for name, value in tensors.items():
                *path, last = name.split(".")
                owner = self
                for part in path:
                    if not hasattr(owner, part):
                        owner.add_module(part, torch.nn.Module())
                    owner = getattr(owner, part)
                owner.register_buffer(last, torch.tensor(value))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    sizes = {"input_resolution": SIZE, "context_length": LENGTH, "vocab_size": VOCABULARY}
    torch.jit.script(Archive(state | sizes)).save(str(tmp_path / "RN50.pt"))
    read = files.read_tensors(tmp_path / "RN50.pt")
    converted = rules.convert(CLIP_RESNET, read, **HEADS)
    assert set(sizes) < set(converted.ignored)
    whole = rules.convert(CLIP_RESNET, state, **HEADS)
    for name, value in rules.flatten(converted.variables).items():
        np.testing.assert_array_equal(value, rules.flatten(whole.variables)[name])


def test_both_layouts_of_cloob_are_the_same_model():
    state, _ = parity.stored("clip_resnet")
    flat = {("logit_inv_tau" if k == "logit_scale" else k): v for k, v in state.items()}
    one, other = (rules.convert(CLOOB, s, **HEADS) for s in (cloobs(state), flat))
    assert one.spec == other.spec
    for name, value in rules.flatten(one.variables).items():
        np.testing.assert_array_equal(value, rules.flatten(other.variables)[name])
    back = rules.export(CLOOB, other.spec, other.variables)
    one, other = ({n for n in names if "num_batches" not in n} for names in (cloobs(state), back))
    assert one == other


def test_cloob_with_a_vision_transformer():
    state, arrays = parity.stored("clip")
    converted = rules.convert(CLOOB, cloobs(state), **HEADS)
    assert converted.spec["towers"]["image"]["name"] == "vit"
    z = parity.apply(converted, {k: arrays[k] for k in BATCH}, "embed")
    for key in ("image", "text"):
        parity.close(z[key], arrays[f"z_{key}"])
    parity.round_trip(CLOOB, cloobs(state), **HEADS)


def test_stored_embeddings_are_given_again():
    state, arrays = parity.stored("clip_resnet")
    converted = rules.convert(CLIP_RESNET, state, **HEADS)
    evaluated, trained, _ = networks.run(converted, {key: arrays[key] for key in BATCH})
    for out, mode in ((evaluated, "evaluated"), (trained, "trained")):
        for key in ("image", "text"):
            parity.close(out["z"][key], arrays[f"{mode}_{key}"])
            parity.differ(out["z"][key])
    parity.round_trip(CLIP_RESNET, state, **HEADS)


def test_positions_for_another_size():
    torch = parity.torch_or_skip()
    state, _ = parity.stored("clip_resnet")
    converted = rules.convert(CLIP_RESNET, state, image_size=96, **HEADS)
    assert converted.preprocessing["size"] == 96
    parity.same_tree(converted, 96)
    old = torch.tensor(state["visual.attnpool.positional_embedding"])
    grid = old[1:].T.reshape(1, -1, 2, 2)
    grid = torch.nn.functional.interpolate(grid, (3, 3), mode="bicubic", antialias=True)
    new = torch.cat([old[:1], grid[0].flatten(1).T])
    pool = converted.variables["params"]["image"]["attention_pool"]
    parity.close(pool["position_embedding"], new, 1e-5)


def full_size(name: str):
    """Names and shapes of a model of open_clip."""
    torch = parity.torch_or_skip()
    open_clip = pytest.importorskip("open_clip")

    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        return rules.shapes_of(open_clip.model.CLIP(**config).state_dict())


@pytest.mark.parametrize(("name", "parameters", "heads", "size"),
                         [("RN50", 102_007_137, 32, 224), ("RN101", 119_688_033, 32, 224),
                          ("RN50x4", 178_300_601, 40, 288)])  # fmt: skip
def test_released_sizes(name, parameters, heads, size):
    theirs = full_size(name)
    for source, shapes in ((CLIP_RESNET, theirs), (CLOOB, cloobs(theirs))):
        assert formats.find(source.name, shapes) is source
        spec = source.model(shapes)
        assert source.image_size(shapes) == size
        ours = rules.abstract(spec, size)
        counts = [int(np.prod(s)) for path, s in ours.items() if path.startswith("params/")]
        assert sum(counts) == parameters
        assert ours["params/image/attention_pool/query/bias"] == (heads, 64)


def test_the_wrong_source_is_told():
    state, _ = parity.stored("clip_resnet")
    with pytest.raises(InputError, match="'clip'; it looks like 'clip_resnet'"):
        formats.find("clip", rules.shapes_of(state))
    with pytest.raises(InputError, match="'clip_resnet'; it looks like 'cloob'"):
        formats.find("clip_resnet", rules.shapes_of(cloobs(state)))
    flat = {("logit_inv_tau" if k == "logit_scale" else k): v for k, v in state.items()}
    with pytest.raises(InputError, match="'clip_resnet'; it looks like 'cloob'"):
        formats.find("clip_resnet", rules.shapes_of(flat))
    with pytest.raises(InputError, match="'cloob'; it looks like 'clip_resnet'"):
        formats.find("cloob", rules.shapes_of(state))


def test_what_does_not_fit_is_named():
    state, _ = parity.stored("clip_resnet")
    wrong = {**state, "visual.bn4.weight": state["visual.bn1.weight"]}
    wrong["visual.layer1.0.bn2.bias"] = np.zeros(5, np.float32)
    del wrong["visual.attnpool.k_proj.bias"]
    with pytest.raises(InputError) as error:
        rules.convert(CLIP_RESNET, wrong, **HEADS)
    for part in (
        "no use for 1 of its tensors (visual.bn4.weight)",
        "lacks 1 that are needed (visual.attnpool.k_proj.bias)",
        "'visual.layer1.0.bn2.bias' of shape (5,) where (2,) is needed",
    ):
        assert part in str(error.value)


def chinese():
    """Chinese-CLIP's arrangement of open_clip's ResNet and a BERT of Hugging Face."""
    torch = parity.torch_or_skip()
    import transformers
    from open_clip.modified_resnet import ModifiedResNet

    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip

    class Chinese(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = ModifiedResNet([1, 1, 1, 2], DIM, 4, SIZE, 2)
            self.bert = transformers.BertModel(config, add_pooling_layer=False)
            self.text_projection = torch.nn.Parameter(torch.empty(24, DIM))
            self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, image, ids, mask):
            text = self.bert(ids, attention_mask=mask).last_hidden_state[:, 0]
            unit = torch.nn.functional.normalize
            return unit(self.visual(image)), unit(text @ self.text_projection)

    model = Chinese()
    inputs = (pictures(), torch.tensor(BATCH["text"]), torch.tensor(BATCH["text_mask"]))
    return networks.lively(model, *inputs).eval(), inputs


def test_chinese_clip_with_a_resnet():
    model, inputs = chinese()
    state = networks.state_of(model)
    assert formats.find("chinese_clip_resnet", rules.shapes_of(state)) is CHINESE_CLIP_RESNET
    converted = rules.convert(CHINESE_CLIP_RESNET, state, **HEADS)
    parity.same_tree(converted, SIZE)
    theirs = (*model(*inputs), model.logit_scale.exp())
    same_outputs(parity.apply(converted, BATCH), theirs)
    contrast.torch_loss(*theirs).backward()
    loss = partial(contrast.loss, batch=BATCH)
    parity.same_gradients(CHINESE_CLIP_RESNET, converted, loss, model)
    parity.round_trip(CHINESE_CLIP_RESNET, state, **HEADS)


def main() -> None:
    """Stores a tiny CLIP with a ResNet and its embeddings."""
    model, found = original(), {}
    state = networks.state_of(model)
    for mode, train in (("evaluated", False), ("trained", True)):
        image, text, _ = embeddings(model.train(train))
        found[f"{mode}_image"], found[f"{mode}_text"] = image.detach(), text.detach()
    print(parity.store("clip_resnet", state, **BATCH, **found))


if __name__ == "__main__":
    main()
