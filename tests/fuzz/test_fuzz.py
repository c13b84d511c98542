"""A short run of every fuzzer; the scripts beside this file run long ones."""

from __future__ import annotations

import signal

import pytest

if not hasattr(signal, "setitimer"):
    pytest.skip("the fuzzers need alarms, forks and limits", allow_module_level=True)

import command_line
import doors
import harness
import readers


@pytest.mark.parametrize("kind", sorted({registry.kind for registry in harness.registries()}))
def test_every_argument_of_every_constructor_refuses_wrong_values_by_name(kind):
    found, known = [], set()
    for door in doors.doors():
        shape = (door.annotation, door.argument, door.default.__class__)
        if door.kind == kind and shape not in known:  # presets of one class share their doors
            known.add(shape)
            for value, verdict, said in doors.knocks(door):
                if verdict in doors.FAILURES:
                    found.append(f"{verdict}: {door}: {harness.short(value)}: {said[:200]}")
    assert not found, f"{len(found)} failures, such as\n" + "\n".join(found[:20])


def test_damaged_files_are_read_or_refused_by_name(tmp_path):
    found = readers.attempts(tmp_path, 200, seed=0)
    failed = [
        f"{name}: {what}: {said[:200]}" for name, what, said in found if what in readers.FAILURES
    ]
    assert not failed, "\n".join(failed)
    assert {what for _, what, _ in found} == {"read", "named"}


@pytest.mark.slow
def test_command_lines_of_nasty_values_end_in_one_line():
    found = command_line.attempts(25, seed=0)
    failed = [
        f"{line.words}: {what}: {said[:200]}"
        for line, what, said in found
        if what in command_line.FAILURES
    ]
    assert not failed, "\n".join(failed)
