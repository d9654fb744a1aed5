"""Settings of the manual. `make -C docs html` builds it; Sphinx reads this file."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))  # where the extension is

project = "patchrec-hf"
author = "The patchrec-hf contributors"
project_copyright = author
release = version = version_of("patchrec-hf")

extensions = ["myst_nb", "api_reference", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True  # a cross reference without an entry is a warning, and warnings are errors

# Pages are Markdown that GitHub shows too: its anchors of headings, and its tables.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "off"  # tests/docs/test_notebook.py executes it; the manual shows its committed outputs

autodoc_typehints = "none"  # the docstrings state types, shapes and units
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": True}
python_display_short_literal_types = True
add_module_names = False

html_theme = "furo"
html_title = f"patchrec-hf {release}"
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
