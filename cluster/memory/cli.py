"""Command line of ``leworld memory``; what is heavy is imported by the commands that need it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.lazy import LazyModule
from cluster.cli.options import Json, print_outcome
from cluster.messages import say_renamed

if TYPE_CHECKING:
    from cluster.memory import commands, forks, opening, output
    from cluster.memory import serve as serving
    from cluster.memory.speed import bench as speed
    from cluster.memory.speed import output as speed_output
else:
    commands, forks, opening, output, serving, speed, speed_output = (
        LazyModule(f"cluster.memory.{name}")
        for name in ("commands", "forks", "opening", "output", "serve", "speed.bench", "speed.output")
    )

memory = typer.Typer(
    name="memory",
    help="Write, read, search, undo, erase and serve memories on disk.\n\n"
    "TARGET is a memory's directory, a run's (its memory is made of the newest checkpoint where it has none yet), or a"
    " server's address (tcp://... or ipc://...), or ray:NAME for a memory of a Ray cluster.",
    no_args_is_help=True,
)


class Format(StrEnum):
    """How words are printed."""

    hex = "hex"
    dec = "dec"
    bits = "bits"
    raw = "raw"


class Policy(StrEnum):
    """When a write is on the disk."""

    always = "always"
    group = "group"
    os = "os"


Target = Annotated[
    str,
    typer.Argument(
        help="A memory's directory, a run's (runs/latest), a server's address, or ray:NAME.", show_default=False
    ),
]
Directory = Annotated[str, typer.Argument(help="A memory's directory, or a run's (runs/latest).", show_default=False)]
Where = Annotated[str, typer.Argument(help="An address, decimal or hex (0x10).", show_default=False)]
Token = Annotated[str, typer.Option(envvar="LEWORLD_TOKEN", help="Says to a server who you are.", show_default=False)]
As = Annotated[
    str | None, typer.Option("--as", help="Read a directory as this one may. By default admin.", show_default=False)
]
Limit = Annotated[int, typer.Option(min=1, help="How many to list.")]
Name = Annotated[str, typer.Argument(help="Of the version.", show_default=False)]


@memory.command()
def create(
    directory: Annotated[Path, typer.Argument(help="Where: empty, or not there yet.", show_default=False)],
    bits: Annotated[int, typer.Option(help="Of an address: 8, 16, 24 or 32; so there are 2^BITS words.")] = 32,
    as_json: Json = False,
) -> None:
    """Make an empty memory.

    It takes disk space only for what is written, and 4.5 bytes a page of 256 words: 72 MiB for 2^32 words.
    """
    give(lambda: commands.create(directory, bits), as_json, output.created)


@memory.command()
def write(
    target: Target,
    address: Where,
    words: Annotated[
        list[str] | None, typer.Argument(help="Words of 32 bits, decimal or hex.", show_default=False)
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Take little-endian words from a file, or from standard input (-).")
    ] = None,
    writer: Annotated[
        str | None, typer.Option(help="Who writes, for the log and for rights. By default your login.")
    ] = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Write words from an address on.

    However many they are, they are one write, and on the disk when this ends.
    """
    give(lambda: commands.write(target, address, words or [], file, writer, token), as_json, output.receipt)


