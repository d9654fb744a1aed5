"""Downloads: once, checked, and with their terms said."""

import functools
import http.server
import os
import threading

import pytest
from sixty_users import CUTS

from patchrec_hf import load_recommendation_data, prepare_data
from patchrec_hf.data.downloads import cache_directory, download, fetch


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path / "served"` over HTTP on this machine."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


MD5_OF_ABC = "900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize("md5", [MD5_OF_ABC, None])
def test_a_file_is_downloaded_once(server, tmp_path, md5):
    (tmp_path / "served" / "a.zip").write_bytes(b"abc")
    path = fetch(f"{server}a.zip", md5, tmp_path / "cache")
    assert path.read_bytes() == b"abc"
    (tmp_path / "served" / "a.zip").unlink()
    assert fetch(f"{server}a.zip", md5, tmp_path / "cache") == path


def test_a_checksum_that_differs(server, tmp_path):
    (tmp_path / "served" / "a.zip").write_bytes(b"abd")
    with pytest.raises(ValueError, match=rf"a\.zip is not what was published there.*{MD5_OF_ABC}"):
        fetch(f"{server}a.zip", MD5_OF_ABC, tmp_path / "cache")
    assert not (tmp_path / "cache" / "a.zip").exists()


def test_a_download_that_fails(server, tmp_path):
    with pytest.raises(ConnectionError, match=r"missing\.zip could not be downloaded .*pass its path"):
        fetch(f"{server}missing.zip", None, tmp_path / "cache")


def test_a_public_data_set_by_name(server, tmp_path, monkeypatch):
    """From its address to rows: an archive in the published form, with its terms said once."""
    import hashlib
    import zipfile

    from patchrec_hf.data import downloads

    with zipfile.ZipFile(tmp_path / "served" / "ml-1m.zip", "w") as archive:
        ratings = "".join(f"{user}::{item}::5::{10 * item + user}\n" for user in range(1, 9) for item in range(1, 10))
        archive.writestr("ml-1m/ratings.dat", ratings)
        archive.writestr("ml-1m/movies.dat", "".join(f"{item}::Film {item} (1999)::Drama\n" for item in range(1, 10)))
    md5 = hashlib.md5((tmp_path / "served" / "ml-1m.zip").read_bytes()).hexdigest()
    said = []
    monkeypatch.setattr(downloads, "_GROUPLENS", server)
    monkeypatch.setitem(downloads._MD5, "ml-1m", md5)
    monkeypatch.setattr(downloads.logger, "warning", said.append)
    downloads.log_terms.cache_clear()
    for _ in range(2):
        data = prepare_data("ml-1m", split=CUTS, cache_dir=tmp_path / "cache")
    assert data.catalog.titles[:2] == ("Film 1", "Film 2")
    assert len(data.interactions) == 72
    assert said == [downloads.MOVIELENS_TERMS]
    with pytest.raises(ValueError, match="not yours to pass on"):
        data.push_to_hub("someone/ml-1m")


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("goodreads", ["goodreads_reviews_dedup.json.gz", "goodreads_books.json.gz"]),
        ("goodreads/poetry", ["byGenre/goodreads_reviews_poetry.json.gz", "byGenre/goodreads_books_poetry.json.gz"]),
        (
            "amazon-2023/All_Beauty",
            ["benchmark/5core/rating_only/All_Beauty.csv", "raw/meta_categories/meta_All_Beauty.jsonl"],
        ),
        ("ml-20m", []),
    ],
)
def test_addresses(monkeypatch, tmp_path, name, addresses):
    asked = []
    monkeypatch.setattr("patchrec_hf.data.downloads.fetch", lambda url, md5, target: asked.append(url))
    monkeypatch.setattr("patchrec_hf.data.downloads.hf_hub_download", lambda repo, file, **_: asked.append(file))
    target = download(name, tmp_path)
    assert target == (tmp_path / "downloads" / name if addresses else None)
    assert len(asked) == len(addresses)
    assert all(url.endswith(address) for url, address in zip(asked, addresses, strict=True))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match=r"cannot be written to\. Choose another with `cache_dir`"):
        cache_directory(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(PermissionError, match="PATCHREC_HF_CACHE"):
        load_recommendation_data(tmp_path, cache_dir=tmp_path / "cache")
