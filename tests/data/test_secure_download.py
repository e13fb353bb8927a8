"""Certificates, redirects out of HTTPS, and proxies."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from bad_server import BadServer, serve

from cifar_trainer.data import download as downloading
from cifar_trainer.data.dataset import Archive
from cifar_trainer.data.download import Patience, PrepareReporter
from cifar_trainer.data.download import download as download_archive
from cifar_trainer.errors import DataNotFoundError, UsageError
from cifar_trainer.files import sha256_bytes

CONTENT = bytes(range(256)) * 40
ARCHIVE = Archive("cifar.tar.gz", len(CONTENT), sha256_bytes(CONTENT))

#: The variables that name the authorities to trust: OpenSSL's, requests's and curl's.
AUTHORITIES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "PATIENCE", Patience(seconds=5, pause=0.01, longest_wait=0.5))
    for name in AUTHORITIES:
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def plain() -> Iterator[BadServer]:
    with serve(CONTENT) as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """One that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


def written(leaf: trustme.LeafCert, folder: Path) -> tuple[Path, Path]:
    """A certificate and its key as files."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(certificate)
    leaf.private_key_pem.write_to_path(key)
    return certificate, key


def get(folder: Path, *urls: str) -> tuple[bytes, list[str]]:
    notes: list[str] = []
    path = download_archive(ARCHIVE, urls, folder / "downloads", PrepareReporter(note=notes.append))
    return path.read_bytes(), notes


@pytest.mark.parametrize("fault", ["expired", "of another host", "of nobody that is trusted"])
def test_a_wrong_certificate_is_refused_and_the_next_mirror_tried(
    authority: trustme.CA, plain: BadServer, tmp_path: Path, fault: str
) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    leaf = {
        "expired": lambda: authority.issue_cert("localhost", not_after=yesterday),
        "of another host": lambda: authority.issue_cert("elsewhere.example"),
        "of nobody that is trusted": lambda: trustme.CA().issue_cert("localhost"),
    }[fault]()
    with serve(CONTENT, written(leaf, tmp_path)) as server:
        content, notes = get(tmp_path, f"{server.url}/whole", f"{plain.url}/whole")
        assert content == CONTENT
        assert any("its certificate is refused: " in note for note in notes)
        assert server.seen == [], "nothing was asked of it"
        (tmp_path / "downloads" / ARCHIVE.name).unlink()
        with pytest.raises(
            DataNotFoundError, match=r"certificate is refused: .* name a file .* SSL_CERT_FILE or REQ"
        ):
            get(tmp_path, f"{server.url}/whole")


@pytest.mark.parametrize("variable", AUTHORITIES)
def test_the_variables_of_openssl_requests_and_curl_name_authorities_to_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv(variable, str(tmp_path / "authority.pem"))
    with serve(CONTENT, written(authority.issue_cert("localhost"), tmp_path)) as server:
        assert get(tmp_path, f"{server.url}/whole")[0] == CONTENT


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_variable_that_names_no_file_is_told_before_any_mirror_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "/nowhere/authority.pem")
    with pytest.raises(UsageError, match=f"{variable} names /nowhere/authority.pem, which does not exist"):
        get(tmp_path, "https://localhost:9/whole")


def test_a_redirect_out_of_https_is_refused(authority: trustme.CA, plain: BadServer, tmp_path: Path) -> None:
    with serve(CONTENT, written(authority.issue_cert("localhost"), tmp_path)) as server:
        with pytest.raises(DataNotFoundError, match=rf"redirects from HTTPS to {plain.url}/whole: refused"):
            get(tmp_path, f"{server.url}/to/{plain.url}/whole")
        assert plain.seen == []


@pytest.mark.parametrize("answer", ["407", "unreachable"])
def test_a_proxy_in_the_way_is_named_without_its_password(
    plain: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    host = plain.url.removeprefix("http://") if answer == "407" else "localhost:9"
    monkeypatch.setenv("http_proxy", f"http://anna:secret@{host}")
    with pytest.raises(DataNotFoundError) as caught:
        get(tmp_path, "http://mirror.example/status/407")
    assert f"the proxy http://{host}" in str(caught.value)
    assert "secret" not in str(caught.value)
    if answer == "407":
        assert "asks for a user name and a password" in str(caught.value)


def test_a_proxy_that_lets_through_serves(
    plain: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", plain.url)
    assert get(tmp_path, "http://mirror.example/whole")[0] == CONTENT
    assert plain.seen[0][0] == "http://mirror.example/whole"
