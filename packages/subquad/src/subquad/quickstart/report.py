"""Prints what the main job found."""

from rich.console import Console
from rich.table import Table

from subquad.quickstart.run import QuickstartResult


def print_report(result: QuickstartResult, console: Console) -> None:
    """Prints the comparison with the baselines, the generation, the two scores and where everything is."""
    training = result.training
    table = Table(title=f"bits per base on {training.held_out_bases} held-out bases (lower is better)")
    table.add_column("model")
    table.add_column("bits", justify="right")
    table.add_row("entropy of the base frequencies (order 0)", f"{training.order0_entropy:.4f}")
    for order, bits in training.baselines.items():
        table.add_row(f"Markov model of order {order}", f"{bits:.4f}")
    table.add_row(f"StripedHyena 2 after {training.steps} steps", f"{training.held_out_bits:.4f}", style="bold green")
    console.print(table)
    console.print(f"generated after {len(result.prompt)} bases: {result.generated}", soft_wrap=True)
    difference = result.mutant.log_likelihood - result.reference.log_likelihood
    console.print(
        f"log-likelihood of {result.reference.scored_tokens + 1} held-out bases "
        f"{result.reference.log_likelihood:.3f}, with {result.mutation} {result.mutant.log_likelihood:.3f} "
        f"({difference:+.3f} nats)"
    )
    console.print("everything is in", str(result.output.resolve()), soft_wrap=True)
    for path, what in (
        (training.checkpoint, "the native checkpoint, for subquad serve, generate and score"),
        (result.output / "loss.png", "the loss curve"),
        (result.track, "the per-base likelihood track"),
        (training.metrics, "the course of the training"),
        (training.summary, "the numbers above"),
    ):
        console.print(f"  {path.relative_to(result.output)}: {what}", soft_wrap=True, highlight=False)
