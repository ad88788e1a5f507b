"""Sphinx's settings. build.py writes the pages into the folder that this file is copied to."""

from pathlib import Path

import web
from web.chapter import all_pages

ROOT = Path(__file__).resolve().parents[2]  # of the checkout whose build/web-source/conf.py this is

project = "LoRA from scratch"
language = "en"
extensions = ["myst_parser", "web.extension"]
chapter_pages = all_pages(ROOT)

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "math_core"
add_module_names = False
nitpicky = False  # annotations name classes of other libraries

templates_path = [str(Path(web.__file__).parent / "templates")]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"  # B and A
html_css_files = ["book.css"]
html_js_files = ["copy.js", "more.js", "predictions.js", "ledger.js"]
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # a browser may not read other pages under file://
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
