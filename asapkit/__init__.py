"""asapkit: a notebook-first research workbench for volumetric chest-CT vision-language pre-training.

`import asapkit` is lazy: submodules load when they are first named, so neither torch nor napari is imported here.
"""

from importlib import import_module, metadata
from pkgutil import iter_modules

__version__ = "0.1.0"

MODULES = tuple(sorted(m.name for m in iter_modules(__path__) if not m.name.startswith("_")))


def __getattr__(name: str):
    if name in MODULES:
        return import_module(f"asapkit.{name}")
    raise AttributeError(f"asapkit has no module {name!r}; there are {', '.join(MODULES)}")


def version() -> str:
    """Version of the installed distribution, or of this source tree."""
    try:
        return metadata.version("asapkit")
    except metadata.PackageNotFoundError:
        return __version__
