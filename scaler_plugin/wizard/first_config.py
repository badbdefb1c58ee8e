"""Answers become the data of a first configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from scaler_plugin.wizard.secret_places import FOLDER, SecretPlaces

CLEARML_HOSTED = "https://api.clear.ml"
#: The user that nodes are in etcd, where they give a password.
ETCD_USER = "scaler"


class EtcdLogin(str, Enum):
    """How nodes prove themselves to etcd."""

    CERTIFICATE = "certificate"
    PASSWORD = "password"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Surroundings:
    """What every configuration needs, also one that was imported: etcd, ClearML, rights, zero."""

    etcd: tuple[str, ...]
    etcd_login: EtcdLogin
    clearml_api: str
    zero: str
    stack: bool
    places: SecretPlaces


@dataclass(frozen=True)
class FirstPool:
    queues: tuple[str, ...]
    instance_types: tuple[str, ...]
    market: str
    ami: str
    max_instances: int
    subnets: tuple[str, ...] = ()
    docker_image: str = "none"
    git_user: str = ""


def pool_data(pool: FirstPool, places: SecretPlaces) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": "workers",
        "queues": list(pool.queues),
        "instance_types": list(pool.instance_types),
        "ami": pool.ami,
        "max_instances": pool.max_instances,
        "market": pool.market,
        "idle_timeout": "10m",
        "docker_image": pool.docker_image,
    }
    if pool.subnets:
        data["subnets"] = list(pool.subnets)
    if pool.git_user:
        data["git"] = {"user": pool.git_user, "password": places.reference("git-password")}
    return data


def with_surroundings(config: Mapping[str, Any], around: Surroundings) -> dict[str, Any]:
    """``config`` has the cluster's name, its pools, perhaps its region; the rest is added."""
    places = around.places
    etcd: dict[str, Any] = {"endpoints": list(around.etcd)}
    if around.etcd_login is EtcdLogin.CERTIFICATE:
        etcd["tls"] = etcd_tls(places)
    elif around.etcd_login is EtcdLogin.PASSWORD:
        etcd |= {"user": ETCD_USER, "password": places.reference("etcd-password")}
    clearml = {
        **clearml_hosts(around.clearml_api),
        "access_key": places.reference("clearml-access-key"),
        "secret_key": places.reference("clearml-secret-key"),
    }
    aws = dict(config.get("aws", {}))
    if around.stack:
        aws["stack"] = f"scaler-sidecar-{config['cluster']}"
    whole = {**config, "zero": {"mode": around.zero}, "etcd": etcd, "clearml": clearml, "aws": aws}
    return {key: value for key, value in whole.items() if value}


def etcd_tls(places: SecretPlaces) -> dict[str, str]:
    """What nodes take from the folder clients/scaler of `etcd certs`: from AWS, or as files of every machine."""
    if places.in_aws:
        return {
            "ca": places.reference("etcd-ca"),
            "cert": places.reference("etcd-cert"),
            "key": places.reference("etcd-key"),
        }
    return {"ca": f"{FOLDER}/ca.pem", "cert": f"{FOLDER}/client.pem", "key": f"{FOLDER}/client.key"}


def clearml_hosts(api: str) -> dict[str, str]:
    """The three addresses of a ClearML server, as far as the first tells the others.

    ``api.X`` has ``app.X`` and ``files.X`` beside it, port 8008 has 8080 and 8081: the layouts that ClearML itself knows.
    """
    parts = urlsplit(api)
    host = parts.hostname or ""
    if host.startswith("api."):
        rest = parts.netloc[len("api.") :]
        return {
            "api_host": api,
            "web_host": f"{parts.scheme}://app.{rest}",
            "files_host": f"{parts.scheme}://files.{rest}",
        }
    if parts.port == 8008:
        return {"api_host": api} | {
            key: f"{parts.scheme}://{parts.netloc.rpartition(':')[0]}:{port}"
            for key, port in (("web_host", 8080), ("files_host", 8081))
        }
    return {"api_host": api}
