"""Everything that one instance of the baked image needs around it, in a network of its own: etcd and EC2 on its loopback, ClearML
where containers reach it, too, and the metadata service one hop away.

The instance is the baked disk with a layer over it. Over the image it has only the secret that the configuration refers to (on EC2
it would come from SSM) and settings that make waiting shorter; each test says which.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import requests

from scaler_plugin.cloud.metadata import InstanceFacts
from scaler_plugin.cloud.user_data import EtcdAccess, UserData
from scaler_plugin.core.model import InstanceId, LaunchId, NodeRole, PoolName
from scaler_plugin.localcloud.clearml_api.process import ClearmlApiProcess
from scaler_plugin.localcloud.ec2 import DEMO_IMAGE_ID, Ec2DoubleProcess
from scaler_plugin.localcloud.etcd import EtcdProcess
from scaler_plugin.localcloud.imds import ImdsServer

from .machine import MACHINE_ADDRESS, METADATA_ADDRESS, Machine, NetworkNamespace, Overlay, wait_for

CLUSTER = "ami"
POOL = "cpu"
QUEUE = "ami-queue"
REGION = "us-east-1"
INSTANCE_TYPE = "c5.large"
SECRET_FILE = "/etc/scaler/clearml-secret"

#: Tasks run in the image's own environment instead of downloading one, and are asked for every second.
QUICK_TASKS = """[Service]
Environment=CLEARML_AGENT_SKIP_PIP_VENV_INSTALL=/opt/scaler-sidecar/venv/bin/python
Environment=CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL=1
Environment=CLEARML_AGENT_QUEUE_POLL_FREQ_SEC=1
"""
#: In the place of the instance role's credentials.
AWS_KEYS = "[Service]\nEnvironment=AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test\n"


def docker_data_options(image: Path, folder: Path) -> list[str]:
    """Options for the machine that give it what docker has in the image: a copy, for docker's layers can't lie on an overlay."""
    data = image / "var/lib/docker"
    if not data.exists():
        return []
    subprocess.run(["cp", "--archive", "--reflink=auto", str(data), str(folder)], check=True)
    return [f"--bind={folder}:/var/lib/docker"]


class Stage:
    #: The metadata service of its instance.
    metadata_server: type[ImdsServer] = ImdsServer
    #: More options of ``systemd-nspawn`` for its machine.
    machine_options: tuple[str, ...] = ()

    def __init__(self, image: Path, folder: Path, name: str) -> None:
        self._cleanup = ExitStack()
        self._settings = 0
        self.folder = folder
        self.instance_id = InstanceId("")
        try:
            self._build(image, name)
        except BaseException:
            self.close()
            raise

    def _build(self, image: Path, name: str) -> None:
        self.network = NetworkNamespace(name)
        self._cleanup.callback(self.network.remove)
        self._metadata_host = NetworkNamespace(f"{name}-host")
        self._cleanup.callback(self._metadata_host.remove)
        self.network.reach_metadata_of(self._metadata_host)
        self.etcd: EtcdProcess = self.network.call(EtcdProcess)
        self._cleanup.callback(self.etcd.remove)
        self.clearml = ClearmlApiProcess(self.folder / "clearml", host=MACHINE_ADDRESS)
        self.ec2 = Ec2DoubleProcess(self.folder / "ec2", boot_after_s=0.1, end_after_s=0.5)
        for part in (self.etcd, self.clearml, self.ec2):
            self.network.call(part.start)
            self._cleanup.callback(self.network.call, part.stop)
        self._overlay = Overlay(image, self.folder / "instance")
        self._cleanup.callback(self._overlay.remove)
        self.setting("clearml-agent@.service", QUICK_TASKS)
        self.setting("scaler-sidecar.service", AWS_KEYS)
        self._overlay.write(SECRET_FILE, self.clearml.secret_key, 0o600)
        options = [*docker_data_options(image, self.folder / "docker"), *self.machine_options]
        self.machine = Machine(self._overlay.root, self.folder / "console.log", self.network, options)
        self._cleanup.callback(self.machine.destroy)

    def setting(self, unit: str, text: str) -> None:
        """A drop-in for a unit, on this instance only."""
        self._settings += 1
        self._overlay.write(f"/etc/systemd/system/{unit}.d/test-{self._settings}.conf", text)

    def file(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file on this instance only."""
        self._overlay.write(path, text, mode)

    def push_config(self, **pool: Any) -> None:
        config = {
            "cluster": CLUSTER,
            "poll_interval": "1s",
            "leader_ttl": "5s",
            "clearml": {
                **dict.fromkeys(("api_host", "web_host", "files_host"), self.clearml.url),
                "access_key": f"file:{SECRET_FILE.replace('secret', 'key')}",
                "secret_key": f"file:{SECRET_FILE}",
            },
            "aws": {"region": REGION, "endpoint_url": self.ec2.url},
            "pools": [
                {
                    "name": POOL,
                    "queues": [QUEUE],
                    "instance_types": [INSTANCE_TYPE],
                    "ami": DEMO_IMAGE_ID,
                    "max_instances": 1,
                    "cpu_only": True,
                    **pool,
                }
            ],
        }
        self._overlay.write(SECRET_FILE.replace("secret", "key"), self.clearml.access_key, 0o600)
        path = self.folder / "scaler.json"
        path.write_text(json.dumps(config))
        self.sidecar_command("config", "push", str(path))

    def sidecar_command(self, *arguments: str) -> str:
        """``scaler-sidecar`` as an administrator would call it from a machine that reaches etcd."""
        command = [sys.executable, "-m", "scaler_plugin", *arguments]
        environment = {"SCALER_ETCD": self.etcd.endpoint, "SCALER_CLUSTER": CLUSTER, "PATH": "/usr/bin:/bin"}
        done = self.network.call(subprocess.run, command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def launch(self, user_data: str | None = None, hop_limit: int | None = None) -> None:
        """RunInstances, and the machine boots with the metadata that EC2 gives it, up to ``hop_limit`` hops away."""
        etcd = EtcdAccess((self.etcd.endpoint,))
        text = (
            user_data
            or UserData(CLUSTER, NodeRole.WORKER, etcd, pool=PoolName(POOL), launch_id=LaunchId("l1")).render()
        )
        tags = {"scaler-sidecar:cluster": CLUSTER, "scaler-sidecar:pool": POOL, "scaler-sidecar:launch": "l1"}
        self.instance_id = InstanceId(self.network.call(self._run_instances, text, tags))
        facts = InstanceFacts(self.instance_id, INSTANCE_TYPE, f"{REGION}a", REGION, user_data=text)
        metadata = self.metadata_server(facts, 80, METADATA_ADDRESS, hop_limit=hop_limit)
        self._metadata_host.call(metadata.start)
        self._cleanup.callback(metadata.stop)
        self.machine.start()

    def _run_instances(self, user_data: str, tags: dict[str, str]) -> str:
        client = boto3.client(
            "ec2", region_name=REGION, endpoint_url=self.ec2.url, aws_access_key_id="test", aws_secret_access_key="test"
        )
        answer = client.run_instances(
            ImageId=DEMO_IMAGE_ID,
            MinCount=1,
            MaxCount=1,
            InstanceType=INSTANCE_TYPE,
            UserData=user_data,
            InstanceInitiatedShutdownBehavior="terminate",
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}],
        )
        return str(answer["Instances"][0]["InstanceId"])

    def machine_is_off(self) -> None:
        """What EC2 sees of its guest: it shut down by itself."""
        request = urllib.request.Request(
            f"{self.ec2.url}/_instances/{self.instance_id}/shutdown", data=b"", method="POST"
        )
        self.network.call(urllib.request.urlopen, request)

    def instance_state(self) -> str:
        answer = self.network.call(urllib.request.urlopen, f"{self.ec2.url}/_instances")
        return str(next(i["state"] for i in json.load(answer) if i["id"] == self.instance_id))

    def clearml_call(self, endpoint: str, **request: Any) -> dict[str, Any]:
        keys = (self.clearml.access_key, self.clearml.secret_key)
        url = f"{self.clearml.url}/{endpoint}"
        answer = self.network.call(requests.post, url, json=request, auth=keys, timeout=10)
        assert answer.ok, answer.text
        return dict(answer.json()["data"])

    def workers(self) -> list[str]:
        """Ids of the workers that have reported to ClearML."""
        return [worker["id"] for worker in self.clearml_call("workers.get_all")["workers"]]

    def enqueue(self, script: str) -> str:
        queue = wait_for("the queue exists", lambda: self.clearml_call("queues.get_all", name=f"^{QUEUE}$")["queues"])[
            0
        ]["id"]
        code = {"diff": script, "entry_point": "task.py", "working_dir": ".", "repository": "", "binary": "python3"}
        task = self.clearml_call("tasks.create", name="a task", type="testing", script=code)["id"]
        self.clearml_call("tasks.enqueue", task=task, queue=queue)
        return str(task)

    def task_status(self, task: str) -> str:
        return str(self.clearml_call("tasks.get_by_id", task=task)["task"]["status"])

    def wait_polling(self, slot: int = 0) -> None:
        """Until an agent of the node asks for tasks: its slot is idle by the agent's own word."""

        def idle() -> bool:
            said = self.machine.try_run("cat", f"/run/scaler-sidecar/slots/{slot}/state.json").stdout
            return '"state": "idle"' in said

        try:
            wait_for(f"the agent on slot {slot} polls", idle, 120)
        except AssertionError as late:
            journal = self.machine.run("journalctl", "--no-pager", "-n", "80", check=False)
            raise AssertionError(f"{late}\n{self.machine.console[-3000:]}\n{journal}") from None

    def close(self) -> None:
        self._cleanup.close()
