"""Config: what is wrong is named, with its nearest neighbour; what is right is kept."""

import json
from dataclasses import fields, is_dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.presets import (
    change_config,
    dump_config,
    load_config,
    merge,
    parse_changes,
    parse_yaml,
    preset_names,
)
from cluster.config.renamed_keys import RENAMED, with_new_keys, with_old_keys
from cluster.config.run_config import RunConfig, check_world, known_keys, parse_config
from cluster.messages import say_renamed
from leworld.errors import ConfigError
from leworld.worlds.registry import build_world

MUJOCO = ("hopper", "swimmer", "halfcheetah")
FEW = {"num_train": 3, "num_valid": 1, "num_test": 1}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_fits_its_world(name: str):
    config = load_config(name)
    assert config.name == name
    if config.world.settings.get("body") in MUJOCO:
        pytest.importorskip("mujoco")
    few = FEW if config.world.name == "physics" else {}
    check_world(config, build_world(config.world.name, {**config.world.settings, **few}, config.seed).spec)


@pytest.mark.parametrize("name", preset_names())
def test_dumped_config_reads_back(name: str):
    config = load_config(name)
    assert parse_config(parse_yaml(dump_config(config), name)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("phases.joint.read_prise=1", "unknown key phases.joint.read_prise; nearest known: phases.joint.read_price"),
        ("clustr.mode=inline", "unknown key clustr; nearest known: cluster"),
        ("read_price=1", "unknown key read_price; nearest known: phases.joint.read_price"),
        ("world.settings.dificulty=easy", "nearest known: world.settings.difficulty"),
        ("world.name=fysics", "nearest known: physics"),
        ("phases.joint.steps=many", "phases.joint.steps is 'many'"),
        ("phases.joint.steps=1.5", "phases.joint.steps is 1.5"),
        ("phases.joint.lr=true", "phases.joint.lr is True"),
        ("phases=3", "phases is 3, but a mapping"),
        ("world=3", "world is 3, but a mapping"),
        ("cluster.mode=roy", "'ray' or 'inline'"),
        ("model.slm.num_heads=3", "not a multiple of num_heads 3"),
        ("model.num_slms=0", "outside"),
        ("seed=-1", "seed -1 is outside"),
        ("name=a/b", "cannot name a directory"),
        ("cluster.shards=0", "cluster.shards 0 is below 1"),
        ("cluster.device=gpu", "'auto', 'cpu' or 'cuda'"),
        ("phases.joint.steps=-1", "phases.joint.steps -1 is not 0 or more"),
        ("phases.pretrain.codec_weight=.nan", "phases.pretrain.codec_weight nan is not 0 or more and finite"),
        ("phases.grad_clip=0", "phases.grad_clip 0.0 is not above 0"),
        ("cluster.timeout_s=0", "cluster.timeout_s 0.0 is not above 0"),
        ("output.checkpoint_every=0", "output.checkpoint_every 0 is below 1"),
        ("seed", "not of the form key=value"),
        ("a..b=1", "not of the form key=value"),
        ("name=[1", "quote the value"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(change: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(known_keys(RunConfig, "rules"))), st.integers(0, 30), st.sampled_from("xq_"))
@settings(max_examples=60, deadline=None)
def test_any_misspelt_key_is_refused(key: str, place: int, letter: str):
    section, _, leaf = key.rpartition(".")
    place %= len(leaf) + 1
    wrong = f"{section}.{leaf[:place]}{letter}{leaf[place:]}".lstrip(".")
    if wrong in set(known_keys(RunConfig, "rules")):
        return
    with pytest.raises(ConfigError, match=f"unknown key {wrong}; nearest known: "):
        load_config("tiny", [f"{wrong}=1"])


def test_every_section_is_a_frozen_dataclass():
    config = load_config("tiny")
    for field in fields(config):
        section = getattr(config, field.name)
        if is_dataclass(section):
            assert type(section).__dataclass_params__.frozen, field.name


def test_values_are_yaml():
    config = load_config("tiny", ["phases.joint.lr=1e-3", "cluster.address=null", "world.settings={state_dim: 4}"])
    assert config.phases.joint.lr == 1e-3
    assert config.cluster.address is None
    assert config.world.settings == {**load_config("tiny").world.settings, "state_dim": 4}


def test_later_changes_win():
    assert load_config("tiny", ["seed=1", "seed=2"]).seed == 2


def test_settings_of_another_world_do_not_shine_through():
    assert load_config("tiny", ["world.name=pointers"]).world.settings == {}
    assert merge({"name": "a", "settings": {"x": 1}}, {"settings": {"y": 2}})["settings"] == {"x": 1, "y": 2}


def test_change_config_keeps_the_rest():
    config = load_config("tiny")
    changed = change_config(config, ["phases.joint.steps=9"])
    assert changed.phases.joint.steps == 9
    assert change_config(changed, [f"phases.joint.steps={config.phases.joint.steps}"]) == config


def test_changes_nest():
    assert parse_changes(["a.b=1", "a.c=[2, x]", "d="]) == {"a": {"b": 1, "c": [2, "x"]}, "d": None}


def test_a_file_builds_on_a_preset_and_on_a_file_beside_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: tiny\nseed: 5\n")
    (tmp_path / "other.yaml").write_text("base: mine.yaml\nphases: {joint: {steps: 2}}\n")
    config = load_config(str(tmp_path / "other.yaml"))
    assert (config.name, config.seed, config.phases.joint.steps) == ("other", 5, 2)
    assert config.model == load_config("tiny").model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1", "in line"),
        ("- 1", "a mapping of settings"),
        ("seed: 1\nseed: 2", "comes twice in line 2"),
        ("base: [1]", "base is"),
        ("base: bad.yaml", "round in a circle"),
        ("x: !!python/object/apply:os.getpid []", "could not determine a constructor"),
        ("seed: 2026-01-01", "seed is '2026-01-01'"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text: str, message: str):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"nearest preset: pendulum \(of "):
        load_config("pendulm")


