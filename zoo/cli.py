"""What every command line of the zoo shares: `--config.key=value`, and errors as one line with an exit code.

Exit codes: 0 done, 2 a mistake in what was asked for, 3 a loss or gradient that is not finite, 130 and 143 stopped by
Ctrl-C and SIGTERM after saving.
"""

import ast
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from zoo.errors import Interrupted, NonFiniteError, UserError


def take_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Splits `--config.key=value` and `--config.key value` off: (the other arguments, [(key, value), ...])."""
    rest, overrides, arguments = [], [], iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if not match:
            rest.append(argument)
            continue
        value = match[2] if match[2] is not None else next(arguments, None)
        if value is None or (match[2] is None and value.startswith("--")):
            raise UserError(f"{argument} needs a value: {argument}=...")
        overrides.append((match[1], value))
    return rest, overrides


def pairs(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """The values of a flag that takes `name=value`; a value is a Python literal, or else a word."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--{flag}={text}: it must be name=value")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def define_picture(name: str, default: str | None, help: str) -> None:
    """A flag for the PNG that a script writes; a name with another ending is refused before anything is computed."""
    flags.DEFINE_string(name, default, help)
    flags.register_validator(
        name, lambda path: path is None or path.lower().endswith(".png"), "its name must end with .png"
    )


def run(main: Callable, argv: Sequence[str] | None = None, *, takes_arguments: bool = False) -> None:
    """Parses the flags, calls `main(overrides)` and exits; expected failures print one line on stderr.

    With `takes_arguments`, arguments that are no flags go to `main(overrides, arguments)`; else they are refused.
    """
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    argv = sys.argv if argv is None else argv
    if {"--help", "-h", "--helpfull"} & set(argv):
        print(sys.modules["__main__"].__doc__.strip())
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        rest, overrides = take_overrides(argv)
        arguments = flags.FLAGS(rest)[1:]
        if takes_arguments:
            main(overrides, arguments)
            return
        if arguments:
            what = "the recipe as --config=FILE" if arguments[0].endswith(".py") else "settings as --config.key=value"
            raise UserError(f"unexpected argument {arguments[0]!r}; give {what}")
        main(overrides)
    except (UserError, flags.Error) as error:
        _exit(2, f"error: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        _exit(2, f"error: cannot read or write {error.filename}: {error.strerror}")
    except NonFiniteError as error:
        _exit(3, f"error: {error}")
    except Interrupted as error:
        _exit(128 + error.signum, str(error))
    except KeyboardInterrupt:
        _exit(130, "interrupted")


def _exit(code: int, message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)
