"""The outside: configuration, command line, topology, runtime and training."""
