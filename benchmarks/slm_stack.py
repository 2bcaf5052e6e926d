"""CPU milliseconds of k SLMs of one process: one after another, against their weights stacked and one batched product.

Both ways take turns in one thread, and what counts is the thread's own CPU time, so that other work on the machine
falls out. The least of some turns is shown, and its ratio: above 1 the batched product is faster.

    python benchmarks/slm_stack.py --sizes 64x1 128x3 --slms 4 16 64 --rows 1 8 64 256
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leworld.models.slm import SLM, SLMConfig, SLMOutput
from leworld.models.stack import Stack
from leworld.types import Query

STATE, CHARACTERISTICS, REQUEST, DIGITS = 32, 32, 64, 2
MOST_ROWS = 4096
"""Of all SLMs together, in a turn."""


def cpu_ms(ways: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """The least CPU time of each way; the first turn is not counted."""
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(turns + 1):
        for way, times in zip(ways, found, strict=True):
            begin = time.thread_time()
            way()
            times.append(1000 * (time.thread_time() - begin))
    return [min(times[1:]) for times in found]


def total(output: SLMOutput) -> Tensor:
    """Something to take the gradient of."""
    return output.digits.sum() + output.length.sum() + output.confidence_logit.sum() + output.hidden.sum()


def compare(config: SLMConfig, slms: int, rows: int, turns: int) -> tuple[list[float], list[float]]:
    """Milliseconds (plain, batched) of answering, and of answering with gradients."""
    torch.manual_seed(0)
    modules = [SLM(config, STATE, CHARACTERISTICS, REQUEST, DIGITS) for _ in range(slms)]
    stack, which = Stack(modules), list(range(slms))
    query = Query(*(torch.randn(rows, width) for width in (STATE, STATE, CHARACTERISTICS, REQUEST)))
    same = query.map(lambda x: x.expand(slms, *x.shape))
    with torch.no_grad():
        answers = cpu_ms([lambda: [slm(query) for slm in modules], lambda: stack(which, same)], turns)
    learns = cpu_ms(
        [lambda: [total(slm(query)).backward() for slm in modules], lambda: total(stack(which, same)).backward()], turns
    )
    return answers, learns


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["64x1", "128x3"], help="width x layers")
    parser.add_argument("--slms", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 64, 256], help="samples of each SLM")
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'size':<8}{'SLMs':>5}{'rows':>6}{'plain':>10}{'batched':>10}{'ratio':>8}   with gradients: the same")
    for size in args.sizes:
        width, layers = (int(part) for part in size.split("x"))
        for slms in args.slms:
            for rows in (rows for rows in args.rows if rows * slms <= MOST_ROWS):
                parts = compare(SLMConfig(d_model=width, num_layers=layers), slms, rows, args.turns)
                text = "   ".join(f"{plain:>10.2f}{batched:>10.2f}{plain / batched:>8.2f}" for plain, batched in parts)
                print(f"{size:<8}{slms:>5}{rows:>6}{text}", flush=True)


if __name__ == "__main__":
    main()
