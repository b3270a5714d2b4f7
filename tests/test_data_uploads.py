"""Uploads: what is accepted, how it is named, what is left out with a notice, and what is refused."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layout_trees import write_image
from PIL import Image

from anomalyhub.data import Limits, gather_uploads, uploads
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidUploadError, OutputError

MIB = 1024**2


def png(value: int = 120, size: tuple[int, int] = (9, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


def make_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method=zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data, compress_type=method)
    return path


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def patched(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    """Replace bytes in a zip, which is how hostile names and headers are made."""
    data = path.read_bytes()
    for old, new in changes:
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def with_header_field(path: Path, local: int, central: int, layout: str, value: int) -> Path:
    """Set a field of the first member's two headers, at these offsets behind their signatures."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.index(b"PK\3\4") + local, value)
    struct.pack_into(layout, data, data.index(b"PK\1\2") + central, value)
    path.write_bytes(data)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "session"


def test_files_are_read_where_they_are(tmp_path, folder):
    paths = [write_image(tmp_path / "upload" / name) for name in ("b.JPG", "a.png")]
    refs, notices = gather_uploads(map(str, paths), folder)
    assert [(ref.id, ref.path) for ref in refs] == [("a.png", paths[1]), ("b.JPG", paths[0])]
    assert notices == [] and not folder.exists()
    assert refs[0].load().image.shape == (6, 9, 3) and refs[0].label is None and refs[0].load().mask is None


def test_images_of_zips_are_unpacked_below_the_folder(tmp_path, folder):
    first = make_zip(tmp_path / "1.zip", ("set/b.png", png(1)), ("set/", b""), ("./set/deep/a.png", png(2)))
    second = make_zip(tmp_path / "2.ZIP", ("c.PNG", png(3)), ("ü 图.png", png(4)), method=zipfile.ZIP_STORED)
    refs, notices = gather_uploads([second, write_image(tmp_path / "d.png", 5), first], folder)
    assert notices == []
    assert [ref.id for ref in refs] == ["c.PNG", "d.png", "set/b.png", "set/deep/a.png", "ü 图.png"]
    assert [ref.load().image[0, 0, 0] for ref in refs] == [3, 5, 1, 2, 4]
    assert all(ref.path.is_relative_to(folder) for ref in refs if ref.id != "d.png")
    again, _ = gather_uploads([first], folder)  # a second upload of the session stands beside the first
    assert [ref.load().image[0, 0, 0] for ref in again + refs[:1]] == [1, 2, 3]


def test_folders_are_read_like_their_files(tmp_path, folder):
    for name in ("b.png", "deep/a.png", ".hidden.png"):
        write_image(tmp_path / "photos" / name)
    refs, notices = gather_uploads([tmp_path / "photos"], folder)
    assert [ref.id for ref in refs] == ["photos/b.png", "photos/deep/a.png"] and notices == []


def test_one_name_several_times_gets_unique_ids(tmp_path, folder):
    paths = [write_image(tmp_path / part / "a.png", n) for n, part in enumerate("xyz")]
    paths.append(write_image(tmp_path / "w" / "a-2.png", 3))
    with pytest.warns(UserWarning, match="Duplicate name"):
        paths.append(make_zip(tmp_path / "1.zip", ("a.png", png(4)), ("a.png", png(5)), ("s/a.png", png(6))))
    refs, notices = gather_uploads(paths, folder)
    assert notices == []
    values = {ref.id: int(ref.load().image[0, 0, 0]) for ref in refs}
    assert values == {
        "a.png": 0, "a-2.png": 1, "a-3.png": 2, "a-2-2.png": 3, "a-4.png": 4, "a-5.png": 5, "s/a.png": 6
    }  # fmt: skip


