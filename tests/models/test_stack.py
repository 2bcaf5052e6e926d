import pytest
import torch

from leworld.models.slm import SLM, SLMConfig
from leworld.models.stack import Stack
from leworld.optim import Optimizer
from leworld.types import Query
from tests.models.tiny import random_query, spec_of, stir

SPEC = spec_of(state_dim=4, char_dim=3)
K, ROWS = 5, 4


def slms() -> list[SLM]:
    torch.manual_seed(0)
    made = [SLM(SLMConfig(16, 2, 2, 3), 4, 3, 8, 2) for _ in range(K)]
    for seed, slm in enumerate(made):
        stir(slm, seed=seed)
    return made


def queries(which: list[int]) -> Query:
    own = [random_query(SPEC, ROWS, seed=i) for i in which]
    return own[0].map(lambda *same: torch.stack(same), *own[1:])


def squares(answer) -> torch.Tensor:
    return sum((tensor**2).mean() for tensor in vars(answer).values())


@pytest.mark.parametrize("which", [[0, 1, 2, 3, 4], [1, 3], [4]])
def test_a_stack_answers_and_learns_as_its_modules(which):
    plain, modules = slms(), slms()
    stack = Stack(modules)
    answer = stack(which, queries(which))
    (len(which) * squares(answer)).backward()
    stack.hand_out_gradients(which)
    for place, i in enumerate(which):
        alone = plain[i](random_query(SPEC, ROWS, seed=i))
        squares(alone).backward()
        for name, tensor in vars(alone).items():
            torch.testing.assert_close(getattr(answer, name)[place], tensor, rtol=1e-4, atol=1e-5)
    for slm, other in zip(modules, plain, strict=True):
        for (name, one), two in zip(slm.named_parameters(), other.parameters(), strict=True):
            # Neither those that were not asked, nor rules of addresses, which no answer teaches.
            assert (one.grad is None) == (two.grad is None), name
            if one.grad is not None and two.grad is not None:
                torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4)


def test_a_step_of_one_module_is_seen_by_the_stack_and_by_no_other_module():
    modules = slms()
    stack = Stack(modules)
    before = stack(range(K), queries(list(range(K)))).hidden.detach()
    optimizer = Optimizer(modules[2], 0.01, 1.0)
    squares(modules[2](random_query(SPEC, ROWS))).backward()
    optimizer.step(1e-2)
    after = stack(range(K), queries(list(range(K)))).hidden.detach()
    assert [bool((before[i] != after[i]).any()) for i in range(K)] == [False, False, True, False, False]


def test_gradients_of_both_ways_add_up():
    modules, plain = slms(), slms()
    stack, query = Stack(modules), random_query(SPEC, ROWS)
    squares(modules[1](query)).backward()
    squares(stack([1], query.map(lambda x: x.unsqueeze(0)))).backward()
    stack.hand_out_gradients([1])
    (2 * squares(plain[1](query))).backward()
    for one, two in zip(modules[1].parameters(), plain[1].parameters(), strict=True):
        if two.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4)
