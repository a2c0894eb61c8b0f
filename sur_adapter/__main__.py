"""`python -m sur_adapter COMMAND …` is `sur-adapter COMMAND …`."""

from sur_adapter.cli.main import run

if __name__ == "__main__":
    run("python -m sur_adapter")
