"""Files: written whole and never through a link; read right, or refused in one sentence."""

import errno
import json
import os
import random
import zipfile

import numpy as np
import pytest

from bilevel_distillation import _artifacts as artifacts
from bilevel_distillation._artifacts import (
    Damaged,
    Sums,
    Unreadable,
    Unwritten,
    append_lines,
    drop_leftovers,
    guarded,
    hold_lock,
    is_leftover,
    move_aside,
    names_in,
    one_line,
    parse_json,
    read_arrays,
    read_bytes,
    read_lines,
    sha256_of,
    unfinished_name,
    whole_file,
    write_arrays,
    write_lines,
    write_whole,
)

ARRAYS = {
    "floats": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "names": np.array(["oak", "élm", ""]),
    "one": np.float64(1 / 3),
    "truth": np.bool_(True),
    "nothing": np.zeros((0, 3), np.int32),
}


def flips(content, count, seed=0):
    """The content with one bit of it turned, so many times."""
    rng = random.Random(seed)
    for _ in range(count):
        turned = bytearray(content)
        turned[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield bytes(turned)


def same(found, right=ARRAYS):
    return found.keys() == right.keys() and all(
        found[name].dtype == np.asarray(right[name]).dtype
        and found[name].shape == np.shape(right[name])
        and found[name].tobytes() == np.asarray(right[name]).tobytes()
        for name in right
    )


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("precious")
    link.symlink_to(victim)
    write_whole(link, "new")
    assert victim.read_text() == "precious" and not link.is_symlink() and link.read_text() == "new"


def test_what_has_the_unfinished_name_already_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / unfinished_name("file")).symlink_to(victim)
    with pytest.raises(Unwritten, match="file' cannot be written .*File exists.*: see to that"):
        write_whole(tmp_path / "file", "new")
    assert victim.read_text() == "precious" and not (tmp_path / "file").exists()


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "before")
    with pytest.raises(Unwritten, match="No space left") as caught, whole_file(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError, match="of its own"), whole_file(path) as file:
        raise RuntimeError("of its own")
    assert os.listdir(tmp_path) == ["file"] and path.read_text() == "before"


def test_a_file_that_others_may_read_and_a_name_of_any_letters(tmp_path):
    before = os.umask(0o022)
    try:
        for name in ("plain", "é" * 120, "\N{FOX FACE}" * 60, "x" * 250):
            write_whole(tmp_path / name, "\udcff is no letter")
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o644
            assert (tmp_path / name).read_text(encoding="utf-8") == "? is no letter"
    finally:
        os.umask(before)


def test_only_what_was_left_unfinished_is_dropped(tmp_path):
    keep = ["a.partial", ".hidden", ".x.partial", ".x.0123456g.partial", "x.01234567.partial"]
    for name in keep:
        (tmp_path / name).write_text("mine")
    outside = tmp_path / "keep"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (tmp_path / unfinished_name("file")).write_text("half")
    (tmp_path / unfinished_name("link")).symlink_to(outside)
    folder = tmp_path / unfinished_name("folder")
    (folder / "data").mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    drop_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*keep, "keep"])
    assert (outside / "file").read_text() == "mine"
    assert is_leftover(folder.name) and not any(map(is_leftover, keep))


def test_what_is_moved_aside_never_takes_anothers_place(tmp_path):
    for content in ("one", "two", "three"):
        (tmp_path / "file").write_text(content)
        move_aside(tmp_path / "file", tmp_path / "damaged")
    found = {path.name: path.read_text() for path in (tmp_path / "damaged").iterdir()}
    assert found == {"file": "one", "file.2": "two", "file.3": "three"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_what_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, number):
    path = tmp_path / "file"
    path.write_text("whole")

    def fail(*arguments):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(artifacts._reading.os, "open", fail)
    for read in (read_bytes, sha256_of, read_arrays):
        with pytest.raises(Unreadable, match=rf"file' cannot be read \({os.strerror(number)}\)"):
            read(path)


