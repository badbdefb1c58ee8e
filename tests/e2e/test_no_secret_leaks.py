"""Secrets stay where they belong: a whole cluster runs on canaries, and everything that others could see is searched for them.

The cluster gets its secrets as a real one does, by reference: ClearML's keys, a git password, etcd's password. AWS credentials
lie in a file, where on EC2 the metadata service would have them. Two tasks run until they are let go; a third one's agent is held
in the middle of its clone, when git has just shown the password to its server.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.store import Entry
from scaler_plugin.localcloud.default_config import default_config
from scaler_plugin.localcloud.demo.scene import DONE, FINAL, Scene
from scaler_plugin.localcloud.demo.watcher import Watcher
from scaler_plugin.localcloud.etcd import EtcdProcess, etcd_binary
from scaler_plugin.localcloud.interruption import Interruption
from scaler_plugin.localcloud.machines.process_tree import MACHINE_MARKER
from scaler_plugin.localcloud.world import WorldOptions

from ..waiting import PATIENCE_S, until
from .discreet_world import DiscreetWorld
from .git_server import GitServer
from .held_tasks import ENTRY_POINT, LET_GO, HeldTasks

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.xdist_group("no_secret_leaks"),
    pytest.mark.timeout(900),
]

TASKS = 2
CLONED_SCRIPT = "cloned.py"
CLONED = "was cloned"
#: For machines that boot, and agents and tasks that start, all at once.
BOOTS_S = 240.0
TEMPORARY_HOLDERS = re.compile(r"/tmp/(?:\.clearml_agent\.\w+\.cfg|clearml_git_\w+\.sh)$")


@dataclass(frozen=True)
class Process:
    """As ``/proc`` shows it to everybody (the command line), and to its own user (the environment)."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def line(self) -> str:
        return " ".join(self.arguments)


