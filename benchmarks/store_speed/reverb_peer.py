"""Reverb's sampling of 1 KiB items: for each line of input, which is seconds, it prints a rate.

Run by a Python that has dm-reverb. That needs TensorFlow and an older numpy than LeWorld's, so that it has an
environment of its own and imports nothing from here.
"""

from __future__ import annotations

import sys
import time

import numpy as np

BATCH = 256


def make_server(reverb, items):
    """A server with a table of items that are sampled uniformly."""
    selectors = reverb.selectors
    table = reverb.Table(
        "memory", selectors.Uniform(), selectors.Fifo(), items, rate_limiter=reverb.rate_limiters.MinSize(1)
    )
    server = reverb.Server([table])
    generator = np.random.default_rng(0)
    with server.localhost_client().writer(max_sequence_length=1) as writer:
        for _ in range(items):
            writer.append(generator.integers(0, 1 << 32, 256, dtype=np.uint32))
            writer.create_item("memory", num_timesteps=1, priority=1.0)
    return server


def batches(reverb, server):
    """Batches of samples without end, by its own data set."""
    import tensorflow  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    data = reverb.TimestepDataset(
        server_address=f"localhost:{server.port}",
        table="memory",
        dtypes=tensorflow.uint32,
        shapes=tensorflow.TensorShape([256]),
        max_in_flight_samples_per_worker=2 * BATCH,
    )
    return iter(data.batch(BATCH))


def main():
    """Answer until the input ends."""
    import reverb  # pyright: ignore[reportMissingImports]

    server = make_server(reverb, int(sys.argv[1]))
    samples = batches(reverb, server)
    print("ready", flush=True)
    for line in sys.stdin:
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < float(line):
            count += len(next(samples).data)
        print(count / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
