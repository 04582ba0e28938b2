"""How the page looks: Gradio's theme and the style sheet. It uses system fonts, so nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes import Color

STATIC = Path(__file__).parent / "static"
STYLE = STATIC / "page.css"

ACCENT = "#0f766e"

TEAL = Color(
    c50="#f0fdfa", c100="#ccfbf1", c200="#99f6e4", c300="#5eead4", c400="#2dd4bf", c500="#0f9185",
    c600=ACCENT, c700="#115e59", c800="#134e4a", c900="#0c3f3c", c950="#042f2e", name="lab-teal",
)  # fmt: skip

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]


COLORS_AND_LINES = {
    "body_background_fill": "#f6f7f9",
    "body_background_fill_dark": "#0e1116",
    "body_text_color": "#1b2430",
    "body_text_color_dark": "#e4e8ee",
    "body_text_color_subdued": "#5a6675",
    "body_text_color_subdued_dark": "#9aa6b5",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#161b22",
    "block_border_color": "#e1e5ea",
    "block_border_color_dark": "#2a313b",
    "block_label_text_weight": "500",
    "block_title_text_color": "*body_text_color",
    "block_title_text_weight": "500",
    "block_info_text_color": "*body_text_color_subdued",
    "border_color_primary": "#dde2e8",
    "border_color_primary_dark": "#2d3540",
    "border_color_accent_dark": "*primary_600",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#161b22",
    "background_fill_secondary": "#f3f5f7",
    "background_fill_secondary_dark": "#1c222b",
    "color_accent": "*primary_600",
    "color_accent_soft": "*primary_50",
    "color_accent_soft_dark": "#123330",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#0e1319",
    "input_border_color": "#cbd2da",
    "input_border_color_dark": "#394350",
    "input_border_color_focus": "*primary_600",
    "input_border_color_focus_dark": "*primary_400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_500",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#ffffff",
    "button_secondary_background_fill": "#ffffff",
    "button_secondary_background_fill_dark": "#1c222b",
    "button_secondary_border_color": "#cbd2da",
    "button_secondary_border_color_dark": "#394350",
    "button_cancel_background_fill": "#b91c1c",
    "button_cancel_background_fill_dark": "#991b1b",
    "button_cancel_background_fill_hover": "#991b1b",
    "button_cancel_background_fill_hover_dark": "#b91c1c",
    "button_cancel_border_color": "#b91c1c",
    "button_cancel_border_color_dark": "#991b1b",
    "button_cancel_text_color": "#ffffff",
    "button_cancel_text_color_dark": "#ffffff",
    "checkbox_background_color_selected": "*primary_600",
    "checkbox_background_color_selected_dark": "*primary_600",
    "checkbox_border_color_selected": "*primary_600",
    "checkbox_border_color_selected_dark": "*primary_600",
    "input_border_width": "1px",
    "button_border_width": "1px",
    "button_large_radius": "*radius_md",
    "button_small_radius": "*radius_md",
}
"""Differences from Gradio's base theme; names that end in `_dark` apply in dark mode."""


def theme() -> gr.themes.Base:
    """One accent on neutral grays, compact, in light and dark."""
    base = gr.themes.Base(
        primary_hue=TEAL,
        secondary_hue=TEAL,
        neutral_hue="slate",
        font=SANS,
        font_mono=MONO,
        text_size="sm",
        spacing_size="sm",
        radius_size="md",
    )
    return base.set(**COLORS_AND_LINES)