@dataclass
class Stage:
    world: DiscreetWorld
    secrets_folder: Path
    canaries: dict[str, str]
    etcd_root: str
    git: GitServer
    tasks: HeldTasks
    cloning_task: str
    look: Callable[[], Scene]
    clearml_call: Callable[..., str]
    scene: Scene = field(default_factory=lambda: Scene(0.0))

    def until(self, what: str, condition: Callable[[Scene], bool]) -> None:
        def holds() -> bool:
            self.scene = self.look()
            return condition(self.scene)

        until(holds, what, BOOTS_S, seen=lambda: f"{self.scene}\n{self.consoles()}", every_s=0.2)

    def tasks_end(self) -> None:
        self.tasks.let_go()
        self.until("the tasks are done", lambda scene: all(task.status in DONE for task in scene.tasks))

    def console_of(self, task: str) -> str:
        """As ClearML keeps it, for all who may see the task."""
        return self.clearml_call("events.get_task_log", task=task, batch_size=5000)

    def whole_console_of(self, task: str, last: str) -> str:
        """Once its last line is there."""
        self.until(f"{last!r} on the console of {task}", lambda _: last in self.console_of(task))
        return self.console_of(task)

    def found_in(self, text: str) -> list[str]:
        """Which canaries are in the text."""
        return [name for name, value in self.canaries.items() if value in text]

    def processes(self) -> list[Process]:
        """Every process of every machine: supervisors, sidecars, agents, tasks. What ends meanwhile is none."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                seen = Process(tuple(process.cmdline()), process.environ())
                if seen.environment.get(MACHINE_MARKER, "").startswith(str(self.world.folder)):
                    found.append(seen)
        return found

    def consoles(self) -> str:
        """The end of what each machine has said, for whoever reads of a failure."""
        return "\n".join(
            f"{path}\n{text[-2000:]}" for path, text in self.machine_files().items() if path.name == "console.log"
        )

    def machine_files(self) -> dict[Path, str]:
        """Every file on a machine with its text, but for those that go meanwhile."""
        texts = {}
        for folder, _, names in chain(*(os.walk(self.world.folder / name) for name in ("machines", "standby"))):
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):
                    if stat.S_ISREG(path.lstat().st_mode):
                        texts[path] = path.read_text(errors="replace")
        return texts

    def command(self, *arguments: str) -> str:
        """What a person sees who calls this, stdout and stderr."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CLEARML_", "SCALER_"))},
            "SCALER_ETCD": ",".join(self.world.address.etcd.endpoints),
            "SCALER_ETCD_USER": "node",
            "SCALER_ETCD_PASSWORD_FILE": str(self.secrets_folder / "etcd-password"),
            "SCALER_CLUSTER": self.world.config.cluster,
        }
        done = subprocess.run(
            [sys.executable, "-m", "scaler_plugin", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr


def configuration(folder: Path) -> ScalerConfig:
    """The local cloud's default, with a reference wherever a secret may be named."""
    shown = yaml.safe_load(default_config().model_dump_json(exclude_unset=True))
    for pool in shown["pools"]:
        pool["git"] = {"user": "bot", "password": f"file:{folder}/git-password"}
    shown["clearml"] = {"access_key": f"file:{folder}/access-key", "secret_key": f"file:{folder}/secret-key"}
    shown["etcd"] = {"user": "node", "password": f"file:{folder}/etcd-password"}
    return parse_yaml(yaml.safe_dump(shown))


def write_secret(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)


def guard(etcd: EtcdProcess, password: str, root: str) -> None:
    """Two users: the nodes' own, for the cluster's keys only, and root."""
    for arguments in (
        ("user", "add", f"root:{root}"), ("user", "grant-role", "root", "root"), ("role", "add", "nodes"),
        ("role", "grant-permission", "nodes", "readwrite", "--prefix=true", "/scaler-sidecar/"),
        ("user", "add", f"node:{password}"), ("user", "grant-role", "node", "nodes"), ("auth", "enable"),
    ):  # fmt: skip
        command = [str(etcd_binary("etcdctl")), f"--endpoints={etcd.endpoint}", *arguments]
        subprocess.run(command, env={**os.environ, "ETCDCTL_API": "3"}, check=True, capture_output=True)


def clearml_caller(user: Mapping[str, str]) -> Callable[..., str]:
    keys = user["CLEARML_API_ACCESS_KEY"], user["CLEARML_API_SECRET_KEY"]

    def call(endpoint: str, **request: object) -> str:
        answer = requests.post(f"{user['CLEARML_API_HOST']}/{endpoint}", json=request, auth=keys, timeout=PATIENCE_S)
        answer.raise_for_status()
        return answer.text

    return call


def enqueue_clone(call: Callable[..., str], git: GitServer, queue: str) -> str:
    script = {
        "repository": git.url, "branch": "main", "version_num": git.commit, "entry_point": CLONED_SCRIPT, "working_dir": ".",
        "binary": "python3",
    }  # fmt: skip
    task = str(json.loads(call("tasks.create", name="a clone", type="training", script=script))["data"]["id"])
    call("tasks.enqueue", task=task, queue_name=queue)
    return task


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A cluster in the middle of its work: a standby leads, two workers run a task each, a third one clones."""
    before, tempdir = dict(os.environ), tempfile.tempdir
    folder = Path(tempfile.mkdtemp(prefix="leak-", dir="/tmp"))
    tempfile.tempdir = str(folder)
    canaries = {
        name: f"canary{secrets.token_hex(12)}" for name in ("git-password", "etcd-password", "aws-key", "aws-secret")
    }
    credentials = folder / "aws-credentials"
    write_secret(
        credentials,
        f"[default]\naws_access_key_id = {canaries['aws-key']}\naws_secret_access_key = {canaries['aws-secret']}\n",
    )
    for name in ("git-password", "etcd-password"):
        write_secret(folder / name, canaries[name] + "\n")
    etcd_root = secrets.token_hex(8)
    login = {"SCALER_ETCD_USER": "node", "SCALER_ETCD_PASSWORD_FILE": str(folder / "etcd-password")}
    caller = {**os.environ, **login, "TEST_AWS_CREDENTIALS": str(credentials)}
    try:
        repository = GitServer(folder / "git", "bot", canaries["git-password"], CLONED_SCRIPT, f"print('{CLONED}')\n")
        with EtcdProcess(folder / "etcd") as etcd, repository as git:
            guard(etcd, canaries["etcd-password"], etcd_root)
            options = WorldOptions(configuration(folder), boot_delay_s=0.0, etcd=etcd.endpoint.removeprefix("http://"))
            world = DiscreetWorld(options, Interruption(), caller)
            with world:
                user = world.user_environment()
                canaries |= {"access-key": user["CLEARML_API_ACCESS_KEY"], "secret-key": user["CLEARML_API_SECRET_KEY"]}
                for name in ("access-key", "secret-key"):
                    write_secret(folder / name, canaries[name])
                world.start_standby()
                queues = [queue for pool in world.config.pools for queue in pool.queues]
                call = clearml_caller(user)
                cloning = enqueue_clone(call, git, queues[0])
                assert git.asked.wait(BOOTS_S), "no agent cloned the repository"
                tasks = HeldTasks(user, folder / "release")
                tasks.enqueue(TASKS, queues)
                store = world.open_store()
                watcher = Watcher(store, world.keys, world.ec2_client(), tasks.look, time.time(), 0.5)
                made = Stage(world, folder, canaries, etcd_root, git, tasks, cloning, watcher.look, call)
                made.until(
                    "the tasks run",
                    lambda scene: len(scene.tasks) == TASKS and all(t.status == "in_progress" for t in scene.tasks),
                )
                made.until("their programs run", lambda _: sum(map(runs_a_task, made.processes())) >= TASKS)
                yield made
                store.close()
                tasks.close()
    finally:
        tempfile.tempdir = tempdir
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)


def runs_a_task(process: Process) -> bool:
    return process.arguments[-1:] == (ENTRY_POINT,)


def all_processes(stage: Stage) -> list[Process]:
    """Asserts that those are among them without which nothing is proven."""
    seen = stage.processes()
    assert sum(map(runs_a_task, seen)) >= TASKS, "no task runs, so nothing is proven"
    assert any("git clone" in process.line for process in seen), "no repository is being cloned, so nothing is proven"
    assert any(" agent " in process.line for process in seen)
    assert any(" run" in process.line or "scaler_plugin.node" in process.line for process in seen)
    return seen


def test_no_process_has_a_secret_among_its_arguments(stage: Stage) -> None:
    assert [process.line for process in all_processes(stage) if stage.found_in(process.line)] == []


def test_no_process_has_a_secret_in_its_environment_not_even_a_task(stage: Stage) -> None:
    leaks = [
        (name, stage.found_in(value), process.line[:80])
        for process in all_processes(stage)
        for name, value in process.environment.items()
        if stage.found_in(value)
    ]
    assert leaks == []


def test_no_value_and_no_key_in_etcd_holds_a_secret(stage: Stage) -> None:
    reader = open_store(stage.world.address.etcd.endpoints, user="root", password=stage.etcd_root)
    entries: tuple[Entry, ...] = ()

    def are_all_there() -> bool:
        nonlocal entries
        entries = reader.get_prefix("")
        keys = {entry.key.removeprefix(stage.world.keys.root) for entry in entries}
        kinds = {key.partition("/")[0] for key in keys}
        return {"config", "leader", "view"} <= keys and {"nodes", "events"} <= kinds

    until(are_all_there, "etcd holds a value of each kind", seen=lambda: [entry.key for entry in entries])
    reader.close()
    leaks = {
        entry.key: stage.found_in(entry.key + entry.value)
        for entry in entries
        if stage.found_in(entry.key + entry.value)
    }
    assert leaks == {}


def test_no_instance_has_a_secret_in_its_user_data_or_its_tags(stage: Stage) -> None:
    client = stage.world.ec2_client()
    instances = [i for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    assert len(instances) >= TASKS
    for instance in instances:
        answer = client.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
        text = base64.b64decode(answer["UserData"]["Value"]).decode()
        assert "file:" in text  # it names the place of etcd's password
        assert stage.found_in(text + str(instance)) == []


@pytest.mark.parametrize(
    "command",
    [("status",), ("status", "--json"), ("config", "show"), ("etcd", "status", "--json")],
    ids=" ".join,
)
def test_no_command_shows_a_secret(stage: Stage, command: tuple[str, ...]) -> None:
    shown = stage.command(*command)
    assert shown
    assert stage.found_in(shown) == []


def test_files_with_secrets_are_their_owners_alone_and_none_is_in_reach_of_others(stage: Stage) -> None:
    holders = {path: found for path, text in stage.machine_files().items() if (found := stage.found_in(text))}
    assert any(path.name == "clearml.conf" for path in holders), "no machine has its secrets, so nothing is proven"
    assert any("clearml_git_" in path.name for path in holders), "no repository is being cloned, so nothing is proven"
    for path, found in holders.items():
        if path.name == "clearml.conf":
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == 0o600, f"{path} holds {found} and has mode {mode:o}"
        else:
            # The agent writes copies of its configuration with mode 0644 into its TMPDIR, which therefore is nobody else's; there,
            # too, lies what git asks for the password while it clones.
            assert TEMPORARY_HOLDERS.search(str(path)), f"{path} holds {found}"
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path.parent
        assert "etcd-password" not in found, path  # read at each start, kept nowhere
        assert not {"aws-key", "aws-secret"} & set(found), path


def cloning_task(stage: Stage) -> dict[str, Any]:
    task: dict[str, Any] = json.loads(stage.clearml_call("tasks.get_by_id", task=stage.cloning_task))["data"]["task"]
    return task


def test_of_a_clone_nothing_stays_that_holds_a_secret(stage: Stage) -> None:
    stage.git.let_go()
    stage.until("the clone is done", lambda _: cloning_task(stage)["status"] in FINAL)
    assert cloning_task(stage)["status"] == "completed", stage.console_of(stage.cloning_task)
    console = stage.whole_console_of(stage.cloning_task, CLONED)
    assert stage.found_in(console) == []
    assert stage.found_in(json.dumps(cloning_task(stage))) == []
    files = stage.machine_files()
    cloned = [path for path in files if path.name == "config" and path.parent.name == ".git"]
    assert cloned, "no clone is left, so nothing is proven"
    holders = [path for path, text in files.items() if "git-password" in stage.found_in(text)]
    assert {path.name for path in holders if not path.name.endswith(".cfg")} == {"clearml.conf"}


def test_nothing_that_is_logged_while_or_after_it_works_holds_a_secret(stage: Stage) -> None:
    stage.tasks_end()
    files = stage.machine_files()
    consoles = {path: text for path, text in files.items() if path.suffix == ".log" or "console" in path.name}
    assert sum(text != "" for text in consoles.values()) >= TASKS + 1
    for path, text in consoles.items():
        assert stage.found_in(text) == [], path
        # Nor what is made of secrets: tokens, logins in URLs.
        assert not re.search(r"Bearer [A-Za-z0-9._-]{20,}|://[^/\s:@]+:[^/\s@*]{4,}@", text), path


def test_no_tasks_console_in_clearml_holds_a_secret(stage: Stage) -> None:
    stage.tasks_end()
    for task in stage.scene.tasks:
        assert stage.found_in(stage.whole_console_of(task.id, LET_GO)) == []