def test_unreadable_files_are_one_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "binary"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(str(path))


def test_world_and_model_must_fit():
    config = load_config("tiny", ["model.num_slms=2"])
    world = build_world(config.world.name, config.world.settings, 0)
    with pytest.raises(ConfigError, match="3 tables for 2 SLMs"):
        check_world(config, world.spec)


@pytest.fixture
def _told_anew():
    say_renamed.cache_clear()


@pytest.mark.usefixtures("_told_anew")
def test_a_key_that_was_renamed_still_loads_and_its_new_name_is_said_once(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text("base: tiny\nmodel: {asked: 2}\n")
    (tmp_path / "new.yaml").write_text("base: tiny\nname: old\nmodel: {shortlist_size: 2}\n")
    assert load_config(str(tmp_path / "old.yaml")) == load_config(str(tmp_path / "new.yaml"))
    assert load_config(str(tmp_path / "old.yaml"), ["model.asked=1"]).model.shortlist_size == 1
    assert load_config("tiny", ["model={asked: 2}"]).model.shortlist_size == 2
    assert capsys.readouterr().err == "leworld: model.asked is now called model.shortlist_size\n"


@pytest.mark.usefixtures("_told_anew")
def test_an_old_key_without_a_value_is_not_worth_a_word(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text("base: tiny\nmodel: {asked: null}\n")
    assert load_config(str(tmp_path / "old.yaml")).model.shortlist_size is None
    assert capsys.readouterr().err == ""


def test_the_old_and_the_new_name_of_a_key_do_not_go_together():
    for text in ("model: {asked: 2, shortlist_size: 2}", "model: {shortlist_size: 2, asked: 2}"):
        with pytest.raises(ConfigError, match=r"model.shortlist_size is set twice.*remove model.asked"):
            parse_yaml(text, "file")


def test_digests_see_the_old_names():
    old = {"name": "x", "model": {"num_slms": 3, "asked": 2, "slm": {"d": 1}}, "phases": {}}
    assert json.dumps(with_old_keys(with_new_keys(old))) == json.dumps(old)


def test_every_renamed_key_has_a_new_name_that_is_known():
    known = list(known_keys(RunConfig, "physics"))
    for old, new in RENAMED.items():
        assert new in known
        assert old not in known
        assert old.rpartition(".")[0] == new.rpartition(".")[0]
