"""The page: Gradio's inputs and outputs around a view of a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from .view import DemoView


_FONTS = ["system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_NUM_SEEDS = 2**31


def build_page(view: DemoView, k: int = 10, seed: int = 0) -> gr.Blocks:
    """
    Builds the page. Nothing of it asks for anything outside its own server.

    Args:
        view ([`DemoView`]):
            The recommender and the texts of the page.
        k (`int`, *optional*, defaults to `10`):
            Number of items that each method recommends at first.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the first example history.

    Returns:
        `gradio.Blocks`
    """
    budget = view.comparison.budget
    most = min(50, len(view.recommender.catalog))
    with gr.Blocks(title=view.name, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(view.heading())
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=420):
                chips = gr.Dropdown(
                    choices=list(view.labels.texts),
                    value=view.example(seed),
                    multiselect=True,
                    allow_custom_value=True,
                    label="History, oldest item first",
                    info="Type to search, and choose from the list. Enter adds what you typed as a title.",
                    elem_id="history",
                )
            with gr.Column(scale=2, min_width=300):
                tokens = gr.Slider(
                    budget.least,
                    budget.most,
                    value=budget.most,
                    step=1,
                    label="Token budget, in positions",
                    info=budget.absence,
                    interactive=budget.absence is None and budget.least < budget.most,
                    elem_id="budget",
                )
                number = gr.Slider(1, most, value=min(k, most), step=1, label="Recommendations", elem_id="k")
                with gr.Row(equal_height=True):
                    exclude = gr.Checkbox(False, label="Hide seen", elem_id="exclude", min_width=150)
                    another = gr.Button("Another history", size="sm", elem_id="another", min_width=120)
        drawing = gr.HTML(elem_id="drawing")
        columns = gr.HTML(elem_id="columns")

        def update(labels: list[str], k: int, exclude_seen: bool, max_tokens: int) -> Iterator[tuple[str, str]]:
            yield from view.render(labels, int(k), exclude_seen, int(max_tokens))

        hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [page.load, chips.change, number.change, exclude.change, tokens.change],
            update,
            [chips, number, exclude, tokens],
            [drawing, columns],
            trigger_mode="always_last",
            **hidden,
        )
        another.click(lambda: view.example(random.randrange(_NUM_SEEDS)), None, chips, **hidden)
    return page


def launch_page(page: gr.Blocks, host: str, port: int) -> None:
    """
    Serves the page, in a thread of its own. `page.block_thread()` waits until the user interrupts it.

    Args:
        page (`gradio.Blocks`):
            The page.
        host (`str`):
            The address to listen at, which [`take_port`] has found to be free.
        port (`int`):
            The port.

    Raises:
        OSError: If the port is in use.
    """
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        inline=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=["ui-monospace", "monospace"]),
        css_paths=Path(__file__).with_name("style.css"),
        prevent_thread_lock=True,
    )
