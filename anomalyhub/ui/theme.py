"""The look: system fonts only, nothing is fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent
CSS = HERE / "style.css"
LOGO = HERE / "logo.svg"

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Menlo", "Consolas", "monospace")

_BLUE = gr.themes.Color(
    name="steel",
    c50="#eff5fb",
    c100="#dbe8f5",
    c200="#bcd4ec",
    c300="#8fb7df",
    c400="#5b93cd",
    c500="#3474b6",
    c600="#1d5a9e",
    c700="#1a4a82",
    c800="#193f6b",
    c900="#18365a",
    c950="#10233c",
)


def theme() -> gr.themes.Base:
    """Calm greys, one blue; orange is kept for what is defective."""
    base = gr.themes.Base(
        primary_hue=_BLUE,
        secondary_hue=_BLUE,
        neutral_hue="zinc",
        text_size=gr.themes.sizes.text_md,
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        font=_SANS,
        font_mono=_MONO,
    )
    return base.set(
        body_background_fill="#f5f6f8",
        body_background_fill_dark="#0e0e10",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#18181b",
        background_fill_secondary="#f5f6f8",
        background_fill_secondary_dark="#222226",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_border_width="0px",
        border_color_primary="#dfe2e8",
        border_color_primary_dark="#34363e",
        body_text_color="#1c1e24",
        body_text_color_dark="#ecedf0",
        body_text_color_subdued="#5f6572",
        body_text_color_subdued_dark="#a4a9b5",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_400",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#eef0f4",
        button_secondary_background_fill_dark="#2a2c33",
        button_secondary_background_fill_hover_dark="#34363e",
        button_secondary_border_color="*border_color_primary",
        button_border_width="1px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#222226",
        input_border_width="1px",
        slider_color="*primary_500",
    )