def test_too_little_memory_is_no_damage(tmp_path):
    with pytest.raises(Unreadable, match="not enough memory"), guarded(tmp_path):
        raise MemoryError
    with pytest.raises(Damaged, match="is damaged .RecursionError"), guarded(tmp_path):
        parse_json(b"[" * 100_000)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(Damaged, match="no ordinary file"):
            read_bytes(path)


def test_json_has_no_nan_and_is_utf8():
    for text in (b'{"a": NaN}', b"[-Infinity]", b'"\xff"', b"{", b""):
        with pytest.raises(ValueError):
            parse_json(text)


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_there_and_back_and_for_numpy(tmp_path, compress):
    for name in ("a.npz", "b.npz"):
        write_arrays(tmp_path / name, ARRAYS, compress)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert same(read_arrays(tmp_path / "a.npz")) and names_in(tmp_path / "a.npz") == list(ARRAYS)
    assert read_arrays(tmp_path / "a.npz", lambda name: name == "one").keys() == {"one"}
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["turned"], ARRAYS["turned"])
    np.savez(tmp_path / "elsewhere.npz", **ARRAYS)
    assert same(read_arrays(tmp_path / "elsewhere.npz"))


@pytest.mark.parametrize("compress", [False, True])
def test_no_bit_of_arrays_turns_unnoticed(tmp_path, compress):
    path, told = tmp_path / "a.npz", 0
    write_arrays(path, ARRAYS, compress)
    for content in flips(path.read_bytes(), 400):
        path.write_bytes(content)
        try:
            assert same(read_arrays(path))
        except Damaged as error:
            told += "a.npz' is damaged" in str(error)
    assert told > 100


def test_arrays_put_into_a_file_later_or_taken_out_are_noticed(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for change, sentence in [
        ({"one.npy": None}, "its array 'one' is missing"),
        ({"more.npy": parts["one.npy"]}, "the checksum of its array 'more' does not match"),
        ({"one.npy": parts["truth.npy"]}, "the checksum of its array 'one' does not match"),
    ]:
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in (parts | change).items():
                if part is not None:
                    archive.writestr(name, part)
        with pytest.raises(Damaged, match=sentence):
            read_arrays(path)


def test_what_a_part_claims_is_looked_at_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, fine=np.arange(3))
    with zipfile.ZipFile(path, "a") as archive, archive.open("vast.npy", "w") as part:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**13,)}
        np.lib.format.write_array_header_1_0(part, header)
    assert read_arrays(path, lambda name: name == "fine")["fine"].tolist() == [0, 1, 2]
    with pytest.raises(Damaged, match="'vast.npy' is not as large as it says"):
        read_arrays(path)
    np.savez(path, objects=np.array([{}], object), allow_pickle=True)
    with pytest.raises(Damaged, match="holds Python objects"):
        read_arrays(path)


RECORDS = [{"iteration": i, "loss": 1 / (i + 1)} for i in range(20)]


def check(record):
    assert record["iteration"] >= 0


def test_lines_grow_and_a_cut_last_one_is_passed_over(tmp_path):
    path = tmp_path / "m.jsonl"
    assert read_lines(path, check) == []
    append_lines(path, RECORDS[:5])
    append_lines(path, RECORDS[5:], sync=True)
    assert read_lines(path, check) == RECORDS
    whole = path.read_bytes()
    for cut in range(1, 80):
        path.write_bytes(whole[:-cut])
        assert read_lines(path, check) in (RECORDS, RECORDS[:-1], RECORDS[:-2])
    path.write_bytes(whole[:-1])  # only the end of the line is missing
    assert read_lines(path, check) == RECORDS
    write_lines(path, RECORDS[:3])
    assert read_lines(path, check) == RECORDS[:3]


def test_no_bit_of_a_line_turns_unnoticed(tmp_path):
    path, told = tmp_path / "m.jsonl", 0
    append_lines(path, RECORDS)
    for content in flips(path.read_bytes(), 400):
        path.write_bytes(content)
        try:
            assert read_lines(path, check) == RECORDS
        except Damaged as error:
            told += "m.jsonl' is damaged (line " in str(error) and "delete its line" in str(error)
    assert told > 300


