"""Cluster files: those of this repository are what Ray and KubeRay take; bad ones are refused in one line."""

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli.app import main
from cluster.machines.cluster_file import (
    check_with_ray,
    client_environment,
    dashboard_port,
    load_cluster,
    prepare,
    prepared_config,
    with_token,
)
from cluster.machines.examples import EXAMPLES
from leworld.errors import ConfigError

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "cluster" / "machines" / "templates"
KUBERNETES = sorted(FOLDER.glob("ray*.yaml"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("secret")
    return path


@pytest.fixture
def local(tmp_path: Path, key: Path) -> dict[str, Any]:
    return {
        "cluster_name": "lab",
        "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
        "auth": {"ssh_user": "me", "ssh_private_key": str(key)},
    }


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", ["local", "aws", "gcp"])
def test_ray_takes_our_files_as_they_are_and_prepared(tmp_path: Path, key: Path, name: str):
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    content["auth"]["ssh_private_key"] = str(key)
    file = load_cluster(written(tmp_path, content), tmp_path / "home")
    check_with_ray(file)
    assert file.num_nodes == 3
    prepare(file)
    again = load_cluster(file.prepared, tmp_path / "other")
    check_with_ray(again)
    starts = [line for kind, lines in again.given.items() if kind.endswith("start_ray_commands") for line in lines]
    assert sum("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line) == 2
    # Prepared twice is prepared once.
    assert prepared_config(again)["head_start_ray_commands"] == again.given["head_start_ray_commands"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_command_prints_the_files(name: str, capsys):
    assert main(["cluster", "example", name]) == 0
    assert capsys.readouterr().out == (FOLDER / f"{name}.yaml").read_text()


def test_there_are_no_other_files():
    assert {path.stem for path in FOLDER.iterdir()} == set(EXAMPLES)
    assert main(["cluster", "example", "azure"]) == 2


def test_examples_have_no_cpus_on_the_head():
    local = yaml.safe_load((FOLDER / "local.yaml").read_text())
    assert "--num-cpus=0" in local["head_start_ray_commands"][-1]
    for name in ("aws", "gcp"):
        content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        assert content["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_what_is_prepared_is_for_our_eyes_only(tmp_path: Path, local):
    file = load_cluster(written(tmp_path, local), tmp_path / "home")
    prepare(file)
    assert stat.S_IMODE(file.token.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.home.stat().st_mode) == 0o700
    token = file.token.read_text()
    assert len(token) == 64
    assert token not in file.prepared.read_text()
    prepare(file)
    assert file.token.read_text() == token
    mounts = yaml.safe_load(file.prepared.read_text())["file_mounts"]
    assert mounts == {"~/.leworld/lab.token": str(file.token)}
    environment = client_environment(file)
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(file.token)
    assert environment["RAY_UP_enable_autoscaler_v2"] == "0"


def test_only_starts_that_do_not_say_it_themselves_ask_for_the_token():
    assert with_token("ray stop", "t") == "ray stop"
    assert with_token("RAY_AUTH_MODE=disabled ray start --head", "t") == "RAY_AUTH_MODE=disabled ray start --head"
    line = with_token("ulimit -n 9; ray start --head", ".leworld/lab.token")
    assert line.endswith('RAY_AUTH_TOKEN_PATH="$HOME/.leworld/lab.token"; ulimit -n 9; ray start --head')
    assert "RAY_worker_niceness=0" in line


def test_the_number_of_nodes_is_what_will_come(tmp_path: Path, local):
    assert load_cluster(written(tmp_path, local)).num_nodes == 3
    assert load_cluster(written(tmp_path, {**local, "min_workers": 1})).num_nodes == 2
    assert load_cluster(written(tmp_path, {**local, "max_workers": 1})).num_nodes == 2


def test_the_dashboard_is_where_the_file_puts_it(tmp_path: Path, local):
    assert dashboard_port(load_cluster(written(tmp_path, local))) == 8265
    local["head_start_ray_commands"] = ["ray start --head --dashboard-port=9000"]
    assert dashboard_port(load_cluster(written(tmp_path, local))) == 9000


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"cluster_name": "a b"}, "cluster_name is 'a b'"),
        ({"apiVersion": "ray.io/v1"}, "use 'kubectl apply"),
        ({"provider": {}}, "provider.type is missing"),
        ({"provider": {"type": "local", "head_ip": "10.0.0.1"}}, "provider.worker_ips"),
        ({"provider": {"type": "local", "head_ip": "a", "worker_ips": ["a"]}}, "an address is there twice"),
        ({"auth": {}}, "auth.ssh_user is missing"),
        ({"auth": {"ssh_user": "me", "ssh_private_key": "/nowhere/key"}}, "/nowhere/key is no file here"),
        ({"head_start_ray_commands": ["ray start --head --port=10010"]}, "--port=10010 is among those"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, local, changes, part: str):
    path = written(tmp_path, {**local, **changes})
    with pytest.raises(ConfigError, match=f"^cluster file {path}: ") as refused:
        load_cluster(path)
    assert part in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"worker_setup_comands": []}, "'worker_setup_comands' was unexpected"),
        ({"idle_timeout_minutes": "soon"}, "idle_timeout_minutes: 'soon' is not of type 'number'"),
    ],
)
def test_what_ray_would_not_take_is_refused_in_one_line(tmp_path: Path, local, changes, part: str):
    with pytest.raises(ConfigError) as refused:
        check_with_ray(load_cluster(written(tmp_path, {**local, **changes})))
    assert part in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["a: [", "- a", "\tx"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"cluster file {path}"):
        load_cluster(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_cluster(tmp_path / "gone.yaml")


def spec_of(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert content["apiVersion"] == "ray.io/v1"
    return content["spec"] if content["kind"] == "RayCluster" else content["spec"]["rayClusterSpec"]


# The fields of KubeRay's definitions, 1.6; its own schema of 0.9 MB was applied to both files once, with unknown
# fields refused.
SPEC = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy", "workerGroupSpecs",
}  # fmt: skip
GROUP = {
    "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams",
    "replicas", "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip
JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "entrypoint", "jobId", "metadata", "rayClusterSpec",
    "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_files_have_the_fields_that_there_are(path: Path):
    spec = spec_of(path)
    assert set(spec) <= SPEC
    assert set(spec["headGroupSpec"]) <= {"enableIngress", "headService", "labels", "rayStartParams", "template"}
    for group in spec["workerGroupSpecs"]:
        assert {"groupName", "maxReplicas", "minReplicas", "template"} <= set(group) <= GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes texts only"
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_clusters_have_a_token_a_free_head_and_a_group_a_role(path: Path):
    spec = spec_of(path)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group["rayStartParams"] for group in spec["workerGroupSpecs"]}
    assert {"learner", "slm", "memory"} == groups.keys()
    assert groups["slm"]["labels"] == "leworld-role=slm"


def test_the_job_makes_the_cluster_of_the_other_file():
    cluster, job = (yaml.safe_load((FOLDER / f"ray{kind}.yaml").read_text()) for kind in ("cluster", "job"))
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert set(job["spec"]) <= JOB
    assert "--address auto" in job["spec"]["entrypoint"]


def test_kubernetes_files_are_of_the_ray_that_we_need():
    import ray

    for path in KUBERNETES:
        assert spec_of(path)["rayVersion"] == ray.__version__
