"""What other programs do to the files of a recorder: it goes on, and says what is gone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from builders import event
from recording_files import HEADER, read

from tracer.model.events import Event
from tracer.recordings import file
from tracer.recordings.rotating_writer import RotatingWriter
from tracer.recordings.rotation import Rotation

SUFFIXES = ["tw", "tw.gz", "tw.zst"]


@pytest.fixture(autouse=True)
def every_flush_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "COMPRESSED_FLUSH_S", 0.0)


def feed(recorder: RotatingWriter, numbers: range) -> None:
    recorder.write([event(at=number, attempt=number, kind="rto") for number in numbers])
    recorder.flush()


def found(path: Path) -> list[int | tuple[str, int | None]]:
    """The numbers of its events, and the counts of lost ones."""
    return [("lost", each.count) if each.event == "lost" else number_of(each) for each in read(path)[0]]


def number_of(each: Event) -> int:
    assert each.attempt is not None
    return each.attempt


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rotation", [Rotation(), Rotation(every_s=3600, keep=2)], ids=["alone", "series"])
def test_a_removed_file_is_followed_by_one_that_counts_its_events(
    tmp_path: Path, suffix: str, rotation: Rotation
) -> None:
    said: list[str] = []
    recorder = RotatingWriter(tmp_path / f"r.{suffix}", lambda: HEADER, rotation, say=said.append)
    feed(recorder, range(5))
    recorder.path.unlink()
    feed(recorder, range(5, 8))
    feed(recorder, range(8, 10))
    recorder.close()
    (left,) = tmp_path.iterdir()
    assert found(left)[0] in (("lost", 5), ("lost", 8)) and found(left)[-2:] == [8, 9]
    assert sum(1 if isinstance(each, int) else each[1] or 0 for each in found(left)) == 10
    assert "another program removed" in said[0] and "had 5 events" in said[0]


def test_a_removed_file_without_events_is_made_again(tmp_path: Path) -> None:
    recorder = RotatingWriter(tmp_path / "r.tw", lambda: HEADER, Rotation(), say=print)
    recorder.path.unlink()
    recorder.flush()
    feed(recorder, range(3))
    recorder.close()
    assert found(tmp_path / "r.tw") == [0, 1, 2]


def test_a_removed_file_whose_name_is_taken(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = RotatingWriter(tmp_path / "r.tw", lambda: HEADER, Rotation(), say=said.append)
    feed(recorder, range(3))
    recorder.path.unlink()
    (tmp_path / "r.tw").symlink_to("elsewhere")
    feed(recorder, range(3, 6))
    with pytest.raises(Exception, match="lacks its last 6 events: File exists"):
        recorder.close()
    assert not (tmp_path / "elsewhere").exists() and "File exists" in said[1]


def test_a_removed_directory_that_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    said: list[str] = []
    recorder = RotatingWriter(directory / "r.tw.gz", lambda: HEADER, Rotation(every_s=3600), say=said.append)
    feed(recorder, range(5))
    shutil.rmtree(directory)
    feed(recorder, range(5, 7))
    assert "No such file or directory" in said[1]
    directory.mkdir()
    feed(recorder, range(7, 9))
    recorder.close()
    (left,) = directory.iterdir()
    assert found(left) == [("lost", 9)]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rotation", [Rotation(), Rotation(every_s=3600)], ids=["alone", "series"])
def test_a_truncated_file_starts_again(tmp_path: Path, suffix: str, rotation: Rotation) -> None:
    """As logrotate's copytruncate does it: the copy is whole, and so is what follows."""
    said: list[str] = []
    recorder = RotatingWriter(tmp_path / f"r.{suffix}", lambda: HEADER, rotation, say=said.append)
    feed(recorder, range(5))
    copy = Path(shutil.copy(recorder.path, tmp_path / f"copy.{suffix}"))
    os.truncate(recorder.path, 0)
    feed(recorder, range(5, 1500))
    path = recorder.path
    recorder.close()
    assert found(copy) == [*range(5)] and found(path) == [*range(5, 1500)]
    assert "another program truncated" in said[0]


@pytest.mark.parametrize("limit", [Rotation(size=4096, keep=3), Rotation(size=4096, keep_size=20_000)])
def test_a_file_that_somebody_took_away_does_not_count(tmp_path: Path, limit: Rotation) -> None:
    """Otherwise the recorder would remove one more than its limit asks for."""
    recorder = RotatingWriter(tmp_path / "r.tw", lambda: HEADER, limit, say=print)
    number = 0
    while len(list(tmp_path.iterdir())) < 3:
        feed(recorder, range(number, number + 1))
        number += 1
    first, second, third = sorted(tmp_path.iterdir())
    second.unlink()
    while len(list(tmp_path.iterdir())) < 3 and first.exists():
        feed(recorder, range(number, number + 1))
        number += 1
    recorder.close()
    assert first.exists() and third.exists()