@pytest.mark.parametrize("junk", ["[]", "{}", "3", "null", '{"iteration": -1}', "\xff", ""])
def test_a_line_of_something_else_is_said_also_where_none_has_a_checksum(tmp_path, junk):
    path = tmp_path / "m.jsonl"
    for old in (True, False):
        if old:
            path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
            assert read_lines(path, check) == RECORDS
        else:
            write_lines(path, RECORDS)
        lines = path.read_bytes().splitlines(True)
        path.write_bytes(b"".join([lines[0], junk.encode("latin1") + b"\n", *lines[1:]]))
        with pytest.raises(Damaged, match=r"m.jsonl' is damaged \(line 2: .*delete its line 2"):
            read_lines(path, check)


def test_lines_are_not_added_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "m.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(Unwritten, match="m.jsonl' cannot be written"):
        append_lines(tmp_path / "m.jsonl", RECORDS)
    assert (tmp_path / "victim").read_text() == "precious"


def test_checksums_fit_at_every_moment_of_a_write(tmp_path, monkeypatch):
    sums, path = Sums(tmp_path), tmp_path / "file"
    sums.write(path, b"one")
    sums.write(path, b"two")
    before = path.read_bytes()
    monkeypatch.setattr("bilevel_distillation._artifacts._sums.write_whole", crash_after(1))
    with pytest.raises(KeyboardInterrupt):
        sums.write(path, b"three")
    assert sums.checked(path, "remedy") == before == b"two"  # killed between the two files
    path.write_bytes(b"three")
    assert sums.checked(path, "remedy") == b"three"
    for content in (b"four", b"one", b"thref", b""):
        path.write_bytes(content)
        with pytest.raises(Damaged, match=r"file' is damaged \(its checksum .*\): remedy"):
            sums.checked(path, "remedy")


def crash_after(count):
    """`write_whole` that does so many writes and then none."""
    left = [count]

    def write(path, content):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write_whole(path, content)

    return write


def test_what_has_no_checksum_is_not_checked_and_damaged_checksums_are_said(tmp_path):
    sums = Sums(tmp_path)
    (tmp_path / "old").write_text("of the version before")
    assert sums.checked(tmp_path / "old", "remedy") == b"of the version before"
    for content in ("[]", "{", '{"old": "x"}', '{"old": [3]}', '{"old": []}'):
        sums.path.write_text(content)
        with pytest.raises(Damaged, match="checksums.json' is damaged .*: delete it, and files"):
            sums.checked(tmp_path / "old", "remedy")


def test_a_file_that_is_written_once_keeps_its_first_checksum(tmp_path):
    sums, path = Sums(tmp_path), tmp_path / "file"
    for content, kept in ((b"one", True), (b"two", False), (b"one", True)):
        path.write_bytes(content)
        assert sums.keep_first(path) is kept


def test_a_lock_is_held_by_one_and_is_no_way_to_write_elsewhere(tmp_path):
    lock = hold_lock(tmp_path / ".lock", "in use: wait.")
    assert lock is not None
    with pytest.raises(ValueError, match="in use: wait."):
        hold_lock(tmp_path / ".lock", "in use: wait.")
    lock.release()
    again = hold_lock(tmp_path / ".lock", "in use: wait.")
    assert again is not None
    again.release()
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="link' cannot be locked"):
        hold_lock(tmp_path / "link", "in use: wait.")
    assert (tmp_path / "victim").read_text() == "precious"


def test_names_are_one_line_of_letters():
    assert one_line("two\nlines\u2028and\ta\rhalf ") == "two lines and a half"
    assert one_line("\x1b[31m\udcff\u202eevil") == "\ufffd[31m\ufffd\ufffdevil"
    assert one_line("fee_$1 \N{FOX FACE} é") == "fee_$1 \N{FOX FACE} é"
