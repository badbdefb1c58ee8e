"""An AWS account on this host, whose instances are machines that boot the baked image; beside it etcd with TLS and ClearML.

Whatever EC2 lists as launched is switched on, what the guests do becomes the instances' states, and their consoles EC2's. The EC2
double answers for all of AWS: EC2, CloudFormation, IAM, SSM, EventBridge Scheduler. An instance has only settings over the image:
where AWS is, and those that make waiting shorter.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import boto3
import requests
import yaml

from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess
from scaler_plugin.localcloud.etcd import EtcdProcess, EtcdTls
from scaler_plugin.localcloud.machines.instances import DoubleInstances, Ec2Away, WantedInstance

from ..waiting import PATIENCE_S
from .instance import Instance, Network
from .machine import wait_for

T = TypeVar("T")

CLUSTER = "ami"
REGION = "us-east-1"
STACK = "scaler-ami"
INSTANCE_TYPE = "c5.large"
#: Instances of this pool have the docker images that were pulled when the image was baked.
DOCKER_POOL = "docker"

PASS_INTERVAL_S = 0.3


class Hold:
    """What tasks on any machine wait for: each connects to a server of the account that answers nothing until it is gone."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        #: A task that runs until it is let go; one that starts later ends at once.
        self.script = (
            "import contextlib, socket\n"
            "print('at work', flush=True)\n"
            "with contextlib.suppress(OSError):\n"
            f"    socket.create_connection({server.getsockname()!r}).recv(1)\n"
        )

    def let_go(self) -> None:
        self._server.close()


