"""Writes a page that shows what a config's augmentations make of its training images.

    python -m ipg_jax.cli.augmented --config=configs/NAME.py [--config.data...] [--out=DIR]

`DIR/augmented.html` needs no other file. Trains nothing.
"""

from absl import flags
from etils import epath
from ml_collections import config_flags

from ipg_jax.cli import program

CONFIG = config_flags.DEFINE_config_file("config", None, "Of the run.", lock_config=True)
OUT = flags.DEFINE_string("out", ".", "Folder to write augmented.html into, local or gs://.")
IMAGES = flags.DEFINE_integer("images", 3, "How many images are shown.", 1, 100)
EPOCHS = flags.DEFINE_integer("epochs", 3, "How often each, with all augmentations.", 1, 100)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.analysis.augmented import augmented_page
    from ipg_jax.files import make_folder, write_whole
    from ipg_jax.training import command_line
    from ipg_jax.training.build_data import build_augmented

    command_line.start()
    source, settings = build_augmented(CONFIG.value)
    page = augmented_page(source, **settings, num_images=IMAGES.value, epochs=EPOCHS.value)
    folder = epath.Path(command_line.home(OUT.value))
    make_folder(folder)
    write_whole(folder / "augmented.html", page.encode())
    print(f"wrote {folder / 'augmented.html'}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    program.run(main)
