"""Show a page on which the methods of a checkpoint recommend side by side."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from ..serving.addresses import is_loopback, take_port
from .errors import errors_in_one_line
from .plain_options import PlainParser


_EPILOG = """\
examples:
  patchrec demo                                the embedded sample; the first time it trains a tiny model
  patchrec demo outputs/final --port 8000

Only this machine reaches the page, and the page asks for nothing outside it.
It needs Gradio: pip install "patchrec-hf[demo]".
"""


def main(arguments: list[str]) -> None:
    """
    Runs `patchrec demo`.

    Args:
        arguments (`list[str]`):
            The arguments after `patchrec demo`.

    Raises:
        SystemExit: If an argument is wrong, with one line that says which, and how to mend it.
    """
    with errors_in_one_line():
        _show(_parser().parse(arguments))


def _parser() -> PlainParser:
    parser = PlainParser(
        "demo", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", nargs="?", help="a directory or a repository of the Hub; without it, the embedded sample"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="the port to listen at (default: %(default)s)")
    parser.add_argument("--k", type=int, default=10, help="recommendations of each method (default: %(default)s)")
    parser.add_argument("--device_map", help="where the model runs, such as auto or cuda (default: the CPU)")
    parser.add_argument("--cache_dir", help="where the sample's checkpoint is kept (default: the library's cache)")
    return parser


def _show(args: argparse.Namespace) -> None:
    if find_spec("gradio") is None:
        raise ImportError('`patchrec demo` needs Gradio: pip install "patchrec-hf[demo]".')
    if args.k < 1:
        raise ValueError(f"`--k` must be at least 1, got {args.k}.")
    if not 1 <= args.port <= 65_535:
        raise ValueError(f"`--port` must lie between 1 and 65535, got {args.port}.")
    take_port(args.host, args.port).close()  # so that a wrong address is found before a checkpoint is loaded

    # These imports take seconds, so a wrong argument ends before them.
    from ..data.keywords import nearest_file
    from ..data.sample import SAMPLE_NOTICE
    from ..demo.page import build_page, launch_page
    from ..demo.view import DemoView
    from ..runtime.recommender import PatchRecommender

    checkpoint, name, notice = args.checkpoint, args.checkpoint, ""
    if checkpoint is None:
        from ..demo.sample_checkpoint import sample_checkpoint

        checkpoint, name = str(sample_checkpoint(args.cache_dir)), "patchrec demo: the embedded sample"
        notice = f"A tiny model that trained for a few minutes. {SAMPLE_NOTICE}"
    elif not Path(checkpoint).exists() and (hint := nearest_file(Path(checkpoint))):
        raise ValueError(f"There is no checkpoint {checkpoint}.{hint}")
    print(f"Loading {checkpoint}", flush=True)
    settings = {} if args.device_map is None else {"device_map": args.device_map}
    view = DemoView(PatchRecommender.from_pretrained(checkpoint, **settings), name, notice)
    view.comparison.warm_up()
    page = build_page(view, args.k)
    if not is_loopback(args.host):
        print(f"Everyone who reaches {args.host} can use this page. It asks for no password.", flush=True)
    launch_page(page, args.host, args.port)
    print(f"Open http://{args.host}:{args.port} in a browser. Ctrl-C ends the page.", flush=True)
    page.block_thread()
