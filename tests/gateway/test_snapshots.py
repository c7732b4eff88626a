"""Promises of the copies that generations run from."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.catalog import snapshots
from gateway.catalog.snapshots import SnapshotError, take


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An agent folder."""
    made = tmp_path / "agent"
    (made / "data").mkdir(parents=True)
    (made / "agent.py").write_text("x = 1\n")
    (made / "data" / "a.txt").write_bytes(b"\x00\xff")
    return made


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the copies are."""
    made = tmp_path / "store"
    made.mkdir()
    return made


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_a_copy_has_what_the_folder_has(folder: Path, store: Path) -> None:
    """Every file is in it, byte for byte, and no link."""
    copy = take(folder, store)
    assert files(copy) == files(folder)
    assert copy.parent == store


def test_the_same_content_has_the_same_copy(folder: Path, store: Path, tmp_path: Path) -> None:
    """A second time, or from another folder, nothing is copied anew."""
    first = take(folder, store)
    inode = (first / "agent.py").stat().st_ino
    folder.rename(tmp_path / "renamed")
    assert take(tmp_path / "renamed", store) == first
    assert (first / "agent.py").stat().st_ino == inode


def test_what_serves_goes_on_whatever_happens_on_disk(folder: Path, store: Path) -> None:
    """A changed folder has another copy, and the first stays as it was."""
    first = take(folder, store)
    (folder / "agent.py").write_text("x = 2\n")
    second = take(folder, store)
    assert first != second
    assert ((first / "agent.py").read_text(), (second / "agent.py").read_text()) == ("x = 1\n", "x = 2\n")


@pytest.mark.parametrize("change", ["rename", "move between", "empty file"])
def test_names_count_as_content(folder: Path, store: Path, change: str) -> None:
    """The same bytes under other names, or split otherwise, are another folder."""
    first = take(folder, store)
    match change:
        case "rename":
            (folder / "agent.py").rename(folder / "agent2.py")
        case "move between":
            (folder / "agent.py").write_text("x = 1\n\x00")
            (folder / "data" / "a.txt").write_bytes(b"\xff")
        case _:
            (folder / "empty").touch()
    assert take(folder, store) != first


def test_hidden_and_generated_folders_are_left_out(folder: Path, store: Path) -> None:
    """Dotfiles, caches and node_modules are not copied, and do not make a copy another."""
    first = take(folder, store)
    for name in (".git", "__pycache__", "node_modules", "data/.cache"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("x")
    (folder / ".env").write_text("TOKEN=1")
    assert take(folder, store) == first
    assert set(files(first)) == {"agent.py", "data/a.txt"}


@pytest.mark.parametrize("target", ["/etc/passwd", "/", "../outside", "no/such/../../../outside"])
@pytest.mark.parametrize("name", ["link", "data/link"])
def test_a_link_that_leads_out_is_refused(folder: Path, store: Path, target: str, name: str) -> None:
    """Nothing outside the folder comes into a worker's reach by a link."""
    (folder.parent / "outside").write_text("secret")
    (folder / name).symlink_to(target if name == "link" or target.startswith("/") else f"../{target}")
    with pytest.raises(SnapshotError, match="leads out"):
        take(folder, store)
    assert list(store.iterdir()) == []


def test_a_link_within_the_folder_is_copied_as_a_file(folder: Path, store: Path) -> None:
    """What a link inside leads to is there, as content."""
    (folder / "link.py").symlink_to("agent.py")
    copied = take(folder, store) / "link.py"
    assert not copied.is_symlink()
    assert copied.read_text() == "x = 1\n"


def test_too_many_or_too_large_files_are_refused(folder: Path, store: Path) -> None:
    """A folder that would fill the disk is refused before anything is copied."""
    with (folder / "big").open("wb") as big:
        big.truncate(snapshots.BYTES + 1)
    with pytest.raises(SnapshotError, match="more than"):
        take(folder, store)
    (folder / "big").unlink()
    for number in range(snapshots.FILES):
        (folder / "data" / str(number)).touch()
    with pytest.raises(SnapshotError, match="more than"):
        take(folder, store)
    assert list(store.iterdir()) == []


def test_a_copy_that_fails_half_way_is_never_seen(folder: Path, store: Path) -> None:
    """A file that cannot be copied leaves nothing under the name of a copy, and nothing beside it."""
    store.rmdir()
    store.write_text("in the way")
    with pytest.raises(SnapshotError, match="cannot be copied"):
        take(folder, store)
    store.unlink()
    store.mkdir()
    assert take(folder, store).is_dir()
    assert len(list(store.iterdir())) == 1


def test_what_a_crash_left_beside_is_no_copy(folder: Path, store: Path) -> None:
    """A half copy of a gateway that died is not taken for a whole one."""
    name = take(folder, store).name
    (store / name).rename(store / f".{name}.12345")
    (store / f".{name}.12345" / "agent.py").unlink()
    assert files(take(folder, store)) == files(folder)


def test_a_missing_folder_is_told(store: Path, tmp_path: Path) -> None:
    """A folder that is gone has no copy, not an empty one."""
    with pytest.raises(SnapshotError):
        take(tmp_path / "none", store)


def test_agents_of_the_same_content_can_start_side_by_side(folder: Path, store: Path) -> None:
    """Copies made at the same time, of folders that are alike, do not get into each other's way."""
    for number in range(100):
        (folder / "data" / f"{number}.txt").write_text("x")
    for round_ in range(5):
        (folder / "agent.py").write_text(f"x = {round_}\n")
        with ThreadPoolExecutor(8) as pool:
            copies = list(pool.map(lambda _: take(folder, store), range(8)))
        assert len(set(copies)) == 1
        assert files(copies[0]) == files(folder)
    assert len(list(store.iterdir())) == 5


def test_special_files_are_left_out(folder: Path, store: Path) -> None:
    """A pipe in the folder neither blocks the copy nor comes into it."""
    import os

    os.mkfifo(folder / "pipe")
    assert set(files(take(folder, store))) == {"agent.py", "data/a.txt"}


def test_agents_of_one_content_share_a_copy_made_side_by_side(folder: Path, store: Path) -> None:
    """Threads that copy the same folder at once all get the same whole copy."""
    with ThreadPoolExecutor(8) as pool:
        copies = list(pool.map(lambda _: take(folder, store), range(64)))
    assert len(set(copies)) == 1
    assert files(copies[0]) == files(folder)