class Cloud:
    def __init__(self, image: Path, folder: Path, name: str) -> None:
        self._image = image
        self._settings: dict[str, str] = {}
        self._environment: dict[str, str] = {}
        self._instances: dict[str, Instance] = {}
        self._tasks: list[str] = []
        self._count = 0
        self._stopping = threading.Event()
        self._cleanup = ExitStack()
        self.folder = folder
        try:
            self._build(name)
        except BaseException:
            self.close()
            raise

    def _build(self, name: str) -> None:
        self._network = Network(name)
        self._cleanup.callback(self._network.remove)
        address = self._network.address
        self.certificates = self.folder / "etcd-certs"
        self.cli("etcd", "certs", str(self.certificates), "--member", f"etcd-1={address}")
        member = self.certificates / "members/etcd-1"
        tls = EtcdTls(member / "ca.pem", member / "server.pem", member / "server.key")
        self.etcd: EtcdProcess = self.call(lambda: EtcdProcess(self.folder / "etcd", host=address, tls=tls))
        self.clearml = ClearmlApiProcess(self.folder / "clearml", host=address)
        self.aws = Ec2DoubleProcess(self.folder / "aws", host=address)
        for part in (self.etcd, self.clearml, self.aws):
            self.call(part.start)
            self._cleanup.callback(self.call, part.stop)
        self._ec2 = DoubleInstances(self.aws.url)
        self._environment = {
            "AWS_ENDPOINT_URL": self.aws.url,
            "AWS_ACCESS_KEY_ID": "administrator",
            "AWS_SECRET_ACCESS_KEY": "administrators-secret",
            "AWS_DEFAULT_REGION": REGION,
        }
        for unit in ("scaler-bootstrap.service", "scaler-sidecar.service"):
            self.setting(unit, f"[Service]\nEnvironment=AWS_ENDPOINT_URL={self.aws.url}\n")
        # The loop that switches machines on and off lives in the network too, in a thread beside the one of `call`.
        self._loop = ThreadPoolExecutor(1, initializer=self._network.namespace.enter)
        self._cleanup.callback(self._remove_instances)
        self._followed = self._loop.submit(self._follow)
        self._cleanup.callback(self._loop.shutdown)
        self._cleanup.callback(self._stopping.set)

    def close(self) -> None:
        self._cleanup.close()

    def call(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        """Call it within the account's network."""
        return self._network.namespace.call(function, *arguments, **named)

    # What the administrator does

    def setting(self, unit: str, text: str) -> None:
        """A drop-in for a unit, on instances launched from now on."""
        self._settings[f"/etc/systemd/system/{unit}.d/test-{len(self._settings)}.conf"] = text

    def cli(self, *arguments: str, code: int = 0) -> str:
        """``scaler-sidecar`` on the administrator's machine; what it printed, with its errors where it ends with ``code``."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self._environment}
        done = self.call(
            subprocess.run,
            [sys.executable, "-m", "scaler_plugin", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=self.folder,
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return str(done.stdout + (done.stderr if code else ""))

    def store_secrets(self) -> None:
        """What docs/bootstrap.md has the administrator store."""
        client = self.certificates / "clients/scaler"
        secrets = {
            "clearml-access-key": self.clearml.access_key,
            "clearml-secret-key": self.clearml.secret_key,
            "etcd-ca": (client / "ca.pem").read_text(),
            "etcd-cert": (client / "client.pem").read_text(),
            "etcd-key": (client / "client.key").read_text(),
        }
        for name, value in secrets.items():
            self.aws_call("ssm", "put_parameter", Name=secret_name(name), Value=value, Type="SecureString")

    def write_config(self, pools: list[dict[str, Any]], **more: Any) -> str:
        """``scaler.yaml``; its path."""
        config = {
            "cluster": CLUSTER,
            "poll_interval": "1s",
            "leader_ttl": "5s",
            "etcd": {
                "endpoints": [self.etcd.endpoint.removeprefix("https://")],
                "tls": {part: reference(f"etcd-{part}") for part in ("ca", "cert", "key")},
            },
            "clearml": {
                **dict.fromkeys(("api_host", "web_host", "files_host"), self.clearml.url),
                "access_key": reference("clearml-access-key"),
                "secret_key": reference("clearml-secret-key"),
            },
            "aws": {"region": REGION, "endpoint_url": self.aws.url, "stack": STACK},
            "pools": [{"instance_types": [INSTANCE_TYPE], "ami": DEMO_IMAGE_ID, **pool} for pool in pools],
            **more,
        }
        path = self.folder / "scaler.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return str(path)

    def aws_call(self, service: str, action: str, **parameters: Any) -> Any:
        def ask() -> Any:
            client = boto3.client(
                service,
                region_name=REGION,
                endpoint_url=self.aws.url,
                aws_access_key_id="administrator",
                aws_secret_access_key="administrators-secret",
            )
            return getattr(client, action)(**parameters)

        return self.call(ask)

    def status(self) -> dict[str, Any]:
        said = self.cli("status", "--config", str(self.folder / "scaler.yaml"), "--json")
        return dict(json.loads(said))

    # What there is

    def instances(self) -> dict[str, dict[str, Any]]:
        """Every instance that EC2 knows, by id, as the double describes it."""
        if self._followed.done():
            self._followed.result()  # it ends by an exception only
        found = self.call(requests.get, f"{self.aws.url}/_instances", timeout=PATIENCE_S).json()
        return {one["id"]: one for one in found}

    def alive(self) -> list[str]:
        return [id_ for id_, one in self.instances().items() if one["state"] in ("pending", "running")]

    def calls(self, action: str) -> list[dict[str, Any]]:
        """The calls of this action that AWS has had."""
        url = f"{self.aws.url}/_journal?action={action}"
        return list(self.call(requests.get, url, timeout=PATIENCE_S).json())

    def machine(self, instance_id: str) -> Instance:
        return wait_for(f"a machine for {instance_id}", lambda: self._instances.get(instance_id))  # type: ignore[return-value]

    def consoles(self) -> str:
        """All consoles, each under its instance: for the message of a failure."""
        logs = sorted((self.folder / "machines").glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in logs)

    # ClearML

    def clearml_call(self, endpoint: str, **request: Any) -> dict[str, Any]:
        keys = (self.clearml.access_key, self.clearml.secret_key)
        answer = self.call(requests.post, f"{self.clearml.url}/{endpoint}", json=request, auth=keys, timeout=PATIENCE_S)
        assert answer.ok, answer.text
        return dict(answer.json()["data"])

    def enqueue(self, queue: str, script: str, **more: Any) -> str:
        known = self.clearml_call("queues.get_all", name=f"^{queue}$")["queues"]
        queue_id = known[0]["id"] if known else self.clearml_call("queues.create", name=queue)["id"]
        code = {"diff": script, "entry_point": "task.py", "working_dir": ".", "repository": "", "binary": "python3"}
        task = self.clearml_call("tasks.create", name="a task", type="testing", script=code, **more)["id"]
        self.clearml_call("tasks.enqueue", task=task, queue=queue_id)
        self._tasks.append(str(task))
        return str(task)

    def tasks(self) -> str:
        """How each task is and what it has said last: for the message of a failure."""
        logs = [self.clearml_call("events.get_task_log", task=task, batch_size=5000)["events"] for task in self._tasks]
        said = ["".join(event["msg"] for event in log)[-2000:] for log in logs]
        return "\n".join(
            f"--- {self.task(task)['status']}: {text}" for task, text in zip(self._tasks, said, strict=True)
        )

    def hold(self) -> Hold:
        hold = Hold(self.call(socket.create_server, (self._network.address, 0), backlog=16))
        self._cleanup.callback(hold.let_go)
        return hold

    def task(self, task: str) -> dict[str, Any]:
        return dict(self.clearml_call("tasks.get_by_id", task=task)["task"])

    # Machines follow instances

    def _follow(self) -> None:
        while not self._stopping.wait(PASS_INTERVAL_S):
            with suppress(Ec2Away):
                for wanted in self._ec2.listed():
                    self._follow_one(wanted)

    def _follow_one(self, wanted: WantedInstance) -> None:
        instance = self._instances.get(wanted.instance_id)
        if instance is None:
            if wanted.wants_power:
                self._switch_on(wanted)
            return
        self._show_console(instance)
        if not instance.machine.running:
            # A guest that shut down in order ends its machine with 0; anything else is a lost machine.
            if wanted.state not in ("shutting-down", "terminated"):
                self._ec2.shutting_down(wanted.instance_id)
            if wanted.state != "terminated":
                self._ec2.ended(wanted.instance_id, lost_power=instance.machine.wait_ended() != 0)
        elif wanted.state == "shutting-down" and instance.told != "shutting-down":
            instance.told = "shutting-down"
            instance.machine.press_power_button()

    def _switch_on(self, wanted: WantedInstance) -> None:
        self._count += 1
        user_data = self._ec2.user_data(wanted.instance_id)
        self._instances[wanted.instance_id] = Instance(
            wanted,
            user_data,
            self._count,
            self._image,
            self.folder / "machines",
            self._network,
            self._settings,
            docker=f"pool: {DOCKER_POOL}\n" in user_data,
        )
        self._ec2.booted(wanted.instance_id)

    def _show_console(self, instance: Instance) -> None:
        text = instance.machine.console.encode()
        if len(text) != instance.console_size:
            instance.console_size = len(text)
            self._ec2.console(instance.instance_id, text)

    def _remove_instances(self) -> None:
        for instance in self._instances.values():
            instance.remove()


def secret_name(name: str) -> str:
    return f"/scaler-sidecar/{CLUSTER}/{name}"


def reference(name: str) -> str:
    return f"ssm:{secret_name(name)}"
