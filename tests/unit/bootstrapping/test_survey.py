"""What is looked at before anything is changed: each thing that could not work is one sentence that names its pool."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scaler_plugin.bootstrapping.survey import survey
from scaler_plugin.bootstrapping.template import probe_parameters, render_template
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import CloudRefused

from .made_up import CONFIG, changed, config, probe_user_data
from .scripted_account import ScriptedAccount

SUBNETS = {"subnet-0a1b2c3d4e5f60718": "eu-central-1a", "subnet-1b2c3d4e5f6071829": "eu-central-1b"}
AMIS = ("ami-0a1b2c3d4e5f67890", "ami-0f1e2d3c4b5a69788")


class MadeUpAccount(ScriptedAccount):
    """An account in which everything of the shared configuration exists; its attributes are what a test takes away."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture = "x86_64"
        self.variant = "gpu"
        self.amis = set(AMIS)
        self.vpcs = dict.fromkeys(SUBNETS, "vpc-1")
        self.free = 200
        self.types = {"g5.xlarge": 4, "g4dn.xlarge": 4, "c6i.2xlarge": 8, "t3.micro": 2}
        self.spot = True
        self.offered = {type_: set(SUBNETS.values()) for type_ in self.types}
        self.groups = {"sg-0a1b2c3d4e5f60718": "vpc-1"}
        self.parameters: set[str] = {
            "/scaler-sidecar/research/etcd-password",
            "/scaler-sidecar/research/clearml-access-key",
        }

    def call(self, service: str, action: str, about: str, **asked: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self, action)(**asked)
        return answer

    def get_caller_identity(self) -> dict[str, Any]:
        return {"Account": "111122223333"}

    def get_parameter(self, Name: str) -> dict[str, Any]:
        if Name != "/golden/cpu":
            raise CloudRefused("no", "ParameterNotFound")
        return {"Parameter": {"Value": AMIS[1]}}

    def describe_images(self, ImageIds: list[str]) -> dict[str, Any]:
        if ImageIds[0] not in self.amis:
            raise CloudRefused("no", "InvalidAMIID.NotFound")
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 30}}
        return {
            "Images": [
                {
                    "ImageId": ImageIds[0],
                    "Name": f"name-of-{ImageIds[0]}",
                    "State": "available",
                    "Tags": [{"Key": "scaler-sidecar:variant", "Value": self.variant}],
                    "Architecture": self.architecture,
                    "RootDeviceName": "/dev/sda1",
                    "RootDeviceType": "ebs",
                    "BlockDeviceMappings": [disk],
                }
            ]
        }

    def describe_instance_types(self, InstanceTypes: list[str]) -> dict[str, Any]:
        type_ = InstanceTypes[0]
        if type_ not in self.types:
            raise CloudRefused("no", "InvalidInstanceType")
        return {
            "InstanceTypes": [
                {
                    "VCpuInfo": {"DefaultVCpus": self.types[type_]},
                    **({"GpuInfo": {"Gpus": [{"Manufacturer": "NVIDIA"}]}} if type_.startswith("g") else {}),
                    "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
                    "SupportedUsageClasses": ["on-demand", *(["spot"] if self.spot else [])],
                }
            ]
        }

    def describe_subnets(self, SubnetIds: list[str]) -> dict[str, Any]:
        found = [subnet for subnet in SubnetIds if subnet in self.vpcs]
        return {
            "Subnets": [
                {
                    "SubnetId": s,
                    "VpcId": self.vpcs[s],
                    "AvailabilityZone": SUBNETS[s],
                    "AvailableIpAddressCount": self.free,
                }
                for s in found
            ]
        }

    def describe_security_groups(self, GroupIds: list[str]) -> dict[str, Any]:
        return {"SecurityGroups": [{"VpcId": self.groups[g]} for g in GroupIds if g in self.groups]}

    def describe_key_pairs(self, KeyNames: list[str]) -> dict[str, Any]:
        if KeyNames != ["ops"]:
            raise CloudRefused("no", "InvalidKeyPair.NotFound")
        return {"KeyPairs": KeyNames}

    def describe_instance_type_offerings(self, **_: Any) -> dict[str, Any]:
        offers = [{"InstanceType": t, "Location": zone} for t, zones in self.offered.items() for zone in zones]
        return {"InstanceTypeOfferings": offers}

    def get_service_quota(self, **_: Any) -> dict[str, Any]:
        return {"Quota": {"Value": 512.0}}

    def describe_parameters(self, ParameterFilters: list[dict[str, Any]]) -> dict[str, Any]:
        return {"Parameters": [n for n in ParameterFilters[0]["Values"] if n in self.parameters]}

    def describe_secret(self, SecretId: str) -> dict[str, Any]:
        return {"Name": SecretId}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> MadeUpAccount:
    monkeypatch.setattr(MadeUpAccount, "region", "eu-central-1")
    monkeypatch.setattr(MadeUpAccount, "credentials", "environment variables")
    return MadeUpAccount()


