"""Archives, pictures and folders of strangers lead nowhere else, burst nothing, and end in a sentence or a reason."""

import io
import json
import os
import tarfile
import zipfile
import zlib

import pytest
from helpers.hostile_server import bounded
from helpers.made_images import png
from test_diffusiondb import table as diffusiondb_table
from test_diffusiondb import write as write_diffusiondb

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
    """With the checksum that belongs to it."""
    total = sum(header[:148]) + sum(header[156:]) + 8 * 32
    return header[:148] + b"%06o\0 " % total + header[156:]


BODY = b"abcd".ljust(512, b"\0")
BACKWARDS = signed(member()[:124] + b"\xff" * 11 + b"\0" + member()[136:])  # a size of -256, in the notation for large ones
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


@pytest.mark.parametrize("how", TARS)
def test_a_tar_with_anything_but_plain_files_is_refused_at_once(tmp_path, how):
    (tmp_path / "raw/here").mkdir(parents=True)
    (tmp_path / "raw/here/images-000000.tar").write_bytes(TARS[how] + bytes(1024))
    for read in (lambda: list(read_tar(tmp_path / "raw/here")), lambda: ImageIndex(tmp_path / "raw", {"0123456789abcdef"})):
        with pytest.raises(ValueError, match="images-000000.tar is cut short or broken .*: remove it and run `dvc repro`"), bounded(4, 2):
            read()


def test_a_tar_that_was_packed_is_refused_and_not_unpacked(tmp_path):
    for kind in ("gz", "bz2", "xz"):
        with tarfile.open(tmp_path / f"{kind}.tar", f"w:{kind}") as tar:
            info = tarfile.TarInfo("a.png")
            info.size = 2**24
            tar.addfile(info, io.BytesIO(bytes(2**24)))
        with pytest.raises(ValueError, match="cut short or broken"), bounded(4, 2):
            list(read_tar(tmp_path / f"{kind}.tar"))


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["deflate", "bzip2", "lzma"])
def test_a_zip_unpacks_no_more_than_may_be_kept_however_it_is_packed(tmp_path, kind):
    home = write_diffusiondb(tmp_path / "db", diffusiondb_table())
    with zipfile.ZipFile(home / "images/part-000001.zip", "w", kind) as archive:
        archive.writestr("00000002.png", bytes(2**25))
    with bounded(8, 5):
        (row,) = diffusiondb.rows(diffusiondb.Config(path=str(home), limit=1, max_bytes=10**6))
    assert row["data"] is None and row["dropped"] in ("too many bytes", "file broken")


# pictures


def texted(count: int, size: int) -> bytes:
    """A PNG with so many packed text chunks of so many letters."""
    atomic_write = png()
    data = b"parameters\0\0" + zlib.compress(b"a" * size, 9)
    chunk = len(data).to_bytes(4, "big") + b"zTXt" + data + zlib.crc32(b"zTXt" + data).to_bytes(4, "big")
    return atomic_write[:33] + chunk * count + atomic_write[33:]


@pytest.mark.parametrize(("count", "size"), [(1, 2**26), (300, 2**20 - 1)])
def test_text_that_unpacks_to_more_than_a_picture_may_say_is_not_unpacked(count, size):
    with bounded(160, 5):
        assert embedded.embedded_prompts(texted(count, size)) == (None, None) or count > 1
        with pytest.raises(InvalidImageError):
            decode(texted(count, size))


def sampled(samplers: int, inputs: int) -> str:
    """A graph whose every sampler leads through all its inputs, and to no word."""
    nodes = {str(i): {"class_type": "KSampler", "inputs": {side: ["x", 0] for side in comfyui.OTHER_SIDE}} for i in range(samplers)}
    links = {f"text{i}": [f"y{i}", 0] for i in range(inputs)}
    return json.dumps(nodes | {"x": {"class_type": "Concat", "inputs": links}})


def test_what_is_read_costs_in_proportion_to_its_length():
    with bounded(400, 3):
        comfyui.graph_prompts(sampled(1500, 1500))
        deep = "(a" * 100_000 + ")" * 100_000
        assert clean(deep) == deep


# folders


def test_a_link_that_leads_out_of_a_folder_publishes_nothing(tmp_path):
    home, secret = tmp_path / "pictures", tmp_path / "secret"
    home.mkdir(), secret.mkdir()
    (secret / "key.txt").write_text("BEGIN PRIVATE KEY")
    (secret / "mine.png").write_bytes(png(text={"parameters": "BEGIN PRIVATE KEY"}))
    (home / "a.png").write_bytes(png())
    (home / "b.png").symlink_to(secret / "mine.png")
    (home / "a.txt").symlink_to(secret / "key.txt")
    (home / "c.png").symlink_to(home / "a.png")
    found = {row["url"]: (row["data"] is None, row["dropped"], row["complex_prompt"]) for row in folder.rows(folder.Config(str(home)))}
    assert found == {"a.png": (False, None, None), "b.png": (True, "outside the folder", None), "c.png": (False, None, None)}
    (secret / "metadata.csv").write_text("file_name,prompt\na.png,BEGIN PRIVATE KEY\n")
    (home / "metadata.csv").symlink_to(secret / "metadata.csv")
    with pytest.raises(ValueError, match="metadata.csv cannot be read .outside the folder.: repair or remove it"):
        list(folder.rows(folder.Config(str(home))))


def test_a_snapshot_of_the_hub_is_links_to_its_blobs_and_is_read(tmp_path):
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
    for name, data in (("a.png", png()), ("metadata.csv", b"file_name,prompt\na.png,a cat\n")):
        (blobs / name[0]).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{name[0]}")
    assert [(row["complex_prompt"], row["dropped"]) for row in folder.rows(folder.Config(str(snapshot)))] == [("a cat", None)]


def test_a_picture_larger_than_memory_likes_and_a_pipe_are_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate(2**40)
    os.mkfifo(tmp_path / "metadata.csv")
    os.mkfifo(tmp_path / "a.txt")
    with bounded(8, 2):
        assert [(row["url"], row["dropped"]) for row in folder.rows(folder.Config(str(tmp_path)))] == [("a.png", None), ("b.png", "too many bytes")]


@pytest.mark.parametrize("text", ["{red|blue} cat", '{"prompt": 3', '{"a":' * 200_000, '{"1": {"class_type": "KSampler"}}', "{}"])
def test_a_text_beside_a_picture_that_only_looks_like_json_is_no_end_of_the_crawl(tmp_path, text):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.txt").write_text(text)
    (row,) = folder.rows(folder.Config(str(tmp_path)))
    assert row["dropped"] is None and row["complex_prompt"] in (text, None)
