"""The sentence by which a node said why it did not start, out of all that a console shows."""

from __future__ import annotations

import pytest

from scaler_plugin.core.console_output import KEPT_CHARS, SENTENCE_CHARS, ConsoleOutput, last_lines, read_console

#: As a machine under systemd printed it, terminal sequences and all.
BOOT = (
    "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mdbus.service\x1b[0m - D-Bus System Message Bus.\r\n"
    "[    1.068914] scaler-sidecar[33]: This instance's user-data was not written by a scaler-sidecar.\r\n"
    "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mscaler-boo\xe2\x80\xa6 and start its sidecar and agents.\r\n"
    "vm login: [   11.610026] scaler-sidecar[51]: This instance's user-data lacks `pool`.\r\n"
)
DEADMAN = "[   13.592971] deadman[52]: scaler-deadman: No sidecar has started in the 13 s since boot: powering off.\r\n"
SHUTDOWN = (
    "[\x1b[0;32m  OK  \x1b[0m] Stopped target \x1b[0;1;39mremote-fs.target\x1b[0m - Remote File Systems.\r\n" * 200
)


def test_the_last_word_of_the_boot_is_found_before_all_that_a_shutdown_prints() -> None:
    found = read_console(BOOT + DEADMAN + SHUTDOWN)
    assert found.said == "This instance's user-data lacks `pool`."
    assert found.kept == BOOT


def test_a_machine_that_only_the_dead_man_spoke_of_says_that() -> None:
    found = read_console(DEADMAN + SHUTDOWN)
    assert found.said == "scaler-deadman: No sidecar has started in the 13 s since boot: powering off."


def test_lines_of_a_log_are_no_sentences() -> None:
    log = '[    0.98] scaler-sidecar[34]: {"event": "machine_set_up", "level": "info"}\n'
    assert read_console(BOOT + log).said == "This instance's user-data lacks `pool`."
    assert read_console(log).said == ""


def test_a_failing_health_gate_is_the_last_word_after_a_boot_that_worked() -> None:
    gate = "[    2.1] start-node[59]: scaler-bootstrap: The pool runs tasks in docker containers, and docker does not answer.\n"
    assert read_console(BOOT + gate + SHUTDOWN).said.endswith("docker does not answer.")


def test_an_output_without_a_word_of_ours_keeps_its_end() -> None:
    panic = "x" * KEPT_CHARS + "Kernel panic - not syncing"
    found = read_console(panic)
    assert found.said == ""
    assert found.kept == panic[-KEPT_CHARS:]
    assert read_console("") == ConsoleOutput("", "")


def test_what_is_kept_and_said_has_a_bound() -> None:
    found = read_console("y" * 50_000 + "\n[ 1.0] scaler-sidecar[3]: " + "z" * 5_000 + "\n")
    assert len(found.said) == SENTENCE_CHARS
    assert len(found.kept) <= KEPT_CHARS


@pytest.mark.parametrize("cut", [1, 9, 12])
def test_half_a_line_is_not_kept_for_its_value_may_be_a_secret_whose_name_is_cut_off(cut: int) -> None:
    line = "password: hunter2\n"
    assert last_lines(f"{line}{line}", len(line) + cut) == line


def test_whole_lines_are_kept_up_to_the_limit_and_of_one_long_line_its_end() -> None:
    assert last_lines("one\ntwo\n", 4) == "two\n"
    assert last_lines("one\ntwo\n", 100) == "one\ntwo\n"
    assert last_lines("x" * 10 + "end", 5) == "xxend"


#: The first boot of a stock image, as systemd printed it: a shell that names itself in what it says.
FETCHED = (
    "[   14.101010] sh[512]: scaler-sidecar: fetching https://builds.example/bundle.tar.gz\r\n"
    "[   15.212121] sh[530]: /var/tmp/scaler-first-boot.Ab12/bundle.tar.gz: FAILED\r\n"
    "[   15.212345] sh[530]: sha256sum: WARNING: 1 computed checksum did NOT match\r\n"
)
OTHER_HASH = (
    "What https://builds.example/bundle.tar.gz gives is not what the pool's first_boot.bundle_sha256 says; "
    "nothing of it is used."
)
GAVE_UP = (
    "[   15.301010] sh[512]: scaler-sidecar: This is no node: its first boot failed, see above. "
    "It powers off 900 s after its start.\r\n"
)
LIMIT = "scaler-sidecar: This is no node after 900 s: powering off.\r\n"


def test_a_first_boot_that_failed_gives_the_sentence_of_the_cause() -> None:
    found = read_console(f"{FETCHED}[   15.3] sh[512]: scaler-sidecar: {OTHER_HASH}\r\n{GAVE_UP}{LIMIT}{SHUTDOWN}")
    assert found.said == OTHER_HASH
    assert found.kept.endswith(f"{OTHER_HASH}\r\n")


def test_the_sentence_is_found_under_cloud_inits_own_name_too() -> None:
    assert read_console(f"[   12.3] cloud-init[512]: scaler-sidecar: {OTHER_HASH}\n").said == OTHER_HASH
    assert read_console(f"scaler-sidecar: {OTHER_HASH}\n").said == OTHER_HASH


def test_where_a_program_of_the_first_boot_failed_its_own_last_line_is_the_cause() -> None:
    curl = "[   14.2] sh[520]: curl: (22) The requested URL returned error: 404\r\n"
    fetching = "[   14.1] sh[512]: scaler-sidecar: fetching https://builds.example/bundle.tar.gz\r\n"
    said = "Its first boot failed: curl: (22) The requested URL returned error: 404"
    assert read_console(fetching + curl + GAVE_UP + LIMIT + SHUTDOWN).said == said


def test_a_first_boot_that_only_took_too_long_says_that() -> None:
    step = "[   20.0] sh[512]: scaler-sidecar: packages\r\n"
    assert read_console(step + LIMIT + SHUTDOWN).said == "This is no node after 900 s: powering off."


def test_progress_of_the_first_boot_is_no_reason() -> None:
    steps = ("fetching https://builds.example/bundle.tar.gz", "packages", "program", "units", "ready")
    text = "".join(f"[   14.0] sh[512]: scaler-sidecar: {step}\n" for step in steps)
    assert read_console(text).said == ""
    assert read_console(text + BOOT).said == "This instance's user-data lacks `pool`."
