"""Which extra of the package a module needs, and an error that names it where the extra is not installed.

`pip install sur-adapter` installs what an adapter needs in a pipeline. Everything else is in extras, as docs/use.md lists them: a module
of the pipeline that is imported without its extra ends in one sentence instead of "No module named 'pandas'".
"""

import sys
from importlib.machinery import PathFinder, SourceFileLoader
from types import ModuleType

PACKAGE = __name__.partition(".")[0]
EXTRAS = {  # module, or package with its modules -> extra; the longest name counts
    "cli.demo": "demo",
    "cli.demo_page": "demo",
    "config": "pipeline",
    "data": "pipeline",
    "data.crawl": "crawl",
    "data.sources": "crawl",
    "data.scores.nsfw": "nsfw",
    "evaluation": "pipeline",
    "evaluation.metrics.iqa": "iqa",
    "executors.blob_store": "s3",
    "executors.ray": "ray",
    "features": "train",
    "generation.rewriting": "pipeline",
    "generation.writer": "pipeline",
    "io": "pipeline",
    "models.rewriter": "pipeline",
    "reporting": "pipeline",
    "tools": "pipeline",
    "training": "train",
}
ONLY_IN_THE_REPOSITORY = ("miniature",)  # packages beside this one that are in no wheel


def extra_of(module: str) -> str | None:
    """Returns the extra that a module of this package needs, such as "crawl"; None if it needs none."""
    parts = module.split(".")[1:]
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((EXTRAS[prefix] for prefix in prefixes if prefix in EXTRAS), None)


def missing_extra(module: str, library: str) -> str:
    """Formats the error for a module whose import did not find a library."""
    if library in ONLY_IN_THE_REPOSITORY:
        return f"{module} needs the package {library}, which is only in the project's repository: run it in the project's folder"
    return f"{module} needs {library}, which is not installed: pip install '{PACKAGE.replace('_', '-')}[{extra_of(module)}]'"


class ModuleLoader(SourceFileLoader):
    """Loads a module as Python does, but names the extra if a library is missing."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library == PACKAGE or not library or not (extra_of(module.__name__) or library in ONLY_IN_THE_REPOSITORY):
                raise
            raise ModuleNotFoundError(missing_extra(module.__name__, library), name=error.name, path=error.path) from error


class ModuleFinder(PathFinder):
    """Finds the modules of this package, and no others."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if not name.startswith(f"{PACKAGE}."):
            return None
        spec = super().find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = ModuleLoader(spec.loader.name, spec.loader.path)
        return spec


def name_extras_in_errors() -> None:
    """Makes every later import of a module of this package name the extra that it needs. A second call changes nothing."""
    if ModuleFinder not in sys.meta_path:
        sys.meta_path.insert(0, ModuleFinder)
