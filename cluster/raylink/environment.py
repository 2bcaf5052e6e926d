"""The environment variables for Ray, for every start of a cluster."""

ENVIRONMENT = {
    # Ray reads these when it is imported or started.
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_V2_ENABLED": "1",
    # Of waiting for room for a group's learners that is there no more, before one takes fewer.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_USAGE_STATS_ENABLED": "0",
    # One that nobody waits for any more, as another one came first, is not told with Ray's stack.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
