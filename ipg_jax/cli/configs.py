"""Lists the configs that come with the package, or says how large the model of one is.

ipg-jax configs
ipg-jax configs --config=retinanet_ipg
ipg-jax configs --config=retinanet_ipg:depth=101 --config.image_size="(1080, 1920)"
"""

import ast
import pathlib

from ml_collections import config_flags

from ipg_jax.cli import program
from ipg_jax.cli.config_files import config_files

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Print parameters, operations and memory of its model.", lock_config=True
)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    command_line.start()
    print(list_configs() if CONFIG.value is None else model_table())


def list_configs() -> str:
    """Returns a line for each config: its name and the first line of its docstring."""
    texts = {}
    for name, path in config_files().items():
        document = ast.get_docstring(ast.parse(pathlib.Path(path).read_text())) or ""
        texts[name] = document.partition("\n")[0]
    width = max(map(len, texts))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in texts.items())


def model_table() -> str:
    """Returns what the model of the flag's config takes, as a table."""
    from ipg_jax.training.build_summary import summarize_model

    summary = summarize_model(CONFIG.value)
    parameters = dict(summary.parameters) | {"all": sum(summary.parameters.values())}
    width = max(map(len, parameters))
    lines = [
        f"{name.ljust(width)}  {count / 1e6:8.2f} M parameters"
        for name, count in parameters.items()
    ]
    height, image_width = summary.image_size
    return "\n".join(
        [
            *lines,
            "",
            f"for an image of {height} x {image_width}:",
            f"  {summary.flops / 1e9:,.1f} GFLOP to detect (a multiply-add counts as two)",
            f"  {summary.kept_bytes / 2**20:,.0f} MiB at most are kept for the backward pass",
            f"{summary.state_bytes / 2**20:,.0f} MiB of parameters, optimizer and averages",
        ]
    )


def run() -> None:
    """Parses the flags and prints."""
    program.run(main, __name__)


if __name__ == "__main__":
    run()
