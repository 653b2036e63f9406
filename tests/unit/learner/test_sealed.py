import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.full_disk import full_disk
from volley.learner.sealed import (
    Damaged,
    read_sealed,
    read_sealed_record,
    remove_leftovers,
    write_sealed,
)
from volley.schemas.groups import SCHEMA_VERSION
from volley.telemetry.stops import Stop


class Note(msgspec.Struct):
    schema_version: int
    text: str


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A path that every example of a property may write anew."""
    return tmp_path_factory.mktemp("sealed") / "file"


@given(st.binary())
def test_what_was_written_is_read(scratch, content):
    scratch.unlink(missing_ok=True)
    write_sealed(scratch, content)
    assert read_sealed(scratch) == content
    assert list(scratch.parent.iterdir()) == [scratch]


def test_the_first_line_is_the_hash_of_the_rest(tmp_path):
    write_sealed(tmp_path / "file", b"abc")
    # The hash of "abc" as the b3sum tool prints it.
    assert (tmp_path / "file").read_bytes() == (
        b"6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85\nabc"
    )


@given(st.data())
def test_one_changed_bit_is_found_out(scratch, data):
    scratch.unlink(missing_ok=True)
    write_sealed(scratch, data.draw(st.binary()))
    sealed = bytearray(scratch.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    scratch.write_bytes(sealed)
    with pytest.raises(Damaged, match="cut or altered"):
        read_sealed(scratch)


def test_a_file_cut_anywhere_is_found_out(tmp_path):
    path = tmp_path / "file"
    write_sealed(path, b"ab\ncd")
    sealed = path.read_bytes()
    for num_bytes in range(len(sealed)):
        path.write_bytes(sealed[:num_bytes])
        with pytest.raises(Damaged):
            read_sealed(path)


def test_an_appended_byte_is_found_out(tmp_path):
    path = tmp_path / "file"
    write_sealed(path, b"abc")
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(Damaged) as caught:
        read_sealed(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)


def test_a_file_is_never_replaced(tmp_path):
    path = tmp_path / "file"
    write_sealed(path, b"first")
    with pytest.raises(FileExistsError):
        write_sealed(path, b"second")
    assert read_sealed(path) == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing(tmp_path):
    with full_disk(max_file_bytes=10_000), pytest.raises(OSError, match="File too large"):
        write_sealed(tmp_path / "file", bytes(20_000))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_dead_process_are_removed(tmp_path):
    write_sealed(tmp_path / "file", b"abc")
    (tmp_path / ".file.8vk2x1").write_bytes(b"ab")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_record_is_read_as_what_it_is(tmp_path):
    note = Note(SCHEMA_VERSION, "a")
    write_sealed(tmp_path / "json", msgspec.json.encode(note))
    assert read_sealed_record(tmp_path / "json", Note, msgspec.json.decode) == note
    with pytest.raises(Damaged, match="not a Note"):
        read_sealed_record(tmp_path / "json", Note, msgspec.msgpack.decode)


@pytest.mark.parametrize(
    ("schema_version", "fix"),
    [(SCHEMA_VERSION + 1, "upgrade this build"), (SCHEMA_VERSION - 1, "the build of the run")],
)
def test_a_record_of_another_schema_is_not_damaged_and_stops_with_the_fix(
    tmp_path, schema_version, fix
):
    write_sealed(tmp_path / "file", msgspec.json.encode({"schema_version": schema_version}))
    with pytest.raises(Stop, match=fix):
        read_sealed_record(tmp_path / "file", Note, msgspec.json.decode)
