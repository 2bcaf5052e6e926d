"""The presets that come with LeWorld, one YAML file each; this is a package so that an installed copy has them too.

Read one with ``importlib.resources.files("configs") / "pendulum.yaml"``.
"""