def errors(account: MadeUpAccount, of: ScalerConfig | None = None) -> str:
    return "\n".join(survey(of or config(), account).errors)


def test_where_all_is_well_there_is_no_finding_and_the_ground_is_known(account: MadeUpAccount) -> None:
    found = survey(config(), account)
    assert (found.errors, found.warnings) == ((), ())
    assert found.ground.vpc == "vpc-1"
    assert found.ground.pools["cpu"].root_gb == 30


def test_an_image_that_is_not_here(account: MadeUpAccount) -> None:
    account.amis.discard(AMIS[1])
    assert f"Pool cpu: the image {AMIS[1]} does not exist in this region" in errors(account)


def test_an_image_by_parameter_is_looked_at_as_any_other_and_its_id_is_shown(account: MadeUpAccount) -> None:
    surveyed = survey(changed(ami="resolve:ssm:/golden/cpu"), account)
    assert surveyed.errors == ()
    assert surveyed.ground.pools["cpu"].image_id == AMIS[1]
    assert surveyed.ground.pools["cpu"].root_gb == 30
    assert surveyed.notes == (f"Pool cpu: resolve:ssm:/golden/cpu is {AMIS[1]} (name-of-{AMIS[1]}).",)
    account.architecture = "arm64"
    assert f"c6i.2xlarge is x86_64, and the image {AMIS[1]} is arm64" in errors(
        account, changed(ami="resolve:ssm:/golden/cpu")
    )


def test_a_parameter_that_is_not_there_is_one_error_of_its_pool(account: MadeUpAccount) -> None:
    found = errors(account, changed(ami="resolve:ssm:/golden/gone"))
    assert "Pool cpu: resolve:ssm:/golden/gone: the parameter does not exist in this region" in found
    assert found.count("Pool cpu") == 1


def test_an_image_of_another_architecture(account: MadeUpAccount) -> None:
    account.architecture = "arm64"
    assert "c6i.2xlarge is x86_64" in errors(account)
    assert "zero.probe_instance_type: t3.micro is x86_64" in errors(account)


def test_an_image_that_was_baked_without_the_driver_of_the_types_gpus(account: MadeUpAccount) -> None:
    account.variant = "cpu"
    found = errors(account)
    assert (
        "Pool gpu-spot: g5.xlarge has GPUs, and the image ami-0a1b2c3d4e5f67890 was baked without their driver" in found
    )
    assert "Pool cpu:" not in found
    assert errors(account, changed(instance_types=["g5.xlarge"], cpu_only=True)).count("g5.xlarge has GPUs") == 1


def test_a_volume_that_is_another_device_or_too_small(account: MadeUpAccount) -> None:
    of = changed(volume={"size_gb": 8, "device_name": "/dev/xvda"})
    found = errors(account, of)
    assert "Set volume.device_name: /dev/sda1." in found
    assert "volume.size_gb is 8, below the image's own 30" in found


def test_a_subnet_a_group_and_a_key_that_do_not_exist(account: MadeUpAccount) -> None:
    del account.vpcs["subnet-1b2c3d4e5f6071829"]
    found = errors(account, changed(security_groups=["sg-00000000000000000"], key_name="gone"))
    assert "Pool gpu-spot: the subnet subnet-1b2c3d4e5f6071829 does not exist" in found
    assert "Pool cpu: the security group sg-00000000000000000 does not exist" in found
    assert "The key pair gone does not exist" in found


def test_subnets_of_two_vpcs_under_one_security_group(account: MadeUpAccount) -> None:
    account.vpcs["subnet-1b2c3d4e5f6071829"] = "vpc-2"
    assert "lie in different VPCs (vpc-1, vpc-2)" in errors(account)


