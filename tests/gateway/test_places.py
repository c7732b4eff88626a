"""Promises of what is left of a worker."""

from pathlib import Path

from gateway.runtime.places import remove


def test_what_a_worker_left_is_removed_whatever_its_rights(tmp_path: Path) -> None:
    """A folder that its maker has locked goes with the rest."""
    scratch = tmp_path / "scratch"
    (scratch / "locked").mkdir(parents=True)
    (scratch / "locked" / "file").touch()
    (scratch / "locked").chmod(0o555)
    remove(scratch)
    assert list(tmp_path.iterdir()) == []


def test_what_a_link_in_scratch_leads_to_is_not_touched(tmp_path: Path) -> None:
    """Links are removed, not followed."""
    target = tmp_path / "target"
    (target / "file").mkdir(parents=True)
    target.chmod(0o500)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "link").symlink_to(target)
    remove(scratch)
    remove_link = tmp_path / "link"
    remove_link.symlink_to(target)
    remove(remove_link)
    assert [each.name for each in tmp_path.iterdir()] == ["target"]
    assert (target / "file").is_dir()
    assert target.stat().st_mode & 0o777 == 0o500
