"""The version of the package: `sur_adapter.__version__`, `sur-adapter --version`, and the version of the wheel."""

__version__ = "0.1.0"