def test_a_group_of_another_vpc(account: MadeUpAccount) -> None:
    account.groups["sg-0a1b2c3d4e5f60718"] = "vpc-2"
    assert "belongs to another VPC" in errors(account, changed(security_groups=["sg-0a1b2c3d4e5f60718"]))


def test_types_that_are_offered_nowhere_there_or_not_as_spot(account: MadeUpAccount) -> None:
    account.offered["c6i.2xlarge"] = {"eu-central-1c"}
    account.spot = False
    found = errors(account)
    assert "Pool cpu: none of its instance types is offered" in found
    assert "Pool gpu-spot: g5.xlarge is not sold as spot" in found


def test_a_probe_starts_in_the_first_subnet_whose_zone_offers_its_type(account: MadeUpAccount) -> None:
    first, second = SUBNETS
    of = config(CONFIG.replace("[subnet-0a1b2c3d4e5f60718]", f"[{first}, {second}]"))
    account.offered["t3.micro"] = {SUBNETS[second]}
    found = survey(of, account)
    assert found.errors == ()
    template = render_template(of, found.ground, probe_user_data(of))
    schedule, policy = (json.dumps(template["Resources"][name]) for name in ("ProbeSchedule", "ProbePolicy"))
    assert probe_parameters(of, found.ground, "lt-1", "token")["SubnetId"] == second  # what `wake` calls
    for part in (schedule, policy):
        assert second in part
        assert first not in part


def test_a_probe_whose_type_no_zone_of_its_pool_offers_is_an_error(account: MadeUpAccount) -> None:
    account.offered["t3.micro"] = {"eu-central-1c"}
    assert "zero.probe_instance_type: t3.micro is not offered in any zone" in errors(account)
    assert "t3.micro" not in errors(account, parse_yaml(CONFIG.replace("zero: {", "zero: {mode: standby, "), "test"))


def test_few_addresses_and_a_missing_secret_are_warnings_and_the_secret_is_not_read(account: MadeUpAccount) -> None:
    account.free = 3
    account.parameters.discard("/scaler-sidecar/research/etcd-password")
    found = survey(config(), account)
    assert found.errors == ()
    assert any("3 free addresses, and max_instances is 8" in warning for warning in found.warnings)
    (missing,) = found.missing_secrets
    assert missing in found.warnings
    assert (
        "put-parameter --region eu-central-1 --type SecureString --name /scaler-sidecar/research/etcd-password"
        in missing
    )


def test_a_certificate_that_is_missing_is_stored_from_the_file_that_etcd_certs_made(account: MadeUpAccount) -> None:
    place = "/scaler-sidecar/research/etcd-"
    tls = "".join(f"    {name}: ssm:{place}{name}\n" for name in ("ca", "cert", "key"))
    found = survey(parse_yaml(CONFIG.replace("  user: scaler", f"  tls:\n{tls}  user: scaler"), "test"), account)
    commands = [warning.splitlines()[1].strip() for warning in found.missing_secrets]
    assert commands == [
        f"aws ssm put-parameter --region eu-central-1 --type SecureString --name {place}{name} "
        f"--value file://etcd-certs/clients/scaler/{file}"
        for name, file in (("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key"))
    ]


def test_a_probe_that_would_install_everything_each_time_is_a_warning(account: MadeUpAccount) -> None:
    bundle = {"bundle_url": "https://files.example.com/b.tar.gz", "bundle_sha256": "0" * 64}
    first_boot = CONFIG + f"    first_boot: {bundle}\n"
    found = survey(parse_yaml(first_boot, "test"), account)
    assert [w for w in found.warnings if "stock image of pool cpu and installs everything each time, every 5m" in w]
    without_probe = first_boot.replace("zero: {", "zero: {mode: standby, ")
    assert not [w for w in survey(parse_yaml(without_probe, "test"), account).warnings if "stock image" in w]


def test_every_error_is_told_at_once_and_nothing_was_changed(account: MadeUpAccount) -> None:
    account.amis.clear()
    found = survey(parse_yaml(CONFIG.replace("c6i.2xlarge", "c6i.huge"), "test"), account)
    with pytest.raises(CloudRefused, match="Nothing was changed") as refused:
        found.refuse_errors()
    assert str(refused.value).count("\n  - ") == len(found.errors) >= 3
