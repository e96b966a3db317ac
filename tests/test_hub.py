"""Weights from the hub, against a local server that answers as the hub does, or not at all."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from threading import Event, Thread
from typing import Any

import huggingface_hub
import pytest
import timm
from safetensors.torch import save_file
from small_backbones import DINOV3, RESNET, SMALL, bare, same, scrambled

from drexcache.errors import DrexcacheError
from drexcache.features import hub_weights as hub
from drexcache.features.sources import check_weights
from drexcache.features.weights import load_weights


@contextmanager
def local_hub(files: dict[str, bytes], gated: bool = False) -> Iterator[str]:
    """A server that answers as the hub does, with these files under their paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            content = files.get(self.path)
            if gated or content is None:
                self.send_response(401 if gated else 404)
                self.send_header("X-Error-Code", "GatedRepo" if gated else "EntryNotFound")
                self.send_header("Content-Length", "0")
            else:
                self.send_response(200)
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(b"" if gated else files.get(self.path, b""))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """What the environment variables HF_ENDPOINT and HF_HUB_CACHE set when the hub's client is imported."""
    constants = huggingface_hub.constants
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_hub_weights_are_fetched_once_and_then_come_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = dict(scrambled(timm.create_model(RESNET)).state_dict())  # with its ImageNet classifier
    save_file(state, tmp_path / "made.safetensors")
    address = f"/timm/{RESNET}.r160_in1k/resolve/main/model.safetensors"
    with local_hub({address: (tmp_path / "made.safetensors").read_bytes()}) as endpoint:
        use_hub(monkeypatch, endpoint, tmp_path / "cache")
        check_weights(RESNET, "r160_in1k", "hub")
        assert not (tmp_path / "cache").exists()  # a check fetches nothing
        fetched = load_weights(bare(RESNET), RESNET, "r160_in1k", "hub")
    check_weights(RESNET, "r160_in1k", "hub")  # the hub is gone, the cache stays
    cached = load_weights(bare(RESNET), RESNET, "r160_in1k", "hub")
    assert (fetched.source, fetched.licence) == (f"hub timm/{RESNET}.r160_in1k", "apache-2.0")
    assert same(fetched.state, {name: state[name] for name in fetched.state})
    assert same(fetched.state, cached.state) and fetched.sha256 == cached.sha256


def test_an_unreachable_hub_is_told_at_once_with_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    use_hub(monkeypatch, f"http://127.0.0.1:{closed}", tmp_path)
    start = time.monotonic()
    with pytest.raises(DrexcacheError) as error:
        check_weights("resnet50", "tv2_in1k", "hub")
    assert re.fullmatch(
        r"weights resnet50\.tv2_in1k cannot be fetched from the hub \(no network\? \w+\); ways out: --weights"
        r" packaged with the recipe offline, --weights PATH with a downloaded file, or fill the hub cache on"
        r" another machine \(HF_HOME\)",
        str(error.value),
    )
    with pytest.raises(DrexcacheError, match="its licence may have to be accepted first, at http"):
        load_weights(bare(DINOV3, **SMALL), DINOV3, "lvd1689m", "hub")
    assert time.monotonic() - start < 10


def test_a_silent_hub_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 0.4)
    with create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        use_hub(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path)
        start = time.monotonic()
        with pytest.raises(DrexcacheError, match=r"cannot be fetched from the hub \(no network\? \w*Timeout"):
            check_weights("resnet50", "tv2_in1k", "hub")
        assert time.monotonic() - start < 3


def test_a_name_that_never_resolves_is_given_up() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer in 0\.2 s"):
        hub._within(0.2, lambda: str(Event().wait(5)))
    assert time.monotonic() - start < 3


def test_gated_weights_say_where_to_accept_the_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with local_hub({}, gated=True) as endpoint:
        use_hub(monkeypatch, endpoint, tmp_path)
        with pytest.raises(DrexcacheError) as error:
            check_weights(DINOV3, "lvd1689m", "hub")
    page = f"{endpoint}/timm/{DINOV3}.lvd1689m"
    assert f"accept it at {page}, log in with 'hf auth login' and run again" in str(error.value)


def test_a_repository_without_a_file_of_tensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with local_hub({}) as endpoint:
        use_hub(monkeypatch, endpoint, tmp_path)
        with pytest.raises(DrexcacheError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
            check_weights(RESNET, "r160_in1k", "hub")
