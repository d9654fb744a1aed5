"""Serve a checkpoint over HTTP: recommendations, events of users, similar items."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..data.keywords import nearest_file
from .errors import errors_in_one_line
from .index_options import SAVED_INDEX, add_index_option, check_index_option
from .plain_options import PlainParser


TOKEN_VARIABLE = "PATCHREC_SERVE_TOKEN"
_LIMITS = {
    "max_k": "most items that a request may ask for",
    "max_histories": "most histories of a request",
    "max_items": "most items of a history, and most events of a request",
    "max_candidates": "most candidates of a request",
    "max_body_bytes": "largest body of a request",
    "max_batch_size": "most histories that the model reads together",
    "max_wait_ms": "how long a request waits for others to be read with it, in milliseconds",
    "max_queue": "most histories that wait; further requests are answered with 503",
    "timeout_seconds": "how long a request waits for its answer",
    "cache_bytes": "most bytes of user states in memory",
    "max_stored_items": "how many of a user's latest events are read",
    "max_title_tokens": "for --method exact: most title tokens that are read for a history",
}


def main(arguments: list[str]) -> None:
    """
    Runs the command.

    Args:
        arguments (`list[str]`):
            The arguments after `patchrec serve`.
    """
    with errors_in_one_line():
        _serve(arguments)


def _parser(settings: dict[str, Any], shows_all: bool) -> PlainParser:
    parser = PlainParser(
        "serve",
        description=__doc__,
        epilog=f"A token in the environment variable {TOKEN_VARIABLE}, or in the file that --token_file names, must "
        "stand in each request: `Authorization: Bearer TOKEN`.",
        usage="%(prog)s CHECKPOINT [--port PORT] [--store FILE | --redis URL] [--token_file FILE] [...]",
    )
    parser.add_argument("checkpoint", help="a directory or a repository of the Hub")
    parser.add_argument("--host", default="127.0.0.1", help="the interface to serve (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 for a free one (default: 8000)")
    parser.add_argument("--store", help="the SQLite file of histories (default: histories.sqlite)")
    parser.add_argument("--redis", metavar="URL", help="keep histories in Redis: redis://localhost:6379/0")
    parser.add_argument("--redis_prefix", default="patchrec", help="beginning of Redis' keys (default: patchrec)")
    parser.add_argument("--token_file", metavar="FILE", help="a file that holds the token")
    parser.add_argument("--method", choices=["fusion", "item", "exact", "beam"], help="default: the checkpoint's own")
    add_index_option(parser)
    parser.add_argument("--block_size", type=int, help="how many items leave a user state together")
    parser.add_argument("--device_map", help="where the model runs, such as auto (default: CPU)")
    parser.add_argument("--dtype", help="type of the weights, such as bfloat16 (default: the checkpoint's)")
    parser.add_argument("--trust_layout_code", action="store_true", help="run a layout class of the checkpoint")
    parser.add_argument("--log_level", default="info", choices=["critical", "error", "warning", "info", "debug"])
    parser.add_argument("--access_log", action="store_true", help="log each request")
    parser.add_argument("--help-all", action="help", help="show this, and the limits of requests and memory")
    limits = parser.add_argument_group("limits") if shows_all else parser
    for name, text in _LIMITS.items():
        default = settings[name]
        shown = f"{text} (default: {default})" if shows_all else argparse.SUPPRESS
        limits.add_argument(f"--{name}", type=type(default), default=default, help=shown)
    return parser


def _serve(arguments: list[str]) -> None:
    from ..serving.service_settings import ServiceSettings

    defaults = {field.name: field.default for field in fields(ServiceSettings)}
    parser = _parser(defaults, shows_all="--help-all" in arguments)
    args = parser.parse(arguments)
    check_index_option(args.index, args.method)
    settings = ServiceSettings(**{name: getattr(args, name) for name in defaults})
    token = _read_token(args.token_file)
    checkpoint = Path(args.checkpoint)
    # Two parts may name a repository of the Hub.
    if not checkpoint.exists() and (len(checkpoint.parts) != 2 or checkpoint.parent.exists()):
        raise FileNotFoundError(f"There is no checkpoint {args.checkpoint}.{nearest_file(checkpoint)}")
    if not 0 <= args.port < 1 << 16:
        raise ValueError(f"--port must be a number from 0 to 65535, got {args.port}.")
    try:
        from ..serving.addresses import is_loopback, take_port
        from ..serving.application import create_app
        from ..serving.http_server import run_server
        from ..serving.service import RecommendationService
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic"):
            raise
        raise ImportError(f'`patchrec serve` needs {error.name}: pip install "patchrec-hf[serve]".') from error
    from ..runtime.item_index import ItemIndex
    from ..runtime.recommender import PatchRecommender

    with take_port(args.host, args.port) as taken:
        loading = {"device_map": args.device_map, "dtype": args.dtype}
        recommender = PatchRecommender.from_pretrained(
            args.checkpoint,
            trust_layout_code=args.trust_layout_code,
            **{name: value for name, value in loading.items() if value is not None},
        )
        index: ItemIndex | None = None
        if args.index == SAVED_INDEX:
            index = recommender.load_index(args.checkpoint)
        elif args.index is not None:
            index = recommender.build_index(args.index, show_progress=True)
        store, where = _open_store(args, recommender.catalog.has_text_ids)
        try:
            service = RecommendationService(recommender, store, settings, index)
        except Exception:
            store.close()
            raise
        host, port = taken.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(
            f"Serving {args.checkpoint} ({len(recommender.catalog)} items, method {service.method!r}) at {address}, "
            f"with its page at {address}/docs. Histories are kept in {where}.",
            flush=True,
        )
        if token is None and not is_loopback(host):
            print(
                f"Warning: whoever reaches {host} can read and add histories. Set a token: {TOKEN_VARIABLE}, or "
                "--token_file.",
                flush=True,
            )
        grace = math.ceil(2 * settings.timeout_seconds)  # a body may take as long as an answer
        run_server(create_app(service, token), taken, args.log_level, args.access_log, grace)


def _read_token(file: str | None) -> str | None:
    """Returns the token of the file, or of the environment."""
    if file is None:
        token, source = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    else:
        if not Path(file).is_file():
            raise FileNotFoundError(f"There is no file {file} with a token.{nearest_file(Path(file))}")
        token, source = Path(file).read_text(encoding="utf-8"), file
    if token is None:
        return None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"The token in {source} must be at least one printable ASCII character without blanks. "
            '`python -c "import secrets; print(secrets.token_urlsafe())"` makes one.'
        )
    return token


def _open_store(args: argparse.Namespace, has_text_ids: bool) -> tuple[Any, str]:
    """Opens the histories, and returns where they are."""
    if args.redis is not None:
        from ..serving.redis_histories import RedisHistories

        if args.store is not None:
            raise ValueError("--store names a SQLite file, and --redis another place for histories. Give one of them.")
        return RedisHistories(args.redis, has_text_ids, args.redis_prefix), "Redis"
    from ..serving.sqlite_histories import SqliteHistories

    path = args.store or "histories.sqlite"
    return SqliteHistories(path, has_text_ids), path
