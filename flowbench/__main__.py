"""The `flowbench` command: run it, and turn every error into one line and an exit code."""

import errno
import os
import signal
import sys
import traceback
from typing import NoReturn

from flowbench.errors import FlowbenchError, InputError, is_out_of_memory, why
from flowbench.system.credentials import ScrubbedStream, scrubbed
from flowbench.system.interruption import Interrupted, raised_at_sigterm

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and leave with the exit codes of the README (0, 1, 2, 3, 130, 143)."""
    # Addresses may hold passwords, and libraries log, warn and raise with whole addresses.
    sys.stderr = ScrubbedStream(sys.stderr)
    # --debug is taken from anywhere in the line, so that people can add it to the end of what just failed.
    debug = "--debug" in sys.argv
    try:
        imported, arguments = _imports([argument for argument in sys.argv[1:] if argument != "--debug"])
        if imported or "FLOWBENCH_IMPORTS" in os.environ:
            from flowbench.config.extensions import import_extension, import_inherited, pass_on

            import_inherited()
            for what in imported:
                import_extension(what)
            pass_on(imported)
        from flowbench.cli import app

        with raised_at_sigterm():
            code = app(args=arguments, prog_name="flowbench", standalone_mode=False)
    except FlowbenchError as error:
        if debug:
            _show(error)
        _leave(None if error.told else str(error), error.exit_code)
    except KeyboardInterrupt:
        _leave("interrupted", 128 + signal.SIGINT)
    except Interrupted as stop:
        _leave(str(stop), stop.exit_code)
    except Exception as error:
        if debug:
            _show(error)
        message, code = _explain(error)
        _leave(message, code)
    if code == 128 + signal.SIGINT:
        _leave("interrupted", code)  # typer has caught it
    sys.exit(code if isinstance(code, int) else 0)


def _imports(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what `--import` asks for, taken from anywhere in the line, and the line without it."""
    imported: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return imported, [*others, word, *words]
        if word == "--import":
            what = next(words, None)
            if what is None:
                raise InputError("--import: name a file or a module, for example --import mine.py")
            imported.append(what)
        elif word.startswith("--import="):
            imported.append(word.removeprefix("--import="))
        else:
            others.append(word)
    return imported, others


def _explain(error: Exception) -> tuple[str, int]:
    """Return one line and the exit code for an error that is not our own."""
    # Usage errors come from the click that typer carries inside or depends on, according to its version.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "flowbench"
        what = error.format_message() or "name a command"  # without one the help was printed, and the error is empty
        if getattr(getattr(error, "param", None), "name", None) in ("experiment", "experiments"):
            what = f"{what.rstrip('.')}: flowbench list experiments shows what there is"
        return f"{what} (see {command} --help)", int(error.exit_code)
    if is_out_of_memory(error):
        return "out of memory: give a smaller data.batch_size, for example half of it (data.batch_size=32)", 3
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'the disk'}: no space left: free some and run the same command again", 3
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {why(error)}", 2
    detail = " ".join(str(error).split())[:300]
    return f"unexpected {type(error).__name__}: {detail} (run again with --debug for the traceback and report it)", 3


def _show(error: Exception) -> None:
    """Print the traceback; the errors in it may quote whatever was given."""
    sys.stderr.write(scrubbed("".join(traceback.format_exception(error))))


def _leave(message: str | None, code: int) -> NoReturn:
    if message is not None:
        print(f"flowbench: {scrubbed(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
