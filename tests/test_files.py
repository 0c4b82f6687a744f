import os
import resource
import signal
from pathlib import Path

import pytest

from nmg import files


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def full():
    """A disk that takes a thousand bytes of a file, and no more."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_a_file_is_written_whole_or_not_at_all(here, error):
    Path("out.txt").write_text("before")
    with pytest.raises(error), files.replacing("out.txt") as part:
        part.write_text("half")
        raise error
    assert Path("out.txt").read_text() == "before" and os.listdir() == ["out.txt"]
    with files.replacing("out.txt") as part:
        part.write_text("whole")
    assert Path("out.txt").read_text() == "whole" and os.listdir() == ["out.txt"]


def test_a_full_disk_is_one_line_and_leaves_nothing(here, full):
    with (
        pytest.raises(OSError, match="'out.bin' can't be written: .*; free some space"),
        files.replacing("out.bin") as p,
    ):
        p.write_bytes(bytes(5000))
    assert os.listdir() == []


def test_a_link_is_replaced_and_not_followed(here):
    Path("victim").write_text("precious")
    Path("out.txt").symlink_to("victim")
    with files.replacing("out.txt") as part:
        part.write_text("new")
    assert Path("victim").read_text() == "precious" and Path("out.txt").read_text() == "new"
    Path("dangling.txt").symlink_to("nowhere")
    assert files.free(Path("dangling.txt")) == Path("dangling-2.txt")


def test_no_name_can_be_foreseen(here):
    with files.replacing("a.txt") as first, files.replacing("a.txt") as second:
        assert first != second and "a" not in {first.stem, second.stem}
        first.touch()
        second.touch()


def test_what_exists_is_numbered(here):
    texts = ("one", "two", "three")
    kept = [files.keep(Path("out.txt"), lambda part, text=text: part.write_text(text)) for text in texts]
    assert list(map(str, kept)) == ["out.txt", "out-2.txt", "out-3.txt"]
    assert tuple(path.read_text() for path in kept) == texts
    assert files.keep(Path("out.txt"), lambda part: part.write_text("new"), over=True).read_text() == "new"


def test_a_file_that_another_process_writes_meanwhile_is_kept(here):
    def write(part):
        part.write_text("mine")
        if not Path("out.txt").exists():
            Path("out.txt").write_text("theirs")

    assert files.keep(Path("out.txt"), write) == Path("out-2.txt")
    assert Path("out.txt").read_text() == "theirs" and Path("out-2.txt").read_text() == "mine"


def test_without_hard_links_what_exists_is_kept_too(here, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    with files.replacing("out.txt", over=False) as part:
        part.write_text("one")
    with pytest.raises(FileExistsError), files.replacing("out.txt", over=False) as part:
        part.write_text("two")
    assert Path("out.txt").read_text() == "one" and os.listdir() == ["out.txt"]


def test_names_that_belong_together_get_one_number(here):
    def both(path):
        return path, path.with_stem(f"{path.stem}-source")

    Path("out-source.txt").touch()
    assert files.free(Path("out.txt"), both) == Path("out-2.txt")


@pytest.mark.parametrize("path", ["/proc/nmg/out.txt", f"{'a' * 201}.txt"], ids=["read-only", "long"])
def test_what_can_not_be_written_is_said_before_the_work(path):
    with pytest.raises(OSError, match="can't be written"):
        files.writable(Path(path))


def test_outputs_are_apart_from_inputs_and_from_each_other(here):
    Path("picture.png").touch()
    Path("link.png").symlink_to("picture.png")
    files.apart([Path("a.png"), Path("b.png")], ["picture.png"])
    with pytest.raises(ValueError, match="two files"):
        files.apart([Path("a.png"), Path("./a.png")], [])
    with pytest.raises(ValueError, match="would be written over"):
        files.apart([Path("link.png")], ["picture.png"])
