"""Convolutional networks of PyTorch made narrow, and ours run as they are in training."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from convert import parity

from retina_jax.build import build
from retina_jax.convert import rules
from retina_jax.models import MODELS


def narrow(model: Any, factor: int) -> Any:
    """The same architecture with so many times fewer features, all of it without values."""
    torch = parity.torch_or_skip()

    def empty(*shape: int) -> Any:
        return torch.nn.Parameter(torch.empty(shape))

    for module in model.modules():
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            features, inputs, *size = module.weight.shape
            inputs = inputs if inputs == 3 else inputs // factor
            module.weight = empty(features // factor, inputs, *size)
        elif isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            features = module.num_features // factor
            module.weight, module.bias = empty(features), empty(features)
            module.running_mean, module.running_var = torch.empty(2, features)
            module.num_batches_tracked = torch.tensor(0)
        elif isinstance(module, torch.nn.Linear):
            module.weight = empty(module.out_features, module.in_features // factor)
            module.bias = empty(module.out_features)
    return model


def lively(model: Any, *inputs: Any, seed: int = 0) -> Any:
    """Random values with gains around 1, and statistics near those of the inputs.

    With others, narrow networks give nearly the same features for all pictures.
    """
    torch = parity.torch_or_skip()
    parity.randomize(model, seed)
    torch.manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(1 + 0.2 * torch.randn(norm.weight.shape))
            norm.bias.copy_(0.2 * torch.randn(norm.bias.shape))
            norm.momentum = 1.0
        model.train()(*inputs)
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean.add_(0.2 * norm.running_var.sqrt())
            norm.running_var.mul_(1.2 + 0.3 * torch.rand(norm.running_var.shape))
    return model


def state_of(model: Any) -> dict[str, Any]:
    """Its state dict, which a training step does not change any more."""
    return {name: value.copy() for name, value in parity.tensors(model).items()}


def run(converted: rules.Converted, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Outputs in evaluation and in training, and the statistics that training leaves."""
    model = build(MODELS, converted.spec)

    def both(variables: Any) -> Any:
        trained, updated = model.apply(variables, batch, train=True, mutable=["batch_stats"])
        return model.apply(variables, batch), trained, updated

    return jax.jit(both)(converted.variables)


def in_training(
    loss: Callable[[Mapping[str, Any]], Any], model: Any, variables: Any, batch: Mapping[str, Any]
) -> Any:
    """A loss of our outputs in training, whose new statistics are left out."""
    out, _ = model.apply(variables, batch, train=True, mutable=["batch_stats"])
    return loss(out)


def same_statistics(
    source: rules.WeightFormat, converted: rules.Converted, updated: Mapping[str, Any], model: Any
) -> None:
    """Asserts that our statistics after a step are, in their layout, those of the original."""
    back = rules.export(source, converted.spec, {**converted.variables, **updated})
    statistics = {
        name: value
        for name, value in source.prepare(parity.tensors(model)).items()
        if name.endswith(("running_mean", "running_var"))
    }
    assert statistics
    for name, value in statistics.items():
        parity.close(back[name], value)
        unchanged = rules.export(source, converted.spec, converted.variables)[name]
        parity.differ([unchanged, value])