def test_what_is_no_image_is_left_out_with_a_notice(tmp_path, folder):
    bad = tmp_path / "bad.png"
    bad.write_bytes(PNG[:-30])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".DS_Store").write_text("hello")
    archive = make_zip(
        tmp_path / "1.zip",
        ("good.png", PNG),
        ("cut.png", PNG[:-30]),
        ("empty.png", b""),
        ("more.zip", b"PK"),
        ("a.txt", b"1"),
        ("b.csv", b"2"),
        ("__MACOSX/good.png", b"junk"),
        ("s/.DS_Store", b"junk"),
        ("s/Thumbs.db", b"junk"),
    )
    empty = make_zip(tmp_path / "2.zip")
    paths = [bad, tmp_path / "notes.txt", tmp_path / ".DS_Store", tmp_path / "gone.png", archive, empty]
    refs, notices = gather_uploads(paths, folder)
    assert [ref.id for ref in refs] == ["good.png"]
    fragments = [
        "left out: bad.png is truncated or damaged",
        "left out: notes.txt is not an image of a supported kind",
        "left out: gone.png does not exist",
        "left out: 1.zip: more.zip is an archive in an archive",
        "left out: 1.zip: 3 files that are no images, such as a.txt",
        "left out: 1.zip: cut.png is truncated or damaged",
        "left out: 1.zip: empty.png is empty",
        "2.zip holds no images",
    ]
    assert len(notices) == len(fragments)
    for notice, fragment in zip(notices, fragments, strict=True):
        assert notice.startswith(fragment) and str(tmp_path) not in notice
    assert len(list(folder.rglob("*.png"))) == 1


def test_too_many_pixels_are_left_out_with_a_notice(tmp_path, folder):
    paths = [write_image(tmp_path / "large.png", shape=(20, 30)), make_zip(tmp_path / "1.zip", ("a.png", PNG))]
    refs, notices = gather_uploads(paths, folder, Limits(max_pixels=599))
    assert [ref.id for ref in refs] == ["a.png"]
    assert len(notices) == 1 and notices[0].startswith("left out: large.png has 30 x 20 pixels")


def test_progress_rises_to_one_and_may_cancel(tmp_path, folder):
    calls = []
    paths = [write_image(tmp_path / "a.png"), make_zip(tmp_path / "1.zip", ("b.png", PNG), ("c.png", PNG))]
    gather_uploads(paths, folder, progress=lambda share, text: calls.append((share, text)))
    assert calls == [(0.0, "reading a.png"), (0.5, "reading 1.zip: b.png"), (0.75, "reading 1.zip: c.png")]

    def cancel(share, text):
        if share > 0.7:
            raise KeyboardInterrupt

    other = folder.with_name("other")
    with pytest.raises(KeyboardInterrupt):
        gather_uploads(paths, other, progress=cancel)
    assert not other.exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        gather_uploads([make_zip(tmp_path / "1.zip", ("a.png", PNG))], tmp_path / "file")


# --- refused ---


def encrypted(path: Path) -> Path:
    make_zip(path, ("a.png", PNG))
    return with_header_field(path, 6, 8, "<H", 0x1)


def bomb(path: Path, mebibytes: int = 3) -> Path:
    return make_zip(path, ("zeros.bmp", bytes(mebibytes * MIB)))


def understated(path: Path) -> Path:
    """The header says 100 bytes where 3 MiB come out."""
    return with_header_field(bomb(path), 22, 24, "<L", 100)


def overstated_packing(path: Path) -> Path:
    """The header says that the zeros take 2 GB packed, to hide the ratio."""
    return with_header_field(bomb(path), 18, 20, "<L", 2 * 10**9)


def damaged(path: Path) -> Path:
    make_zip(path, ("a.png", PNG), method=zipfile.ZIP_STORED)
    return patched(path, (PNG[-20:-8], b"\0" * 12))


def crowded(path: Path) -> Path:
    """A directory of 2.4 MB, all of names that are no images."""
    return make_zip(path, *((f"{n:05d}{'x' * 60}", b"") for n in range(20000)), method=zipfile.ZIP_STORED)