@memory.command()
def read(
    target: Target,
    address: Where,
    length: Annotated[str, typer.Argument(help="How many words.")] = "1",
    format: Annotated[Format, typer.Option(help="raw is little-endian bytes.")] = Format.hex,
    version: Annotated[str | None, typer.Option(help="Read a version that is kept, not what is there now.")] = None,
    who: As = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Read words from an address on.

    Lines like the one before are left out, and a * stands for them.
    """

    def show(stretch: commands.Stretch) -> None:
        if as_json:
            print_outcome(commands.as_list(stretch), True, output.raw)
        elif format is Format.raw:
            output.raw(stretch)
        else:
            output.dump(stretch, format.value)

    with opening.plain_errors():
        commands.read(target, address, length, version, who, token, show)


@memory.command()
def find(
    target: Target,
    words: Annotated[list[str], typer.Argument(help="One word, or some in a row.", show_default=False)],
    mask: Annotated[str, typer.Option(help="The bits that count.")] = "0xffffffff",
    limit: Limit = 20,
    version: Annotated[str | None, typer.Option(help="Search a version that is kept.")] = None,
    who: As = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """List the addresses at which words occur.

    Only pages that hold anything are searched: what was never written is not found.
    """
    give(lambda: commands.find_words(target, words, mask, limit, who, version, token), as_json, output.found)


@memory.command()
def diff(
    target: Target,
    before: Annotated[str, typer.Argument(help="A version.", show_default=False)],
    after: Annotated[str, typer.Argument(help="Another one, or now.")] = "now",
    limit: Limit = 20,
    who: As = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """List the words that differ between two versions."""
    give(lambda: commands.diff(target, before, after, limit, who, token), as_json, output.differences)


@memory.command()
def log(
    target: Target,
    limit: Limit = 20,
    address: Annotated[str | None, typer.Option(help="Only writes that touched this word.")] = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """List the last writes, the newest first."""
    give(lambda: commands.log(target, limit, address, token), as_json, output.records)


@memory.command()
def why(target: Target, address: Where, who: As = None, token: Token = "", as_json: Json = False) -> None:
    """Show which write set a word: when, who, and what else."""
    give(lambda: commands.why(target, address, who, token), as_json, output.reason)


@memory.command()
def version(target: Target, name: Name, token: Token = "", as_json: Json = False) -> None:
    """Keep the content of now as a version.

    This takes no time, however large the memory is, and space only for what changes later.
    """
    give(
        lambda: commands.change(target, token, lambda memory: memory.create_version(name)),
        as_json,
        output.created_version,
    )


@memory.command()
def fork(
    target: Directory,
    copy: Annotated[Path, typer.Argument(help="Where: empty, or not there yet.", show_default=False)],
    version: Annotated[str, typer.Option(help="Begin as a version that is kept, not as what is there now.")] = "now",
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Make another memory that begins with this content.

    It is done at once, however large the memory is. From then on each is written by itself. The fork takes over the
    words while it is open for writing; until it holds all of them (fill) it needs this memory where it is.
    """
    give(lambda: forks.fork(target, copy, version, token), as_json, output.forked)


@memory.command()
def fill(
    target: Directory,
    parent: Annotated[
        Path | None, typer.Option(help="Where the memory that it is a fork of is now.", show_default=False)
    ] = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Have a fork hold everything, so that it needs the memory no more that it was made from."""
    give(lambda: forks.fill(target, parent, token), as_json, output.whole)


@memory.command()
def versions(target: Target, token: Token = "", as_json: Json = False) -> None:
    """List the versions that are kept."""
    give(lambda: commands.versions(target, token), as_json, output.version_list)


@memory.command()
def rollback(target: Target, name: Name, token: Token = "", as_json: Json = False) -> None:
    """Make the content that of a version again.

    This is a write like any other. Keep a version of now first, and you can undo it.
    """
    give(
        lambda: commands.change(target, token, lambda memory: memory.rollback_to(name)),
        as_json,
        lambda outcome: print(f"the content is that of version {name} again, since write {outcome['sequence']}"),
    )


@memory.command()
def drop(target: Target, name: Name, token: Token = "", as_json: Json = False) -> None:
    """Delete a version, and free the space that only it needs."""
    give(
        lambda: {"dropped": name, **commands.change(target, token, lambda memory: memory.drop_version(name))},
        as_json,
        lambda _: print(f"version {name} is kept no longer"),
    )


@memory.command()
def erase(
    target: Target,
    sequence: Annotated[str, typer.Argument(metavar="WRITE", help="Its number, see log.", show_default=False)],
    receipt: Annotated[Path | None, typer.Option(help="Put the receipt into a file.")] = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Take out what a write wrote, for good.

    It is taken out of the memory, its journal and all versions; where others have written since, their words stay, and
    the log keeps who wrote where and when. The receipt, as JSON, is printed or put into a file; verify --erasure takes
    it.
    """
    give(
        lambda: commands.erase(target, sequence, receipt, token),
        as_json,
        lambda outcome: output.erased(outcome, receipt),
    )


@memory.command()
def verify(
    target: Target,
    erasure: Annotated[
        Path | None, typer.Option(help="Receipt of an erasure: see whether nothing of it is left.")
    ] = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Check every page and record against its checksum.

    The exit code is 1 where one is damaged, or with --erasure, where something is not erased.
    """
    if not commands.is_sound(give(lambda: commands.verify(target, erasure, token), as_json, output.checked)):
        raise typer.Exit(1)


@memory.command()
def stat(target: Target, token: Token = "", as_json: Json = False) -> None:
    """Show what a memory is and takes, and who has it open."""
    give(lambda: commands.stat(target, token), as_json, output.status)


@memory.command()
def grant(
    target: Target,
    first: Annotated[str, typer.Argument(help="The first address, decimal or hex.", show_default=False)],
    stop: Annotated[str, typer.Argument(help="The address after the last.", show_default=False)],
    owner: Annotated[
        str | None, typer.Argument(help="Who alone may write there, and read.", show_default=False)
    ] = None,
    readers: Annotated[str, typer.Option(help="Who may read there, too: a,b.", show_default=False)] = "",
    take_back: Annotated[bool, typer.Option("--take-back", help="Give the addresses to everyone again.")] = False,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Give addresses to someone, or take them back.

    To everyone else but the readers the words there read as zero, and only the owner can write them. What is given to
    nobody is everyone's. All that is granted is listed.
    """
    give(lambda: commands.grant(target, first, stop, owner, readers, take_back, token), as_json, output.grants)


@memory.command()
def serve(
    target: Directory,
    address: Annotated[
        str, typer.Option(help="To listen at: tcp://HOST:PORT (port 0 takes a free one) or ipc://FILE.")
    ] = "tcp://127.0.0.1:7077",
    tokens: Annotated[
        Path | None, typer.Option(help="File of lines TOKEN NAME; without it everyone on this machine is admin.")
    ] = None,
    policy: Annotated[
        Policy,
        typer.Option(help="A write is on the disk before its answer (always; group: with others), or soon (os)."),
    ] = Policy.group,
    as_json: Json = False,
) -> None:
    """Serve a memory to other processes and machines.

    Ctrl-C or SIGTERM ends it. Meanwhile commands that write into this directory go through the server by themselves.
    """
    with opening.plain_errors():
        serving.serve(target, address, tokens, policy.value, lambda outcome: output.serving(outcome, as_json))


@memory.command()
def export(
    target: Directory,
    file: Annotated[Path, typer.Argument(help="Is written whole, or not at all.", show_default=False)],
    version: Annotated[str | None, typer.Option(help="Take a version that is kept, not what is there now.")] = None,
    as_json: Json = False,
) -> None:
    """Write all words into one file.

    Words of everyone are in it; the log, the versions and the rights are not.
    """
    give(lambda: commands.export_snapshot(target, file, version), as_json, output.exported)


@memory.command("import")
def import_file(
    target: Directory,
    file: Annotated[Path, typer.Argument(help="That export made, or a checkpoint's memory.lw.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Make all words those of a file that export wrote.

    A directory that does not exist is made. Otherwise the content is replaced, as writes of their own. Keep a version
    first, and you can undo it.
    """
    give(lambda: commands.import_snapshot(target, file), as_json, output.imported)


@memory.command()
def bench(
    target: Annotated[
        str | None,
        typer.Argument(help="Read this memory, which is not changed. By default one is made.", show_default=False),
    ] = None,
    bits: Annotated[int, typer.Option(help="Of an address of the memory that is made: 8, 16, 24 or 32.")] = 16,
    seconds: Annotated[float, typer.Option(help="How long each row is speed.")] = 3.0,
    range_words: Annotated[int, typer.Option(help="Words of a range, 1 to 256.")] = 256,
    batch: Annotated[int, typer.Option(help="Ranges read at a time.")] = 8192,
    policy: Annotated[
        list[Policy] | None,
        typer.Option(help="Measure writes under this one. May come many times; by default all.", show_default=False),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Make the memory here: on the disk that is to be speed.", show_default=False),
    ] = None,
    overwrite: Annotated[
        str | None,
        typer.Option(
            "--write", metavar="ADDRESS", help="Of a served memory: overwrite 32 ranges from here on.",
            show_default=False,
        ),
    ] = None,
    token: Token = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Measure how fast memory is on this machine and disk.

    Reads, writes, starting and keeping a version, beside bare numpy and the bare disk, in turns. Without TARGET a
    memory is made in a temporary directory and deleted; a directory is only read, and so is a server unless --write
    gives words away.
    """
    chosen = tuple(each.value for each in dict.fromkeys(policy or Policy))
    given = speed.Options(target, bits, seconds, range_words, batch, chosen, directory, overwrite, token)
    give(lambda: speed.bench(given), as_json, speed_output.table)


def give(action: Callable[[], Any], as_json: bool, show: Callable[[Any], None]) -> Any:
    """Do something, and print what comes of it."""
    with opening.plain_errors():
        outcome = action()
    print_outcome(outcome, as_json, show)
    return outcome


def _keep_old_name(old: str, command: Callable[..., None]) -> None:
    """Let a command be called by the name that it had."""

    @memory.command(old, hidden=True)
    @wraps(command)
    def renamed(*arguments: Any, **options: Any) -> None:
        say_renamed(f"leworld memory {old}", f"leworld memory {command.__name__}")
        command(*arguments, **options)


_keep_old_name("snapshot", version)
_keep_old_name("restore", rollback)
