"""`securegw token revoke`: a token is not believed any more, and the sessions that it opened end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from gateway.cli.errors import Failure
from gateway.cli.files import STREAM
from gateway.cli.options import as_json
from gateway.cli.output import compact, printable, say, write
from gateway.cli.running import TakenUp, take_up
from gateway.cli.settings import Installation
from gateway.cli.token_files import sections, token_file
from gateway.cli.token_lists import Concerned, Listed, by_jti, by_token, put_on_lists


@click.command()
@click.argument("jti", required=False)
@token_file
@click.option(
    "--jwt",
    "jwt_name",
    metavar="NAME",
    help="The jti is one of [jwt:NAME]. Default: of any section that has a list. A token: has to be believed there.",
)
@as_json
@click.pass_obj
def revoke(
    installation: Installation, jti: str | None, token_file: str | None, jwt_name: str | None, as_json: bool
) -> None:
    """Revoke a token.

    By its jti or by itself: writes it to the list of each [jwt:NAME] that believes it, and reloads the running gateway,
    which ends the sessions that it has opened. Of a jti alone, these are the section that --jwt names, or else all that
    have a list, and in either case those that trust one of the same keys.

    The status is 1 if one of them has no list, if the reload fails, or if nobody answers at [control] socket, though
    the line stays in the lists that have it.

    Of a token that the gateway believes the line can go from the list once it has expired; of a jti alone nobody knows
    until when, so that line stays.

    \b
    Examples:
      securegw token revoke 8c1f8e0f6c9d4c1f9a3b5d7e9f012345
      securegw token revoke --token-file alice.token
    """
    if (jti is None) == (token_file is None):
        raise click.UsageError("give either the jti or --token-file")
    if jti is not None:
        _refuse_token(jti)
    found = sections(installation, jwt_name)
    if token_file is not None:
        concerned = by_token(token_file, found)
    else:
        assert jti is not None  # one of the two was given
        concerned = by_jti(jti, found)
    listed = put_on_lists(concerned, found.config)
    done = take_up(installation)
    if as_json:
        files = {section: file and str(file) for section, file in listed.files.items()}
        write([compact({"jti": concerned.jti, "files": files, "new": listed.new, "reloaded": done.reloaded})])
    else:
        _tell(concerned, listed)
    _insist(done, listed)
    if done.reloaded and not as_json:
        _tell_in_force(concerned, everywhere=len(concerned.sections) == len(found.config.jwt))


def _refuse_token(jti: str) -> None:
    """The token itself, or its file, in the place of its jti: on the list it would take nothing back. Raises
    UsageError."""
    from gateway.jose import base64url, json_object

    shown = "a jti is what `securegw token inspect` shows"
    if jti == STREAM:
        raise click.UsageError(f"- is standard input: say --token-file -; {shown}")
    with suppress(OSError, ValueError):  # no file is called so
        if Path(jti).exists() and not Path(jti).is_dir():
            raise click.UsageError(printable(f"{jti} is a file: say --token-file {jti}; {shown}"))
    with suppress(ValueError):
        header, dot, _ = jti.partition(".")
        if dot and json_object(base64url(header.encode())):
            raise click.UsageError(
                "this is a token, which every user of the machine can read while it is an argument: write it to a file "
                f"for its owner alone, and say --token-file FILE; {shown}"
            )


def _tell(concerned: Concerned, listed: Listed) -> None:
    lists = tuple(dict.fromkeys(str(file) for file in listed.files.values() if file is not None))
    where = "the list of revoked tokens" if len(lists) == 1 else f"the lists of revoked tokens {' and '.join(lists)}"
    known = concerned.expires is not None
    on = f"is on {where}." if listed.new else f"was on {where} before."
    words = f"The {'token' if known else 'jti'} {concerned.jti} {on}"
    say(words if known else f"{words} Whether there is a token that has it is not known here.")


def _tell_in_force(concerned: Concerned, *, everywhere: bool) -> None:
    """everywhere: there is no section that could believe another token of that jti."""
    if concerned.expires is not None:
        say(f"The token {concerned.jti} is refused from now on.")
        return
    by = "" if everywhere else f" by {' and '.join(f'[jwt:{one.name}]' for one in concerned.sections)}"
    say(f"Every token with the jti {concerned.jti} is refused{by} from now on.")


def _insist(done: TakenUp, listed: Listed) -> None:
    """Raises Failure if the token is still believed somewhere, or nobody knows."""
    reasons: tuple[str, ...] = ()
    try:
        done.insist("Reload the gateway for it to take effect.")
    except Failure as error:
        reasons = (error.message,)
    if listed.missing:
        reasons += ("the token is not revoked everywhere:", *listed.missing)
    if reasons:
        raise Failure("\n".join(reasons))
