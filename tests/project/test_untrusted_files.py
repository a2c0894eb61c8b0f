"""Untrusted archives, images and folders give no access to other files, unpack within limits, and end in an error or a reason."""

import io
import json
import os
import tarfile
import zipfile
import zlib

import pytest
from helpers import diffusiondb as diffusiondb_copy
from helpers.hostile_server import bounded
from helpers.made_images import png

from sur_adapter.data.prompts import comfyui, embedded
from sur_adapter.data.prompts.cleaning import clean
from sur_adapter.data.sources import diffusiondb, folder
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.images import InvalidImageError, decode
from sur_adapter.io.shards import read_tar

# archives


def member(name="0123456789abcdef.png", kind=tarfile.REGTYPE, size=4, link="", **pax) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.pax_headers = kind, size, link, pax
    return info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def signed(header: bytes) -> bytes:
    """The header with its checksum."""
    total = sum(header[:148]) + sum(header[156:]) + 8 * 32
    return header[:148] + b"%06o\0 " % total + header[156:]


BODY = b"abcd".ljust(512, b"\0")
BACKWARDS = signed(member()[:124] + b"\xff" * 11 + b"\0" + member()[136:])  # a size of -256, in the notation for large sizes
TARS = {
    "a link": member(kind=tarfile.SYMTYPE, size=0, link="/etc/passwd"),
    "a hard link": member() + BODY + member("a.png", kind=tarfile.LNKTYPE, size=0, link="0123456789abcdef.png"),
    "a folder": member(kind=tarfile.DIRTYPE, size=0),
    "a device": member(kind=tarfile.CHRTYPE, size=0),
    "a pipe": member(kind=tarfile.FIFOTYPE, size=0),
    "an absolute path": member("/0123456789abcdef.png") + BODY,
    "a path out of it": member("../0123456789abcdef.png") + BODY,
    "a path behind the name": member("0123456789abcdef.x/../../a.png") + BODY,
    "no name": member(".png") + BODY,
    "a hole": member(**{"GNU.sparse.major": "0", "GNU.sparse.size": str(2**40), "GNU.sparse.map": "0,4"}) + BODY,
    "more than there is": member(size=2**33 - 1) + BODY,
    "less than nothing": BACKWARDS + BODY,
}


@pytest.mark.parametrize("kind", TARS)
def test_a_tar_with_anything_but_regular_files_is_refused_at_once(tmp_path, kind):
    (tmp_path / "raw/here").mkdir(parents=True)
    (tmp_path / "raw/here/images-000000.tar").write_bytes(TARS[kind] + bytes(1024))
    for read in (lambda: list(read_tar(tmp_path / "raw/here")), lambda: ImageIndex(tmp_path / "raw", {"0123456789abcdef"})):
        with pytest.raises(ValueError, match="images-000000.tar is cut short or broken .*: remove it and run `dvc repro`"), bounded(4, 2):
            read()


def test_a_compressed_tar_is_refused_without_unpacking(tmp_path):
    for kind in ("gz", "bz2", "xz"):
        with tarfile.open(tmp_path / f"{kind}.tar", f"w:{kind}") as tar:
            info = tarfile.TarInfo("a.png")
            info.size = 2**24
            tar.addfile(info, io.BytesIO(bytes(2**24)))
        with pytest.raises(ValueError, match="cut short or broken"), bounded(4, 2):
            list(read_tar(tmp_path / f"{kind}.tar"))


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["deflate", "bzip2", "lzma"])
def test_a_zip_member_is_unpacked_up_to_the_size_limit(tmp_path, kind):
    home = diffusiondb_copy.write(tmp_path / "db", diffusiondb_copy.table())
    with zipfile.ZipFile(home / "images/part-000001.zip", "w", kind) as archive:
        archive.writestr("00000002.png", bytes(2**25))
    with bounded(8, 5):
        (row,) = diffusiondb.rows(diffusiondb.Config(path=str(home), limit=1, max_bytes=10**6))
    assert row["data"] is None and row["dropped"] in ("too many bytes", "file broken")


