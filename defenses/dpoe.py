"""DPoE, denoised product of experts: a shallow partner learns the trigger, so that the classifier need not (Liu et al., NAACL
2024, arXiv:2305.14910).

A trigger is a shortcut, which a few layers learn. So the classifier is trained together with a partner, its own first layers
with a head of their own. The loss is the cross-entropy of the product of both, softmax(log p + product * log p_partner): a row
that the partner gets right has little left to teach the classifier. Against the noise of wrong labels R-Drop is added, the
divergence between two passes of the classifier with different dropout. The partner is thrown away afterwards.

From the authors' code (`train_w_dpoe.py` and its script, in which R-Drop weighs 3, and the partner learns four times as fast as
the classifier and has 2 to 5 of 12 layers). Departures: the recipe is the victim's own (theirs: 3 passes at 2e-5, weight decay
of 0.01); the values are fixed beforehand, where the paper chooses them on a pseudo development set; the temperature, which the
script leaves at 1, is left out. The partner has at most all layers but one.

The values matter. Those above, and one layer ten times as fast, leave the trigger as it was in 96 steps of the bundled model on
SST-2; why was not found. Where the partner learns a whole task, as on the tests' small data, the classifier learns none of it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdbench.defenses.base import Training, register
from bdbench.engine.training import Recipe, schedule
from bdbench.errors import first_line
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext


@register("dpoe", paper="arXiv:2305.14910")
@dataclass(frozen=True)
class DPoE(Training):
    title = "DPoE"
    needs = frozenset({"training-control"})

    layers: int = hp(3, low=1, high=1000, search=(1, 6), help="layers of the shallow partner, at most all but one")
    haste: float = hp(
        4.0, low=0.0, high=1000.0, search=(0.5, 50.0), log=True, help="learning rate of the partner over the classifier's"
    )
    product: float = hp(1.0, low=0.0, high=100.0, search=(0.1, 3.0), help="weight of the partner in the product; 0: none")
    rdrop: float = hp(3.0, low=0.0, high=1000.0, search=(0.0, 10.0), help="weight of R-Drop in the loss")

    def unfit(self, model: nn.Module) -> str | None:
        try:
            with torch.device("meta"):
                of_fewer_layers(model, 1)
        except Exception as error:  # a family may refuse a configuration of fewer layers in any way
            return f"{type(model).__name__} cannot be made with its first layer alone: {first_line(error)}"
        return None

    def train(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> nn.Module:
        partner = shallow(model, self.layers).to(ctx.device)
        experts = nn.ModuleDict({"classifier": model, "partner": partner})
        optimizer = optimizer_of(experts, ctx.recipe, self.haste, len(rows))

        def loss(experts: nn.ModuleDict, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            first, second = (experts["classifier"](**inputs).logits.float() for _ in range(2))
            of_partner = experts["partner"](**inputs).logits.float()
            return product_loss(first, of_partner, labels, self.product) + self.rdrop * divergence(first, second)

        ctx.train(experts, rows, ctx.recipe, optimizer=optimizer, loss=loss)
        return model


def shallow(model: nn.Module, layers: int) -> nn.Module:
    """A classifier of the model's first `layers` layers, at most all but one, with copies of its weights, head included."""
    partner = of_fewer_layers(model, layers)
    weights = model.state_dict()
    partner.load_state_dict({name: weights[name] for name in partner.state_dict()})
    return partner


def of_fewer_layers(model: nn.Module, layers: int) -> nn.Module:
    """As `shallow`, with other weights. Raises ValueError where the model has one layer, or lacks some of these weights."""
    config = copy.deepcopy(model.config)
    if config.num_hidden_layers < 2:
        raise ValueError("it has no other")
    config.num_hidden_layers = min(layers, config.num_hidden_layers - 1)
    with torch.random.fork_rng(devices=[]):
        partner = type(model)(config)
    weights, fewer = ({name: value.shape for name, value in of.state_dict().items()} for of in (model, partner))
    if not fewer.items() <= weights.items():
        raise ValueError("its weights are then others")
    return partner


def optimizer_of(experts: nn.ModuleDict, recipe: Recipe, haste: float, rows: int) -> torch.optim.Optimizer:
    """AdamW over both experts with the recipe's schedule and clipping, each expert clipped by itself, as a step is taken."""
    rates = {"classifier": recipe.learning_rate, "partner": haste * recipe.learning_rate}
    groups = [{"params": list(experts[name].parameters()), "peak": rate} for name, rate in rates.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    steps, step = recipe.steps(rows), 0

    def prepare(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        nonlocal step
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], recipe.clip, foreach=True)
            group["lr"] = group["peak"] * schedule(step, steps, recipe.warmup)
        step += 1

    optimizer.register_step_pre_hook(prepare)
    return optimizer


def product_loss(logits: Tensor, of_partner: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Mean cross-entropy of softmax(log p + weight * log p_partner), from two (b, classes) logits and (b,) labels."""
    return F.cross_entropy(logits.log_softmax(dim=1) + weight * of_partner.log_softmax(dim=1), labels)


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """The symmetric Kullback-Leibler divergence of two (b, classes) logits: half of both ways, a mean over rows and classes.

    The authors' code takes the mean over classes, too, where R-Drop's takes the sum.
    """
    log_p, log_q = logits.log_softmax(dim=1), others.log_softmax(dim=1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).mean() / 2
