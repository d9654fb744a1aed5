"""
Makes the screenshot that docs/demo.md shows: opens the page of `patchrec demo` in Chromium, and writes docs/demo.png.

    pip install -c constraints.txt -e ".[demo]" playwright    # and Chromium, such as Debian's package `chromium`
    python docs/demo_screenshot.py                            # the embedded sample
    python docs/demo_screenshot.py --checkpoint outputs/final --dark --output demo.png
"""

import argparse
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from playwright.sync_api import sync_playwright


CALL = "import sys; from patchrec_hf.commands.demo import main; main(sys.argv[1:])"


def main(args: argparse.Namespace) -> None:
    browser_path = args.browser or shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        raise SystemExit("No Chromium was found. Install it (Debian: apt-get install chromium), or pass --browser.")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    checkpoint = [] if args.checkpoint is None else [args.checkpoint]
    demo = subprocess.Popen([sys.executable, "-c", CALL, *checkpoint, "--port", str(port), "--k", str(args.k)])
    try:
        wait_for(f"http://127.0.0.1:{port}", demo)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(
                viewport={"width": args.width, "height": 600},
                device_scale_factor=args.scale,
                color_scheme="dark" if args.dark else "light",
            )
            page.set_default_timeout(180_000)  # milliseconds that a busy machine may take
            page.goto(f"http://127.0.0.1:{port}")
            page.locator(".pr-columns").wait_for()
            if args.budget is not None:
                page.locator("#budget input[type=number]").fill(str(args.budget))
                page.locator("#budget input[type=number]").press("Enter")
                page.wait_for_timeout(1_000)
            page.wait_for_function("document.querySelectorAll('.pr-waiting').length === 0")
            page.mouse.move(0, 0)
            page.wait_for_timeout(500)
            page.screenshot(path=args.output, full_page=True)
            browser.close()
    finally:
        demo.terminate()
        demo.wait()
    print(f"Wrote {args.output}")


def wait_for(url: str, process: subprocess.Popen) -> None:
    """Waits until the page answers, which is after some minutes if the sample's model must be trained first."""
    opener = build_opener(ProxyHandler({}))  # no proxy lies between this machine and itself
    while process.poll() is None:
        try:
            opener.open(url, timeout=10).close()
            return
        except (URLError, TimeoutError):
            time.sleep(0.5)
    raise SystemExit("`patchrec demo` ended before its page answered.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a checkpoint; by default, the sample's")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("demo.png"))
    parser.add_argument("--browser", help="path of Chromium or Chrome; by default, the one that the system finds")
    parser.add_argument("--budget", type=int, help="token budget to choose on the page")
    parser.add_argument("--k", type=int, default=8, help="recommendations of each method")
    parser.add_argument("--width", type=int, default=1300, help="width of the page in pixels")
    parser.add_argument("--scale", type=float, default=1.5, help="pixels of the picture for each pixel of the page")
    parser.add_argument("--dark", action="store_true", help="the page in its dark colors")
    main(parser.parse_args())
