"""What pyproject.toml cannot say: the presets, in ``configs/`` here, are installed as the package ``cluster.presets``.

A package ``configs`` beside ``leworld`` could be taken for another one of that name.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["leworld*", "actors*", "cluster*"]), "cluster.presets"],
    package_dir={"cluster.presets": "configs"},
)
