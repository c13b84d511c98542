"""Files: written whole or not at all, and paths that are refused before work is done."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from sde_score._core import files
from sde_score._core.errors import ArgumentError
from sde_score._core.files import (
    new_folder,
    replace_file,
    replacing,
    require_new_folder,
    require_writable,
    sync,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_content_is_replaced_and_nothing_else_stays(tmp_path):
    path = tmp_path / "x.txt"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["x.txt"]


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    replace_file(path, b"one")
    assert path.read_bytes() == b"one"


def fail_to_write(path, error):
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_failure_keeps_the_old_content_names_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "x.txt"
    replace_file(path, b"old")
    with pytest.raises(OSError, match=r"x\.txt") as caught:
        fail_to_write(path, OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(KeyboardInterrupt):
        fail_to_write(path, KeyboardInterrupt())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.txt"]


def test_several_writers_never_publish_half_a_file(tmp_path):
    path, wrong, failed = tmp_path / "x.txt", [], []
    contents = [bytes([letter]) * 200_000 for letter in b"ab"]
    replace_file(path, contents[0])

    def write(content):
        for _ in range(60):
            try:
                replace_file(path, content)
            except OSError as error:
                failed.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = path.read_bytes()
        if found not in contents:
            wrong.append(len(found))
    for writer in writers:
        writer.join()
    assert not wrong
    assert not failed
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL, errno.ENOTSUP])
def test_folders_are_synchronized_only_where_that_is_supported(tmp_path, monkeypatch, number):
    real = os.open

    def refuse(path, *rest):
        if os.path.isdir(path):
            raise OSError(number, "no")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    replace_file(tmp_path / "x.txt", b"one")
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing")


def test_a_disk_error_of_a_folder_is_no_missing_support(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        sync(tmp_path)


def test_paths_that_can_be_written_are_returned_and_not_created(tmp_path):
    for path in (tmp_path / "x.txt", tmp_path / "a/b/x.txt", tmp_path / ("x" * 255)):
        assert require_writable(str(path)) == path
    assert names(tmp_path) == []
    (tmp_path / "old.txt").write_text("old")
    require_writable(tmp_path / "old.txt")
    assert (tmp_path / "old.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("folder", "it is a folder: add the name of a file"),
        ("file/x.txt", "file is no folder"),
        ("file/a/x.txt", "file is no folder"),
        ("pipe", "it is no regular file"),
        ("x" * 256, "bytes"),
        ("a/" + "x" * 300 + "/y", "bytes"),
        ("loop/x", "loop is no folder"),
        ("null\0byte", "null"),
    ],
)
def test_paths_that_cannot_be_written_are_refused_with_the_reason(tmp_path, path, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArgumentError, match=rf"^--out=.* cannot be written: .*({says})"):
        require_writable(tmp_path / path, "--out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_folders_without_permission_are_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ArgumentError, match="no permission to write in"):
        require_writable(tmp_path / "x.txt")


@pytest.mark.parametrize("wrong", [3, None, True, "", b"x"])
def test_what_is_no_path_is_refused(wrong):
    with pytest.raises(ArgumentError, match=r"^--out=.* must be a path"):
        require_writable(wrong, "--out")


def test_what_is_synchronized_is_open_for_writing(tmp_path, monkeypatch):
    """Windows refuses to synchronize a file that is open for reading alone."""
    opened, usual = [], os.open
    monkeypatch.setattr(
        os, "open", lambda path, how: opened.append((path, how)) or usual(path, how)
    )
    replace_file(tmp_path / "x", b"1")
    assert [how & os.O_RDWR for path, how in opened if path != tmp_path] == [os.O_RDWR]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EIO])
def test_disks_that_cannot_synchronize_are_written_to(tmp_path, monkeypatch, code):
    def failing(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    if code == errno.EIO:
        with pytest.raises(OSError, match="x"):
            replace_file(tmp_path / "x", b"1")
    else:
        replace_file(tmp_path / "x", b"1")
        assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.parametrize("windows", [True, False])
def test_a_file_that_is_being_read_on_windows_is_waited_for(tmp_path, monkeypatch, windows):
    replace_file(tmp_path / "x", b"1")
    refusals, usual = [1, 1, 1], type(tmp_path).replace

    def replace(self, target):
        if refusals:
            refusals.pop()
            raise PermissionError(errno.EACCES, "in use")
        return usual(self, target)

    monkeypatch.setattr(files, "_WINDOWS", windows)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(type(tmp_path), "replace", replace)
    if windows:
        replace_file(tmp_path / "x", b"2")
    else:
        with pytest.raises(PermissionError, match="x"):
            replace_file(tmp_path / "x", b"2")
    assert (tmp_path / "x").read_bytes() == (b"2" if windows else b"1")
    assert names(tmp_path) == ["x"]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    place = tmp_path / "runs" / "a"

    def half():
        with new_folder(place) as folder:
            (folder / "half.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(place.parent.iterdir()) == []
    with new_folder(place) as folder:
        (folder / "whole.txt").write_text("whole")
        assert not place.exists()
    assert [path.name for path in place.parent.iterdir()] == ["a"]
    with pytest.raises(ValueError, match=r"out='.*a' is a folder that holds files"):
        require_new_folder(place)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="out="):
        require_new_folder(tmp_path / "file")
