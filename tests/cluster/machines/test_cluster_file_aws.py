"""What Ray asks of AWS for the template aws.yaml: its own provider's calls, to moto's stand-in for AWS."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cluster.machines.cluster_file import load_cluster, prepared_config
from cluster.machines.examples import example_text

moto = pytest.importorskip("moto", reason="pip install 'moto[ec2,iam]' for the calls to AWS")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    # Ray gives its nodes roles of AWS's own.
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        import boto3
        from ray.autoscaler._private.aws import config

        # Ray waits half a minute for AWS to get to know a role.
        monkeypatch.setattr(config, "time", SimpleNamespace(sleep=lambda _: None, time=time.time))
        yield boto3.client("ec2", region_name="us-west-2")


def prepared(cloud: Any, folder: Path) -> dict[str, Any]:
    """What 'ray up' is given, of the file with what a user changes."""
    content = yaml.safe_load(example_text("aws"))
    (folder / "key").write_text("secret")
    content["auth"]["ssh_private_key"] = str(folder / "key")
    cloud.create_key_pair(KeyName="leworld")
    image = cloud.register_image(Name="ubuntu")["ImageId"]
    for kind in content["available_node_types"].values():
        kind["node_config"]["ImageId"] = image
    (folder / "aws.yaml").write_text(yaml.safe_dump(content))
    return prepared_config(load_cluster(folder / "aws.yaml", folder))


def bootstrapped(config: dict[str, Any]) -> dict[str, Any]:
    """As 'ray up' fills it in, and asks AWS for networks, rights and keys."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    # Without the CPUs and memory of each type, for which moto lists a thousand types in ten seconds.
    ready = prepare_config(config)
    validate_config(ready)
    return AWSNodeProvider.bootstrap_config(ready)


def start_one_of_each(config: dict[str, Any]) -> Any:
    """A node of each type, from Ray's provider."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME, TAG_RAY_USER_NODE_TYPE

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        role = "head" if name == config["head_node_type"] else "worker"
        tags = {TAG_RAY_NODE_KIND: role, TAG_RAY_USER_NODE_TYPE: name, TAG_RAY_NODE_NAME: f"ray-leworld-aws-{name}"}
        provider.create_node(kind["node_config"], tags, 1)
    return provider


def test_aws_gives_the_machines_that_the_file_asks_for_and_takes_them_back(cloud, tmp_path: Path):
    config = bootstrapped(prepared(cloud, tmp_path))
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0
    provider = start_one_of_each(config)
    rows = instances(cloud)
    assert {row["InstanceType"] for row in rows} == {"m5.large", "c5.2xlarge", "c5.xlarge"}
    assert {row["KeyName"] for row in rows} == {"leworld"}
    assert {disk["Size"] for disk in cloud.describe_volumes()["Volumes"]} == {60}
    assert open_ports(cloud) == {22}
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    # Ended, not stopped: a stopped one's disk is paid for.
    assert {row["State"]["Name"] for row in instances(cloud)} == {"terminated"}


def test_a_misspelt_setting_of_a_machine_is_refused_before_any_is_paid_for(cloud, tmp_path: Path):
    from botocore.exceptions import ParamValidationError

    config = bootstrapped(prepared(cloud, tmp_path))
    for kind in config["available_node_types"].values():
        kind["node_config"]["BlockDeviceMapping"] = kind["node_config"].pop("BlockDeviceMappings")
    with pytest.raises(ParamValidationError, match='Unknown parameter in input: "BlockDeviceMapping"'):
        start_one_of_each(config)
    assert instances(cloud) == []


def instances(cloud: Any) -> list[dict[str, Any]]:
    """All that were ever started."""
    return [row for each in cloud.describe_instances()["Reservations"] for row in each["Instances"]]


def open_ports(cloud: Any) -> set[int | None]:
    """Ports of the nodes that others than nodes reach."""
    groups = cloud.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["ray-autoscaler-leworld-aws"]}])
    rules = [rule for group in groups["SecurityGroups"] for rule in group["IpPermissions"]]
    return {rule.get("FromPort") for rule in rules if rule["IpRanges"]}
