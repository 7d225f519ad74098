"""``subquad client info|generate|score``: ask a running server."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subquad.server.commands.failures import Traceback, one_line_errors
from subquad.server.errors import SettingsError

if TYPE_CHECKING:
    from subquad.server.client import GenomicsClient

Target = Annotated[str, typer.Option(help="HOST:PORT, or a gRPC target of several servers.")]
TokenFile = Annotated[Path | None, typer.Option(help="File that holds the bearer token.")]
TlsRoots = Annotated[Path | None, typer.Option(help="PEM roots that verify the server; turns TLS on.")]
TlsCertificate = Annotated[Path | None, typer.Option(help="PEM chain that this client shows.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM key of that chain.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds a request may take.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Ascii = Annotated[bool, typer.Option("--ascii", help="Accept any printable ASCII instead of A C G T N.")]

DEFAULT_TARGET = "127.0.0.1:50051"
client = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@client.command()
def info(
    target: Target = DEFAULT_TARGET,
    token_file: TokenFile = None,
    tls_roots: TlsRoots = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Describe the served model and the limits of the server."""
    with (
        one_line_errors(traceback=traceback),
        _connect(target, token_file, tls_roots, tls_certificate, tls_key, timeout) as server,
    ):
        model = asdict(server.get_model())
        if as_json:
            print(json.dumps(model))
            return
        limits = model.pop("limits")
        for name, value in [*model.items(), *limits.items()]:
            shown = f"{value[0]} … {value[-1]} ({len(value)})" if isinstance(value, tuple) and value else value
            print(f"{name}: {shown}")


@client.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Sequence to extend; - reads it from stdin.", show_default=False)],
    *,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the most likely tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the smallest set that reaches this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Default: the server draws one.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this sequence; may be repeated.")] = None,
    num_samples: Annotated[int, typer.Option(help="Independent continuations.")] = 1,
    target: Target = DEFAULT_TARGET,
    token_file: TokenFile = None,
    tls_roots: TlsRoots = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    timeout: Timeout = None,
    ascii_alphabet: Ascii = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Extend a prompt; one sample is printed as it is generated."""
    with (
        one_line_errors(traceback=traceback),
        _connect(target, token_file, tls_roots, tls_certificate, tls_key, timeout) as server,
    ):
        stream = server.generate(
            sys.stdin.read().strip() if prompt == "-" else prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop or (),
            num_samples=num_samples,
            return_logprobs=as_json,
            alphabet="ascii" if ascii_alphabet else "dna",
        )
        if num_samples == 1 and not as_json:
            for piece in stream.text_pieces():
                print(piece, end="", flush=True)
            print()
            return
        for sample in stream.result():
            print(json.dumps(asdict(sample)) if as_json else sample.text)


@client.command()
def score(
    sequences: Annotated[list[str], typer.Argument(help="Sequences; - reads one a line.", show_default=False)],
    *,
    both_strands: Annotated[bool, typer.Option("--both-strands", help="Average with the reverse complement.")] = False,
    prepend_eod: Annotated[bool, typer.Option("--prepend-eod", help="Score the first token too.")] = False,
    target: Target = DEFAULT_TARGET,
    token_file: TokenFile = None,
    tls_roots: TlsRoots = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    timeout: Timeout = None,
    ascii_alphabet: Ascii = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Print the log-likelihood of each sequence and the number of its scored tokens."""
    with (
        one_line_errors(traceback=traceback),
        _connect(target, token_file, tls_roots, tls_certificate, tls_key, timeout) as server,
    ):
        scores = server.score(
            sys.stdin.read().split() if sequences == ["-"] else sequences,
            strand="both" if both_strands else "forward",
            prepend_eod=prepend_eod,
            return_logprobs=as_json and not (both_strands and not prepend_eod),
            alphabet="ascii" if ascii_alphabet else "dna",
        )
        for result in scores:
            line: Any = (
                json.dumps(asdict(result)) if as_json else f"{result.log_likelihood:.6f}\t{result.scored_tokens}"
            )
            print(line)


def _connect(
    target: str,
    token_file: Path | None,
    tls_roots: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    timeout: float | None,
) -> "GenomicsClient":
    from subquad.server.channel import Connection
    from subquad.server.client import GenomicsClient

    if (tls_certificate is None) != (tls_key is None):
        raise SettingsError("tls-certificate and tls-key go together; one of them is missing")
    connection = Connection(
        target,
        token=None if token_file is None else _read(token_file).decode("ascii", "replace").split()[0],
        root_certificates=None if tls_roots is None else _read(tls_roots),
        client_certificate=None if tls_certificate is None else _read(tls_certificate),
        client_key=None if tls_key is None else _read(tls_key),
    )
    return GenomicsClient(connection, timeout=timeout)


def _read(path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; accepted: a readable file") from None
    if not text.strip():
        raise SettingsError(f"{path} is empty")
    return text
