"""Evaluators: data in, figures with intervals out. See docs/add_an_evaluation.md."""

from retina_jax.evals.captioning import Captioning
from retina_jax.evals.fewshot import FewShot
from retina_jax.evals.finetune import FineTune
from retina_jax.evals.frozen_probes import KNN, Attentive
from retina_jax.evals.head import Head
from retina_jax.evals.linear_probe import LinearProbe
from retina_jax.evals.reconstruction import Reconstruction
from retina_jax.evals.retrieval import Retrieval
from retina_jax.evals.zeroshot import ZeroShot

EVALUATORS = {
    "attentive": Attentive,
    "captioning": Captioning,
    "fewshot": FewShot,
    "finetune": FineTune,
    "head": Head,
    "knn": KNN,
    "linear_probe": LinearProbe,
    "reconstruction": Reconstruction,
    "retrieval": Retrieval,
    "zeroshot": ZeroShot,
}
