"""Digests of files, bytes and folders."""

from hashlib import md5, sha256

import numpy as np

from sur_adapter.io.hashing import file_digest, folder_digest, short_digest


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == sha256(b"abc").hexdigest()
    assert file_digest(tmp_path / "a", "md5") == md5(b"abc").hexdigest()


def test_a_short_digest_is_that_of_its_chunks_one_after_the_other():
    numbers = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert short_digest("é", b"\0", numbers) == sha256("é".encode() + b"\0" + numbers.tobytes()).hexdigest()[:16]
    assert short_digest() == sha256().hexdigest()[:16]


def test_a_folder_digest_changes_with_names_and_contents_of_matching_files_only(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes(b"1")
    (tmp_path / "deep/b.txt").write_bytes(b"2")
    digests = [folder_digest(tmp_path, "*.txt")]
    assert digests[0] == sha256(b"a.txt\0" + sha256(b"1").digest() + b"deep/b.txt\0" + sha256(b"2").digest()).hexdigest()[:16]
    (tmp_path / "c.log").write_bytes(b"3")
    assert folder_digest(tmp_path, "*.txt") == digests[0]
    (tmp_path / "a.txt").write_bytes(b"3")
    digests.append(folder_digest(tmp_path, "*.txt"))
    (tmp_path / "a.txt").rename(tmp_path / "d.txt")
    digests.append(folder_digest(tmp_path, "*.txt"))
    assert len(set(digests)) == 3