def text_as_zip(path: Path) -> Path:
    path.write_text("hello")
    return path


def cut_zip(path: Path) -> Path:
    make_zip(path, ("a.png", PNG), ("b.png", PNG))
    path.write_bytes(path.read_bytes()[:-40])
    return path


def climbing(path: Path, name: str) -> Path:
    return make_zip(path, ("fine.png", PNG), (name, PNG))


def backslash(path: Path, name: bytes) -> Path:
    """zipfile writes slashes for us, so the name is changed afterwards."""
    placeholder = b"q" * len(name)
    return patched(make_zip(path, (placeholder.decode(), PNG)), (placeholder, name))


REFUSED = [
    # case, maker of one upload, limits, fragment of the message
    ("a parent folder", lambda p: climbing(p, "../evil.png"), {}, "1.zip: '../evil.png' has a path that climbs out"),
    ("a parent in the middle", lambda p: climbing(p, "a/../../evil.png"), {}, "climbs out of the zip"),
    ("a parent of no image", lambda p: climbing(p, "../.bashrc"), {}, "1.zip: '../.bashrc' has a path that climbs"),
    ("an absolute path", lambda p: climbing(p, "/etc/evil.png"), {}, "'/etc/evil.png' has an absolute path"),
    ("a drive letter", lambda p: climbing(p, "C:/evil.png"), {}, "'C:/evil.png' has an absolute path"),
    ("a drive's own folder", lambda p: climbing(p, "c:evil.png"), {}, "'c:evil.png' has an absolute path"),
    ("backslashes", lambda p: backslash(p, b"..\\..\\e.png"), {}, "has a backslash or NUL in its name"),
    ("a network share", lambda p: backslash(p, b"\\\\host\\x.png"), {}, "has a backslash or NUL in its name"),
    ("a NUL", lambda p: backslash(p, b"x.png\0.txt"), {}, "has a backslash or NUL in its name"),
    ("a link", lambda p: make_zip(p, (special("x.png", stat.S_IFLNK), b"/etc/passwd")), {}, "'x.png' is a link"),
    ("a linked folder", lambda p: make_zip(p, (special("d", stat.S_IFLNK), b"/etc"), ("d/x.png", PNG)), {},
     "1.zip: 'd' is a link"),
    ("a pipe", lambda p: make_zip(p, (special("x.png", stat.S_IFIFO), b"")), {}, "'x.png' is a device or pipe"),
    ("a password", encrypted, {}, "'a.png' is encrypted: zip the plain image files again"),
    ("a rare method", lambda p: make_zip(p, ("x.png", PNG), method=zipfile.ZIP_LZMA), {}, "is packed by method 14"),
    ("a bomb", bomb, {}, "'zeros.bmp' unpacks to over 200 times its packed size"),
    ("a bomb that lies small", understated, {}, "1.zip: 'zeros.bmp' is damaged"),
    ("a bomb that lies about its packing", overstated_packing, {}, "'zeros.bmp'"),
    ("a member too large", bomb, {"max_file_bytes": 2 * MIB}, "'zeros.bmp' is too large, the limit is 2 MiB an image"),
    ("too much in one zip", lambda p: climbing(p, "b.png"), {"max_bytes": len(PNG) + 1}, "exceeds the limit of"),
    ("too many members", lambda p: climbing(p, "b.png"), {"max_files": 1}, "'fine.png' is one image too many"),
    ("a crowded directory", crowded, {"max_files": 9}, "1.zip lists too many files"),
    ("a damaged member", damaged, {}, "'a.png' is damaged"),
    ("no zip despite its name", text_as_zip, {}, "1.zip is not a zip or is damaged"),
    ("a zip cut short", cut_zip, {}, "1.zip is not a zip or is damaged"),
    ("an empty zip file", lambda p: p.touch() or p, {}, "1.zip is not a zip or is damaged"),
    ("a zip that is gone", lambda p: p, {}, "1.zip cannot be read, No such file or directory"),
    ("an image too large", lambda p: write_image(p.with_suffix(".bmp")), {"max_file_bytes": 99}, "1.bmp is too large"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "limits", "fragment"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_uploads_name_the_member_and_leave_nothing(tmp_path, folder, make, limits, fragment):
    upload = make(tmp_path / "1.zip")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AnomalyHubError) as caught:
        gather_uploads([upload], folder, Limits(**limits))
    assert caught.type is InvalidUploadError
    assert fragment in str(caught.value) and "\n" not in str(caught.value) and ": " in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("case", ["a bomb", "a member too large", "too much in one zip", "too many members"])
def test_what_the_headers_admit_to_is_refused_before_unpacking(tmp_path, folder, monkeypatch, case):
    _, make, limits, fragment = next(row for row in REFUSED if row[0] == case)
    monkeypatch.setattr(uploads._Intake, "_unpack", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(InvalidUploadError) as caught:
        gather_uploads([make(tmp_path / "1.zip")], folder, Limits(**limits))
    assert fragment in str(caught.value)


def test_limits_count_over_all_uploads(tmp_path, folder):
    paths = [write_image(tmp_path / "a.png"), *(make_zip(tmp_path / f"{n}.zip", ("b.png", PNG)) for n in range(2))]
    total = paths[0].stat().st_size + 2 * len(PNG)
    assert len(gather_uploads(paths, folder, Limits(max_files=3, max_bytes=total))[0]) == 3
    kept = sorted(folder.iterdir())
    with pytest.raises(InvalidUploadError, match="1.zip: 'b.png' is one image too many, the limit is 2"):
        gather_uploads(paths, folder, Limits(max_files=2))
    with pytest.raises(InvalidUploadError, match="1.zip: 'b.png' exceeds the limit of"):
        gather_uploads(paths, folder, Limits(max_bytes=total - 1))
    assert sorted(folder.iterdir()) == kept


def test_bytes_are_counted_while_unpacking_not_taken_from_the_header(tmp_path, folder, monkeypatch):
    """Past a check of the headers that sees nothing, the bytes that come out still stop the unpacking."""
    monkeypatch.setattr(uploads._Intake, "_check_declared", lambda *_: None)
    path, written = bomb(tmp_path / "1.zip", 40), []
    chunks = uploads._chunks

    def counted(*args):
        for chunk in chunks(*args):
            written.append(len(chunk))
            yield chunk

    monkeypatch.setattr(uploads, "_chunks", counted)
    limits = {
        "unpacks to over 200 times": Limits(),
        "is too large": Limits(max_file_bytes=3 * MIB, max_ratio=1e9),
        "in all": Limits(max_bytes=3 * MIB, max_ratio=1e9),
    }
    for fragment, limit in limits.items():
        written.clear()
        with pytest.raises(InvalidUploadError, match=fragment):
            gather_uploads([path], folder, limit)
        assert sum(written) <= 10 * MIB and not folder.exists()


def test_plain_images_that_pack_well_are_no_bombs(tmp_path, folder):
    """A uniform image of 0.8 MB packs 900 times; only what unpacks to more than 1 MiB is suspect."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((500, 540, 3), np.uint8)).save(buffer, "BMP")
    path = make_zip(tmp_path / "1.zip", ("black.bmp", buffer.getvalue()))
    assert path.stat().st_size * 200 < len(buffer.getvalue()) < MIB
    refs, notices = gather_uploads([path], folder)
    assert [ref.id for ref in refs] == ["black.bmp"] and notices == []


@pytest.mark.parametrize("name", ["max_files", "max_bytes", "max_file_bytes", "max_pixels", "max_ratio"])
def test_limits_must_be_positive(name):
    for value in (0, -1, float("nan")):
        with pytest.raises(InvalidArgumentError, match=f"{name} must be above 0, got {value}"):
            Limits(**{name: value})
