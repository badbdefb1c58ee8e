import ast
import inspect
from pathlib import Path

from scaler_plugin.agent.slot_record import boottime
from scaler_plugin.node import runner
from scaler_plugin.node.heartbeat import FILE_NAME, beat


def test_the_heartbeat_tells_the_seconds_since_boot_and_keeps_its_length(tmp_path: Path) -> None:
    before = boottime()
    beat(tmp_path)
    first = (tmp_path / FILE_NAME).read_text()
    beat(tmp_path)
    second = (tmp_path / FILE_NAME).read_text()
    assert before - 0.01 <= float(first) <= float(second) <= boottime() + 0.01
    assert len(first) == len(second)


def test_a_directory_that_is_gone_does_not_stop_the_sidecar(tmp_path: Path) -> None:
    beat(tmp_path / "gone")


def test_every_pass_of_the_loop_feeds_the_heartbeat() -> None:
    (loop,) = (node for node in ast.walk(ast.parse(inspect.getsource(runner.run))) if isinstance(node, ast.While))
    assert "beat(directory)" in [ast.unparse(statement) for statement in loop.body]
