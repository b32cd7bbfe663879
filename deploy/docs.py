"""Make the pages of the Python API from the docstrings, by pdoc (`pip install -e '.[docs]'`).

    python deploy/docs.py FOLDER

The first page is that of `ctp`. Its docstring names the modules that have pages.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import pdoc

import ctp


def public_modules() -> list[str]:
    """Return the names of the public modules: `ctp`, and those that its docstring names."""
    return ["ctp", *dict.fromkeys(re.findall(r"`(ctp\.[\w.]+)`", ctp.__doc__ or ""))]


def make_pages(folder: Path) -> None:
    """Write the pages of the public modules into a folder; `index.html` shows that of `ctp`."""
    modules = public_modules()
    for name in ctp.__all__:
        # the functions are imported when they are used, which pdoc does not know
        setattr(ctp, name, getattr(ctp, name))
    for module in map(import_module, modules):
        for value in vars(module).values():
            if isinstance(value, type) and hasattr(value, "_fields"):
                # Python makes it in a module of its own, where pdoc does not find the fields' types
                value.__new__.__module__ = value.__module__
                # "Alias for field number 0": the docstring of the class says more
                for made in (value.__new__, *(getattr(value, name) for name in value._fields)):
                    made.__doc__ = ""
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*modules, output_directory=folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"got {len(sys.argv) - 1} arguments, expected one: the folder for the pages")
    make_pages(Path(sys.argv[1]))
    print(f"open {Path(sys.argv[1], 'index.html')}")
