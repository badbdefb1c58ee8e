"""Looks each answer up where it can: at AWS, ClearML and etcd. Changes nothing anywhere.

Guarantees: a verdict always comes, within seconds, and it says whether the answer is right, wrong, or could not be checked and why.
After AWS could not be reached once it is not asked again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.images import find_image_id
from scaler_plugin.bootstrapping.instance_types import find_type, misfit_of_driver, misfit_of_image, misfit_of_market
from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.schema import AwsConfig
from scaler_plugin.core.model import Market, QueueName
from scaler_plugin.errors import CloudError, CloudUnavailable, ConfigError, ScalerError, StoreRefused

IMAGE_NAME = "*scaler-sidecar-*"
_SOLD = {Market.SPOT: "as spot", Market.ON_DEMAND: "on demand"}


class State(str, Enum):
    RIGHT = "right"
    WRONG = "wrong"
    UNKNOWN = "not checked"


@dataclass(frozen=True)
class Verdict:
    state: State
    text: str


class Checks:
    """``etcd_identity``: a folder with the TLS files by which this machine itself reaches etcd."""

    def __init__(self, etcd_identity: Path | None = None) -> None:
        self._identity = etcd_identity
        self._aws_away = ""
        self._types: dict[tuple[str, str], dict[str, Any] | None] = {}

    def region(self, region: str) -> Verdict:
        def ask(account: Account) -> Verdict:
            zones = account.call("ec2", "describe_availability_zones", f"region {region}")["AvailabilityZones"]
            return Verdict(State.RIGHT, f"{region} has {len(zones)} zones")

        return self._aws(region, ask)

    def newest_image(self, region: str) -> str | None:
        """The newest image that `packer.json` made in this account; ``None`` if there is none or nobody can say."""
        found: list[Any] = []

        def ask(account: Account) -> Verdict:
            filters = [{"Name": "name", "Values": [IMAGE_NAME]}, {"Name": "state", "Values": ["available"]}]
            found.extend(
                account.call("ec2", "describe_images", "own images", Owners=["self"], Filters=filters)["Images"]
            )
            return Verdict(State.RIGHT, "")

        self._aws(region, ask)
        newest = max(found, key=lambda image: str(image.get("CreationDate", "")), default=None)
        return str(newest["ImageId"]) if newest else None

    def image(self, ami: str, region: str, types: Sequence[str] = ()) -> Verdict:
        """Whether there is such an image, and each of the types runs it."""

        def ask(account: Account) -> Verdict:
            try:
                id_ = find_image_id(ami, account)
            except ConfigError as error:
                return Verdict(State.WRONG, _short(error))
            answer = account.found("ec2", "describe_images", f"image {id_}", ImageIds=[id_])
            images = answer["Images"] if answer else []
            if not images:
                return Verdict(State.WRONG, f"{id_} does not exist in {region}, or is not shared with this account")
            for type_ in types:
                described = self._type(type_, region, account)
                if not described:
                    continue
                misfit = misfit_of_image(type_, described, images[0]) or misfit_of_driver(type_, described, images[0])
                if misfit:
                    return Verdict(
                        State.WRONG, f"{misfit}; name an image for the type, or begin again with other types"
                    )
            name = str(images[0].get("Name", ""))
            found = f"{ami} is" if ami == id_ else f"{ami} is {id_},"
            if "scaler-sidecar" not in name:
                return Verdict(
                    State.RIGHT,
                    f"{found} {name or 'without a name'}; it must hold the sidecar, as packer.json bakes it",
                )
            return Verdict(State.RIGHT, f"{found} {name}")

        return self._aws(region, ask)

    def instance_types(self, types: Sequence[str], region: str) -> Verdict:
        def ask(account: Account) -> Verdict:
            shown = []
            for type_ in types:
                described = self._type(type_, region, account)
                if described is None:
                    return Verdict(State.WRONG, f"the instance type {type_} does not exist in {region}")
                shown.append(
                    f"{type_} has {described.get('VCpuInfo', {}).get('DefaultVCpus', '?')} vCPUs{_gpus(described)}"
                )
            return Verdict(State.RIGHT, ", ".join(shown))

        return self._aws(region, ask)

    def market(self, market: Market, types: Sequence[str], region: str) -> Verdict | None:
        """Whether the types are sold so; nothing is said where one does not exist: the check of the types says so."""

        def ask(account: Account) -> Verdict:
            described = {type_: self._type(type_, region, account) for type_ in types}
            for type_, found in described.items():
                misfit = misfit_of_market(type_, found, market) if found else None
                if misfit:
                    return Verdict(State.WRONG, misfit)
            return Verdict(
                State.RIGHT, f"{', '.join(types)} can be had {_SOLD[market]}" if all(described.values()) else ""
            )

        verdict = self._aws(region, ask)
        return verdict if verdict.text else None

    def subnets(self, subnets: Sequence[str], region: str) -> Verdict:
        def ask(account: Account) -> Verdict:
            if not subnets:
                filters = [{"Name": "default-for-az", "Values": ["true"]}]
                found = account.call("ec2", "describe_subnets", "default subnets", Filters=filters)["Subnets"]
                if not found:
                    return Verdict(State.WRONG, f"{region} has no default subnet; name the subnets")
                return Verdict(State.RIGHT, f"the default subnets of {len(found)} zones")
            for subnet in subnets:
                answer = account.found("ec2", "describe_subnets", f"subnet {subnet}", SubnetIds=[subnet])
                if not answer or not answer["Subnets"]:
                    return Verdict(State.WRONG, f"the subnet {subnet} does not exist in {region}")
            return Verdict(State.RIGHT, "they exist" if len(subnets) > 1 else f"{subnets[0]} exists")

        return self._aws(region, ask)

    def clearml(self, api: str) -> Verdict:
        """Whether the API server is there, and whether it takes this machine's own keys, if it has any."""
        import requests  # noqa: PLC0415

        try:
            answer = requests.get(f"{api}/debug.ping", timeout=5, allow_redirects=False)
            meta = answer.json().get("meta", {}) if answer.status_code == 200 else {}
        except (requests.RequestException, ValueError, AttributeError) as error:
            if isinstance(error, requests.RequestException) and not isinstance(error, ValueError):
                return Verdict(State.UNKNOWN, f"{api} cannot be reached from here")
            meta = {}
        if meta.get("result_code") != 200:
            return Verdict(
                State.WRONG,
                f"{api} does not answer like a ClearML API server (its port is 8008, or its name begins with api.)",
            )
        return self._keys(api)

    def queues(self, api: str, queues: Sequence[str]) -> Verdict:
        """Which of them exist. None is wrong: the leader creates what is missing."""
        from scaler_plugin.clearml_server.api import ClearmlServer  # noqa: PLC0415

        if not _has_keys():
            return Verdict(State.UNKNOWN, "this machine has no keys for ClearML in its environment")
        try:
            known = ClearmlServer(api_host=api).backlogs([QueueName(queue) for queue in queues])
        except ScalerError as error:
            return Verdict(State.UNKNOWN, _short(error))
        there = [queue for queue in queues if queue in known]
        missing = [queue for queue in queues if queue not in known]
        parts = (
            f"{_listed(there)} {_verb(there, 'exists', 'exist')}" if there else "",
            f"{_listed(missing)} {_verb(missing, 'does', 'do')} not exist and will be created" if missing else "",
        )
        return Verdict(State.RIGHT, "; ".join(part for part in parts if part))

    def etcd(self, endpoints: Sequence[str]) -> Verdict:
        shown = ", ".join(endpoints)
        here = all(endpoint.split("://")[-1].startswith(("127.", "localhost", "[::1]")) for endpoint in endpoints)
        but = "; instances on other machines cannot reach it by this address" if here else ""
        try:
            store = self._etcd_settings(endpoints).open()
            try:
                store.get("/scaler-sidecar/")
            finally:
                store.close()
        except StoreRefused as error:
            if "refused the request" in str(
                error
            ):  # none of etcd's own refusals: a proxy, or something else altogether
                return Verdict(State.UNKNOWN, _short(error))
            return Verdict(State.RIGHT, f"etcd at {shown} answers, and asks for a login{but}")
        except ConfigError as error:
            return Verdict(State.WRONG, _short(error))
        except ScalerError as error:
            return Verdict(State.UNKNOWN, _short(error))
        return Verdict(State.RIGHT, f"etcd at {shown} answers{but}")

    def _etcd_settings(self, endpoints: Sequence[str]) -> EtcdSettings:
        if self._identity is None:
            return EtcdSettings(tuple(endpoints))
        ca, cert, key = (str(self._identity / name) for name in ("ca.pem", "client.pem", "client.key"))
        return EtcdSettings(tuple(endpoints), ca, cert, key)

    def _keys(self, api: str) -> Verdict:
        from scaler_plugin.clearml_server.api import ClearmlServer  # noqa: PLC0415

        if not _has_keys():
            return Verdict(State.RIGHT, f"{api} answers; keys were not tried, this machine has none in its environment")
        try:
            ClearmlServer(api_host=api).backlogs([])
        except ScalerError as error:
            return Verdict(State.RIGHT, f"{api} answers, but not to this machine's keys: {_short(error)}")
        return Verdict(State.RIGHT, f"{api} answers, and takes this machine's keys")

    def _type(self, type_: str, region: str, account: Account) -> dict[str, Any] | None:
        """Asked for once: three questions are about the same types."""
        if (type_, region) not in self._types:
            self._types[type_, region] = find_type(type_, account)
        return self._types[type_, region]

    def _aws(self, region: str, ask: Callable[[Account], Verdict]) -> Verdict:
        if self._aws_away:
            return Verdict(State.UNKNOWN, self._aws_away)
        try:
            return ask(Account(AwsConfig(region=region)))
        except CloudUnavailable as error:
            self._aws_away = _short(error)
            return Verdict(State.UNKNOWN, self._aws_away)
        except CloudError as error:
            if error.code in ("NoCredentials", "AuthFailure"):
                self._aws_away = _short(error)
            return Verdict(State.UNKNOWN, _short(error))


def _has_keys() -> bool:
    return any(name in os.environ for name in ("CLEARML_API_ACCESS_KEY", "CLEARML_CONFIG_FILE"))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _verb(names: Sequence[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _gpus(described: Mapping[str, Any]) -> str:
    gpus = sum(gpu.get("Count", 0) for gpu in described.get("GpuInfo", {}).get("Gpus", []))
    return f" and {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else ""


def _short(error: Exception) -> str:
    return str(error).rstrip(".")
