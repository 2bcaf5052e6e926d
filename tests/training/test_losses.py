import math

import pytest
import torch

from leworld.models.pooling import Pooled
from leworld.training.losses import verify_loss


def pooled_of(belief: torch.Tensor, valid: torch.Tensor) -> Pooled:
    nothing = torch.zeros(*belief.shape[:2], 4)
    return Pooled(content=nothing, notes=nothing, belief=belief, valid=valid)


def test_verify_loss_is_the_cross_entropy_of_believing_where_it_is_known():
    belief = torch.tensor([[[2.0, -1.0], [0.5, 9.0]], [[-90.0, 90.0], [0.0, -3.0]]], requires_grad=True)
    valid = torch.tensor([[[True, True], [True, True]], [[True, True], [True, False]]])
    wrong = torch.tensor([[True, False], [False, True]])
    known = torch.tensor([[True, False], [True, True]])
    # Sample 0 knows of its first read that it is wrong; sample 1 that its first is right and its second wrong.
    plain = [math.log1p(math.exp(2)), math.log1p(math.exp(-1)), 90.0, 0.0, math.log(2)]
    loss = verify_loss(pooled_of(belief, valid), wrong, known)
    assert loss.item() == pytest.approx(sum(plain) / 5, rel=1e-5)
    loss.backward()
    assert belief.grad[0, 0].min() > 0
    assert belief.grad[1, 0, 0] < 0
    assert belief.grad[0, 1].tolist() == [0, 0]
    assert belief.grad[1, 1, 1] == 0


def test_nothing_known_costs_nothing():
    pooled = pooled_of(torch.ones(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool))
    none = torch.zeros(1, 2, dtype=torch.bool)
    assert verify_loss(pooled, none, none).item() == 0