# images


def png_with_texts(count: int, size: int) -> bytes:
    """A PNG with `count` compressed text chunks of `size` letters."""
    plain = png()
    data = b"parameters\0\0" + zlib.compress(b"a" * size, 9)
    chunk = len(data).to_bytes(4, "big") + b"zTXt" + data + zlib.crc32(b"zTXt" + data).to_bytes(4, "big")
    return plain[:33] + chunk * count + plain[33:]


@pytest.mark.parametrize(("count", "size"), [(1, 2**26), (300, 2**20 - 1)])
def test_text_chunks_are_not_unpacked_beyond_the_limit(count, size):
    with bounded(160, 5):
        assert embedded.embedded_prompts(png_with_texts(count, size)) == (None, None) or count > 1
        with pytest.raises(InvalidImageError):
            decode(png_with_texts(count, size))


def graph_of_samplers(samplers: int, inputs: int) -> str:
    """A ComfyUI graph in which each sampler leads through all inputs and to no prompt."""
    nodes = {str(i): {"class_type": "KSampler", "inputs": {side: ["x", 0] for side in comfyui.OTHER_SIDE}} for i in range(samplers)}
    links = {f"text{i}": [f"y{i}", 0] for i in range(inputs)}
    return json.dumps(nodes | {"x": {"class_type": "Concat", "inputs": links}})


def test_parsing_time_grows_with_length_only():
    with bounded(400, 3):
        comfyui.graph_prompts(graph_of_samplers(1500, 1500))
        deep = "(a" * 100_000 + ")" * 100_000
        assert clean(deep) == deep


# folders


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    home, secret = tmp_path / "images", tmp_path / "secret"
    home.mkdir(), secret.mkdir()
    (secret / "key.txt").write_text("BEGIN PRIVATE KEY")
    (secret / "mine.png").write_bytes(png(text={"parameters": "BEGIN PRIVATE KEY"}))
    (home / "a.png").write_bytes(png())
    (home / "b.png").symlink_to(secret / "mine.png")
    (home / "a.txt").symlink_to(secret / "key.txt")
    (home / "c.png").symlink_to(home / "a.png")
    rows = {row["url"]: (row["data"] is None, row["dropped"], row["complex_prompt"]) for row in folder.rows(folder.Config(str(home)))}
    assert rows == {"a.png": (False, None, None), "b.png": (True, "outside the folder", None), "c.png": (False, None, None)}
    (secret / "metadata.csv").write_text("file_name,prompt\na.png,BEGIN PRIVATE KEY\n")
    (home / "metadata.csv").symlink_to(secret / "metadata.csv")
    with pytest.raises(ValueError, match="metadata.csv cannot be read .outside the folder.: repair or remove it"):
        list(folder.rows(folder.Config(str(home))))


def test_a_snapshot_of_the_hub_is_read_through_its_links(tmp_path):
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
    for name, data in (("a.png", png()), ("metadata.csv", b"file_name,prompt\na.png,a cat\n")):
        (blobs / name[0]).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{name[0]}")
    assert [(row["complex_prompt"], row["dropped"]) for row in folder.rows(folder.Config(str(snapshot)))] == [("a cat", None)]


def test_a_huge_image_and_a_pipe_are_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate(2**40)
    os.mkfifo(tmp_path / "metadata.csv")
    os.mkfifo(tmp_path / "a.txt")
    with bounded(8, 2):
        rows = [(row["url"], row["dropped"]) for row in folder.rows(folder.Config(str(tmp_path)))]
    assert rows == [("a.png", None), ("b.png", "too many bytes")]


@pytest.mark.parametrize("text", ["{red|blue} cat", '{"prompt": 3', '{"a":' * 200_000, '{"1": {"class_type": "KSampler"}}', "{}"])
def test_a_text_that_only_looks_like_json_does_not_end_the_crawl(tmp_path, text):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.txt").write_text(text)
    (row,) = folder.rows(folder.Config(str(tmp_path)))
    assert row["dropped"] is None and row["complex_prompt"] in (text, None)
