"""Loads a script as a module under a name of its own: `evaluate` is a library, too."""

import importlib.util
import sys
from contextlib import contextmanager


@contextmanager
def loaded_script(path):
    """Returns the script at `path` as a module, and forgets it afterwards."""
    name = f"{path.stem}_script"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]
