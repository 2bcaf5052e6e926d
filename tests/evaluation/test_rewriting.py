import pytest
import torch

from leworld.evaluation.rewriting import rewritten_trial
from leworld.evaluation.trials import teacher_forced
from leworld.memory import WordStore
from leworld.rng import generator
from tests.evaluation.fakes import FakeWorld
from tests.models.tiny import tiny_trainer, tiny_world


@pytest.fixture(params=["rules", "pointers"])
def world(request):
    return tiny_world(request.param)


def test_the_new_dynamics_are_read_from_a_memory_apart(world) -> None:
    system = tiny_trainer(world, stirred=True).train_state.system
    assert isinstance(system.memory, WordStore)
    before = system.memory.snapshot().words
    found = rewritten_trial(world, system, 5, generator(0, "new"))
    assert found is not None
    trial, batch = found
    assert (system.memory.snapshot().words == before).all()
    old = world.batch("test", 5, generator(0, "new"))
    assert torch.equal(old.characteristics, batch.characteristics)
    assert not torch.allclose(old.target, batch.target)
    # The system's own memory still holds the old content.
    assert not torch.equal(trial.error, teacher_forced(system, batch).error)
    rewritten = WordStore(world.spec.address_bits)
    world.rewrite(rewritten, 1)
    own = teacher_forced(tiny_trainer(world, stirred=True, memory=rewritten).train_state.system, batch)
    assert torch.equal(own.error, trial.error)


def test_afterwards_the_world_is_what_it_was(world) -> None:
    system = tiny_trainer(world).train_state.system
    before = world.batch("test", 4, generator(0, "same"))
    rewritten_trial(world, system, 3, generator(0, "new"))
    assert torch.equal(world.batch("test", 4, generator(0, "same")).target, before.target)


def test_the_world_is_what_it_was_after_a_failure_too(world) -> None:
    class BrokenError(Exception):
        pass

    class Broken:
        def __getattr__(self, name: str):
            raise BrokenError

    before = world.batch("test", 4, generator(0, "same"))
    with pytest.raises(BrokenError):
        rewritten_trial(world, Broken(), 3, generator(0, "new"))  # pyright: ignore[reportArgumentType]
    assert torch.equal(world.batch("test", 4, generator(0, "same")).target, before.target)


def test_a_world_that_cannot_be_rewritten_has_no_such_trial() -> None:
    system = tiny_trainer(tiny_world("rules")).train_state.system
    assert rewritten_trial(FakeWorld(), system, 3, generator(0, "new")) is None
