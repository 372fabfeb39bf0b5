"""How every command line begins and ends: flags, the work, and errors as users can read them."""

from __future__ import annotations

import contextlib
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator

from absl import app, flags
from ml_collections import ConfigDict

from ipg_jax.cli.config_files import with_config_files
from ipg_jax.errors import RunStoppedError

USER_ERROR = 2
"""The exit code of errors that are the user's, as argparse has it; others end in 1."""

Main = Callable[[list[str]], None]
Parse = Callable[[list[str]], list[str]]


def run(main: Main, module: str, parse: Parse = flags.FLAGS, *, positional: bool = False) -> None:
    """Parses the flags, runs the program and exits.

    A value of `--config` that names one of the package's configs stands for its file
    (`configs.with_config_files`).

    An error that is the user's (`is_users`) ends the process in one line, `error: ...`, and with
    the exit code 2; the flag `--traceback`, which is defined here, shows where it was raised. Any
    other error ends it in its traceback.

    Args:
      main: the program, which gets its name and the arguments that are no flags.
      module: that of the program, whose docstring and flags `--help` shows.
      parse: from all arguments to these.
      positional: whether there may be arguments that are no flags.
    """
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
    flags.DEFINE_bool(
        "traceback",
        False,
        "Show where an error was raised, also if it is one of the flags, the config or the files.",
        module_name=sys.argv[0],  # for --help
    )

    def parse_flags(arguments: list[str]) -> list[str]:
        with users_errors_in_one_line():
            try:
                left = parse(with_config_files(arguments))
                check_config()
                return left
            except SyntaxError as error:  # of the config file
                raise flags.Error(f"{error.filename}, line {error.lineno}: {error.msg}") from error
            except (AttributeError, KeyError) as error:
                if "'get_config'" in str(error):
                    raise flags.Error(
                        "the file that --config names has no function get_config, which returns "
                        "the config"
                    ) from error
                if _raised_in(error, "ml_collections", "configs"):
                    said = " ".join(_message(error).split())
                    if not said.startswith("config."):
                        said = f"there is no such field of the config: {said}"
                    raise flags.Error(said) from error
                raise

    def run_main(arguments: list[str]) -> None:
        with users_errors_in_one_line():
            if arguments[1:] and not positional:
                raise app.UsageError(f"{' '.join(arguments[1:])!r} is no flag: those begin with --")
            main(arguments)

    app.run(run_main, flags_parser=parse_flags)


def check_config(values: flags.FlagValues = flags.FLAGS) -> None:
    """Raises flags.Error where a file that `--config` names makes something else than a config."""
    if "config" not in values or not values["config"].present:
        return
    config = values["config"].value
    if not isinstance(config, ConfigDict):
        raise flags.Error(
            "get_config of the file that --config names has to return a ConfigDict, not "
            f"{type(config).__name__}: start it from default_config() of configs/common.py"
        )


@contextlib.contextmanager
def users_errors_in_one_line() -> Iterator[None]:
    """Ends the process where the block raises an error that is the user's; see `run`."""
    try:
        yield
    except Exception as error:
        parsed = flags.FLAGS.is_parsed() and "traceback" in flags.FLAGS
        wanted = flags.FLAGS.traceback if parsed else "--traceback" in sys.argv
        if wanted or not is_users(error):
            raise
        print(f"error: {_message(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)


def is_users(error: Exception) -> bool:
    """Returns whether an error is one of what the program was given, and not of the program.

    Those are errors of flags and of the file system, runs that stopped for their data or settings,
    and what this package or a config says no to by a `raise` of its own. A ValueError that comes
    out of a library, such as one of shapes that do not fit, is a fault of the program.
    """
    if isinstance(error, OSError | flags.Error | app.UsageError | RunStoppedError):
        return True
    return isinstance(error, ValueError | ImportError) and _raised_in(error, "ipg_jax", "configs")


def _raised_in(error: Exception, *packages: str) -> bool:
    """Whether the innermost line of an error is a `raise` in one of these packages."""
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    line = linecache.getline(frame.f_code.co_filename, number, frame.f_globals)
    return package in packages and line.lstrip().startswith("raise ")


def _message(error: BaseException) -> str:
    """What an error says."""
    if isinstance(error, AttributeError | KeyError) and error.args:  # whose str() is a repr()
        inner = error.args[0]
        return _message(inner) if isinstance(inner, BaseException) else str(inner)
    text = str(error).strip()
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if "config file" in text:  # by ml_collections, with all that led there; the last line says it
        text = text.rpartition("\n")[2].strip().removeprefix("ValueError: ")
    return text
